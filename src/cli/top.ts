import { InvalidArgumentError, type Command } from 'commander';
import { setTimeout as delay } from 'node:timers/promises';

import type { Client } from '../api/client.ts';
import type { IncidentSummary, RunView } from '../api/service.ts';
import { messageOf } from '../core/errors.ts';
import type { Invoke } from './commands.ts';
import type { Context } from './context.ts';
import { isTty, showsColour } from './terminal.ts';
import { renderTop } from './top-screen.ts';

const INTERVAL_MS = 1_000;
const DENIALS_KEPT_MAX = 50;
/** How far back the refused attempts of the first screen go. */
const DENIALS_SINCE_MS = 600_000;
const ENTER_SCREEN = '\u001b[?1049h\u001b[?25l';
const LEAVE_SCREEN = '\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const CLEAR_LINE = '\u001b[K';
const CLEAR_BELOW = '\u001b[J';
/** Where nobody says how big the screen is. */
const SIZE = { columns: 120, rows: 40 };
const ESCAPE = '\u001b';
const QUIT_KEYS = new Set(['q', 'Q', '\u0003', '\u0004', ESCAPE]);

export function define(command: Command, invoke: Invoke): void {
  command
    .option('-n, --interval <seconds>', 'time between two looks', parseInterval, INTERVAL_MS)
    .action((options: { readonly interval: number }) => invoke((context) => top(context, options.interval)));
}

type Shown = { runs: readonly RunView[]; incidents: readonly IncidentSummary[]; failure: string | null };

async function top(context: Context, intervalMs: number): Promise<number> {
  const client = await context.client();
  const { stdout } = context.terminal;
  const shown: Shown = { runs: [], incidents: [], failure: null };
  if (context.json || !isTty(stdout)) {
    await look(client, shown);
    if (shown.failure !== null) throw new Error(shown.failure);
    const screen = { ...size(context), rows: Number.MAX_SAFE_INTEGER };
    const text = (): string => linesOf(context, shown, { denials: [], ...screen }).join('\n');
    await context.answer({ json: { runs: shown.runs, incidents: shown.incidents }, text });
    return 0;
  }
  return await onScreen(context, { client, shown, intervalMs });
}

async function onScreen(
  context: Context,
  options: { readonly client: Client; readonly shown: Shown; readonly intervalMs: number },
): Promise<number> {
  const { terminal } = context;
  const { stdin, stdout } = terminal;
  const { client, shown, intervalMs } = options;
  const quit = new AbortController();
  const denials: string[] = [];
  const draw = (): void => {
    const lines = linesOf(context, shown, { denials, ...size(context) });
    stdout.write(`${HOME}${lines.map((line) => `${line}${CLEAR_LINE}`).join('\r\n')}${CLEAR_BELOW}`);
  };
  const onKey = (keys: Buffer): void => {
    const text = keys.toString('latin1');
    // Two keys may come as one piece; those that begin with an escape are one key.
    const pressed = text.startsWith(ESCAPE) ? [text] : text.split('');
    if (pressed.some((key) => QUIT_KEYS.has(key))) quit.abort();
  };
  const withdraw = terminal.onSignal(() => quit.abort());
  stdout.write(ENTER_SCREEN);
  stdout.on('resize', draw);
  if (isTty(stdin)) {
    stdin.setRawMode?.(true);
    stdin.on('data', onKey).resume();
  }
  try {
    void followDenials(client, { denials, sinceMs: terminal.nowMs() - DENIALS_SINCE_MS, signal: quit.signal });
    while (!quit.signal.aborted) {
      await look(client, shown);
      draw();
      await delay(intervalMs, undefined, { signal: quit.signal }).catch(() => undefined);
    }
    return 0;
  } finally {
    quit.abort();
    withdraw();
    stdout.off('resize', draw);
    if (isTty(stdin)) {
      stdin.off('data', onKey).pause();
      stdin.setRawMode?.(false);
    }
    stdout.write(LEAVE_SCREEN);
  }
}

/** A daemon that is being restarted is looked for again: somebody who watches wants to see it come back. */
async function look(client: Client, shown: Shown): Promise<void> {
  try {
    const [runs, incidents] = await Promise.all([client.list({ all: false }), client.incidents()]);
    Object.assign(shown, { runs, incidents, failure: null });
  } catch (error) {
    Object.assign(shown, { runs: [], failure: messageOf(error) });
  }
}

async function followDenials(
  client: Client,
  options: { readonly denials: string[]; readonly sinceMs: number; readonly signal: AbortSignal },
): Promise<void> {
  const { renderEvent } = await import('../report/events.ts');
  const { denials, signal } = options;
  let { sinceMs } = options;
  while (!signal.aborted) {
    try {
      for await (const record of client.events({ follow: true, sinceMs, run: null }, signal)) {
        sinceMs = Date.parse(record.at) + 1;
        if (record.kind !== 'egress.denied') continue;
        denials.push(renderEvent(record));
        if (denials.length > DENIALS_KEPT_MAX) denials.shift();
      }
    } catch {
      // The next look says why the daemon is not there.
    }
    await delay(INTERVAL_MS, undefined, { signal }).catch(() => undefined);
  }
}

type Screen = { readonly denials: readonly string[]; readonly columns: number; readonly rows: number };

function linesOf(context: Context, shown: Shown, screen: Screen): readonly string[] {
  const { terminal } = context;
  const { runs, incidents, failure } = shown;
  const locale = terminal.env['LC_ALL'] ?? terminal.env['LC_CTYPE'] ?? terminal.env['LANG'] ?? '';
  const unicode = /utf-?8/i.test(locale);
  return renderTop({
    runs,
    incidents,
    failure,
    ...screen,
    nowMs: terminal.nowMs(),
    colour: showsColour(terminal),
    unicode,
  });
}

function size({ terminal: { stdout } }: Context): { readonly columns: number; readonly rows: number } {
  return isTty(stdout) ? { columns: stdout.columns ?? SIZE.columns, rows: stdout.rows ?? SIZE.rows } : SIZE;
}

function parseInterval(text: string): number {
  const seconds = Number(text);
  if (!/^\d+(?:\.\d+)?$/.test(text) || seconds < 0.2 || seconds > 3_600)
    throw new InvalidArgumentError('It must be a number of seconds from 0.2 to 3600.');
  return seconds * 1000;
}
