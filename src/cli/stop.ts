import type { Command } from 'commander';

import type { Invoke } from './commands.ts';

export function define(command: Command, invoke: Invoke): void {
  command.argument('<run>', 'run id, the beginning of one, or a profile name').action((run: string) =>
    invoke(async (context) => {
      await (await context.client()).stop(run);
      await context.answer({
        json: { run, asked: 'stop' },
        text: () => `${run} was asked to stop; \`ringfence wait ${run}\` tells when it is over`,
      });
      return 0;
    }),
  );
}
