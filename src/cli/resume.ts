import type { Command } from 'commander';

import type { Invoke } from './commands.ts';

export function define(command: Command, invoke: Invoke): void {
  command.argument('<run>', 'run id, the beginning of one, or a profile name').action((run: string) =>
    invoke(async (context) => {
      await (await context.client()).resume(run);
      await context.answer({ json: { run, asked: 'resume' }, text: () => `${run} was told to go on` });
      return 0;
    }),
  );
}
