import type { Command } from 'commander';

import type { Invoke } from './commands.ts';

export function define(command: Command, invoke: Invoke): void {
  command.action(() =>
    invoke(async (context) => {
      const incidents = await (await context.client()).incidents();
      await context.answer({
        json: incidents,
        text: async () => {
          const { renderIncidentList } = await import('../report/render.ts');
          return renderIncidentList(incidents);
        },
      });
      return 0;
    }),
  );
}
