import type { Command } from 'commander';

import type { Invoke } from './commands.ts';
import { showsColour } from './terminal.ts';

export function define(command: Command, invoke: Invoke): void {
  command.argument('<id>', 'incident id').action((id: string) =>
    invoke(async (context) => {
      const incident = await (await context.client()).incident(id);
      await context.answer({
        json: incident,
        text: async () => {
          const { renderIncident } = await import('../report/render.ts');
          return renderIncident(incident, { colour: showsColour(context.terminal) });
        },
      });
      return 0;
    }),
  );
}
