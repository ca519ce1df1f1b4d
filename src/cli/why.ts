import type { Command } from 'commander';

import type { Invoke } from './commands.ts';
import { showsColour } from './terminal.ts';

export function define(command: Command, invoke: Invoke): void {
  command.argument('<run|incident>', 'run id, profile name or incident id').action((reference: string) =>
    invoke(async (context) => {
      const explanation = await (await context.client()).why(reference);
      await context.answer({
        json: explanation,
        text: async () => {
          const { renderExplanation } = await import('../report/render.ts');
          return renderExplanation(explanation, { colour: showsColour(context.terminal) });
        },
      });
      return 0;
    }),
  );
}
