import type { Command } from 'commander';

import { printable } from '../core/text.ts';
import type { Invoke } from './commands.ts';

export function define(command: Command, invoke: Invoke): void {
  command
    .argument('<id>', 'id of the request, or the beginning of one')
    .option('--reason <text>', 'why, for the record')
    .action((id: string, options: { readonly reason?: string }) =>
      invoke(async (context) => {
        const approval = await (await context.client()).deny(id, { reason: options.reason ?? null });
        await context.answer({
          json: approval,
          text: () => `${approval.profile} may not reach ${printable(approval.wants)}`,
        });
        return 0;
      }),
    );
}
