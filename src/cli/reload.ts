import type { Command } from 'commander';

import type { ReloadReport } from '../api/service.ts';
import { printable } from '../core/text.ts';
import { describeChange } from '../profile/diff.ts';
import type { Invoke } from './commands.ts';
import { readProfile } from './launch-request.ts';

const CHANGE_CHARS_MAX = 600;

export function define(command: Command, invoke: Invoke): void {
  command.argument('<profile>', 'profile file').action((file: string) =>
    invoke(async (context) => {
      const request = await readProfile({ file, cwd: context.terminal.cwd, command: 'reload' });
      const report = await (await context.client()).reload(request);
      await context.answer({ json: report, text: () => renderReload(report) });
      return 0;
    }),
  );
}

function renderReload({ runs, profile }: ReloadReport): string {
  return runs
    .flatMap(({ runId, changes }) =>
      changes.length === 0
        ? [`${runId} of ${profile}: nothing changes`]
        : [
            `${runId} of ${profile} is held to the new profile:`,
            ...changes.map((each) => `  ${printable(describeChange(each), CHANGE_CHARS_MAX)}`),
          ],
    )
    .join('\n');
}
