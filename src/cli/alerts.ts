import type { Command } from 'commander';

import type { OutboxListing, SinkState } from '../core/ports/alert.ts';
import { shortAge } from './amounts.ts';
import type { Invoke } from './commands.ts';
import { renderTable } from './table.ts';

const EXIT_NOT_DELIVERED = 1;

export function define(command: Command, invoke: Invoke): void {
  command
    .command('ls')
    .summary('list sinks, what waits and what was given up')
    .description('Lists the sinks, what waits for them and what was given up.')
    .action(() =>
      invoke(async (context) => {
        const listing = await (await context.client()).alerts();
        await context.answer({ json: listing, text: () => renderListing(listing, context.terminal.nowMs()) });
        return 0;
      }),
    );
  command
    .command('test')
    .summary('send a test to one sink')
    .description('Sends a test to one sink the way an alert goes, and says what came back. Exit code 1: not delivered.')
    .argument('<sink>', 'the name of a sink in the configuration of the daemon')
    .action((sink: string) =>
      invoke(async (context) => {
        const result = await (await context.client()).testAlert(sink);
        const said = result.ok ? 'delivered' : 'not delivered';
        const text = (): string => `${result.sink} (${result.kind}): ${said} in ${result.tookMs} ms: ${result.message}`;
        await context.answer({ json: result, text });
        return result.ok ? 0 : EXIT_NOT_DELIVERED;
      }),
    );
  command
    .command('retry')
    .summary('try again at once')
    .description('Tries again at once: everything that waits, one alert by its id, or what was given up.')
    .argument('[id]', 'one alert, in whatever sink it is')
    .option('--dead', 'what was given up')
    .action((id: string | undefined, options: { readonly dead?: boolean }) =>
      invoke(async (context) => {
        const kind = options.dead === true ? ('dead' as const) : ('waiting' as const);
        const client = await context.client();
        const answer = await client.retryAlerts(id === undefined ? { kind } : { kind: 'id', id });
        const text = (): string => `${answer.retried} ${answer.retried === 1 ? 'alert is' : 'alerts are'} tried again`;
        await context.answer({ json: answer, text });
        return 0;
      }),
    );
}

function renderListing({ sinks, waiting, dead }: OutboxListing, nowMs: number): string {
  const age = (at: string): string => shortAge(nowMs - Date.parse(at));
  const sections = [
    sinks.length === 0 ? 'the configuration has no sinks' : renderSinks(sinks, age),
    ...(waiting.length === 0
      ? []
      : [
          renderTable(
            [
              { head: 'WAITING' },
              { head: 'SINK' },
              { head: 'TYPE' },
              { head: 'AGENT' },
              { head: 'AGE' },
              { head: 'WHY' },
            ],
            waiting.map((alert) => [
              alert.id,
              alert.sink,
              alert.type,
              alert.subject,
              age(alert.queuedAt),
              alert.lastError ?? (alert.folded ? 'goes with a digest' : ''),
            ]),
          ),
        ]),
    ...(dead.length === 0
      ? []
      : [
          renderTable(
            [
              { head: 'GIVEN UP' },
              { head: 'SINK' },
              { head: 'TYPE' },
              { head: 'AGENT' },
              { head: 'AGE' },
              { head: 'WHY' },
            ],
            dead.map((alert) => [alert.id, alert.sink, alert.type, alert.subject, age(alert.queuedAt), alert.why]),
          ),
        ]),
  ];
  return sections.join('\n\n');
}

function renderSinks(sinks: readonly SinkState[], age: (at: string) => string): string {
  return renderTable(
    [{ head: 'SINK' }, { head: 'TYPE' }, { head: 'WAITING', align: 'right' }, { head: 'LAST' }, { head: 'STATE' }],
    sinks.map((sink) => [
      sink.name,
      sink.kind ?? 'not configured',
      String(sink.waiting),
      sink.lastDeliveredAt === null ? 'never' : `${age(sink.lastDeliveredAt)} ago`,
      stateOf(sink),
    ]),
  );
}

function stateOf({ disabled, lastError, pausedForMs }: SinkState): string {
  if (disabled) return 'disabled by its receiver (410)';
  if (pausedForMs !== null && pausedForMs > 0) return `asked to wait ${shortAge(pausedForMs)}`;
  return lastError === null ? 'ok' : `failed: ${lastError.message}`;
}
