import { InvalidArgumentError, type Command } from 'commander';

import { writeSlowly } from '../api/stream.ts';
import { parseDuration } from '../core/units.ts';
import type { Invoke } from './commands.ts';

type Options = { readonly follow?: boolean; readonly since?: Since; readonly run?: string };
type Since = { readonly kind: 'ago'; readonly ms: number } | { readonly kind: 'at'; readonly ms: number };

export function define(command: Command, invoke: Invoke): void {
  command
    .option('-f, --follow', 'go on with what happens from now')
    .option('--since <time>', 'only since then: 10m, 2h, or 2026-03-01T12:00:00Z', parseSince)
    .option('--run <run>', 'only of this run')
    .action((options: Options) =>
      invoke(async (context) => {
        const { terminal, json } = context;
        const client = await context.client();
        const { renderEvent } = await import('../report/events.ts');
        const sinceMs =
          options.since === undefined
            ? null
            : options.since.kind === 'at'
              ? options.since.ms
              : Math.max(0, terminal.nowMs() - options.since.ms);
        const request = { follow: options.follow === true, sinceMs, run: options.run ?? null };
        for await (const record of client.events(request)) {
          if (json) await context.answerLine(record);
          else await writeSlowly(terminal.stdout, `${renderEvent(record)}\n`);
        }
        return 0;
      }),
    );
}

function parseSince(text: string): Since {
  const duration = parseDuration(text);
  if (duration.ok) return { kind: 'ago', ms: duration.value };
  const at = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isFinite(at) || at < 0) throw new InvalidArgumentError('It must be a time such as 10m, or a date.');
  return { kind: 'at', ms: at };
}
