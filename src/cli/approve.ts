import { InvalidArgumentError, type Command } from 'commander';

import { printable } from '../core/text.ts';
import { formatDuration, parseDuration } from '../core/units.ts';
import type { Invoke } from './commands.ts';

const SECOND_MS = 1_000;
const DAYS_MAX = 30;

export function define(command: Command, invoke: Invoke): void {
  command
    .argument('<id>', 'id of the request, or the beginning of one')
    .option('--for <time>', 'how long it stays open: 10m, 2h; else as the daemon is configured', parseLifetime)
    .action((id: string, options: { readonly for?: number }) =>
      invoke(async (context) => {
        const approval = await (await context.client()).approve(id, { forSeconds: options.for ?? null });
        const time = approval.forMs === null ? '' : ` for ${formatDuration(approval.forMs)}`;
        await context.answer({
          json: approval,
          text: () => `${approval.profile} may reach ${printable(approval.wants)}${time}`,
        });
        return 0;
      }),
    );
}

function parseLifetime(text: string): number {
  const parsed = parseDuration(text);
  if (!parsed.ok) throw new InvalidArgumentError(`It ${parsed.rule}.`);
  const seconds = parsed.value / SECOND_MS;
  if (!Number.isInteger(seconds) || seconds < 1 || seconds > DAYS_MAX * 86_400)
    throw new InvalidArgumentError(`It must be whole seconds, from 1s to ${DAYS_MAX}d.`);
  return seconds;
}
