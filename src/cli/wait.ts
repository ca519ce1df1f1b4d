import type { Command } from 'commander';

import type { Invoke } from './commands.ts';
import { exitCodeOf } from './exit-code.ts';
import { describeOutcome } from './outcome.ts';

export function define(command: Command, invoke: Invoke): void {
  command.argument('<run>', 'run id, the beginning of one, or a profile name').action((run: string) =>
    invoke(async (context) => {
      const outcome = await (await context.client()).wait(run);
      await context.answer({ json: outcome, text: () => describeOutcome(outcome) });
      return exitCodeOf(outcome);
    }),
  );
}
