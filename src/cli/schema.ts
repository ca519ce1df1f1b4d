import type { Command } from 'commander';

import type { Invoke } from './commands.ts';

export function define(command: Command, invoke: Invoke): void {
  command.action(() =>
    invoke(async (context) => {
      const { profileJsonSchema } = await import('../profile/schema.ts');
      const schema = profileJsonSchema();
      await context.answer({ json: schema, text: () => JSON.stringify(schema, null, 2) });
      return 0;
    }),
  );
}
