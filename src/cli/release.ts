import type { Command } from 'commander';

import type { Invoke } from './commands.ts';

export function define(command: Command, invoke: Invoke): void {
  command.argument('<profile>', 'name of the profile').action((profile: string) =>
    invoke(async (context) => {
      await (await context.client()).release(profile);
      await context.answer({ json: { profile, quarantined: false }, text: () => `${profile} may run again` });
      return 0;
    }),
  );
}
