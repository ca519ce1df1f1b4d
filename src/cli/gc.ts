import type { Command } from 'commander';

import { printable } from '../core/text.ts';
import type { Invoke } from './commands.ts';

export function define(command: Command, invoke: Invoke): void {
  command.action(() =>
    invoke(async (context) => {
      const report = await (await context.client()).gc();
      await context.answer({
        json: report,
        text: () =>
          report.removed.length === 0
            ? 'nothing to remove'
            : report.removed.map((one) => `removed ${printable(one)}`).join('\n'),
      });
      return 0;
    }),
  );
}
