import { mkdtemp, rm } from 'node:fs/promises';
import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Webhook as Verifier } from 'standardwebhooks';
import type { Alert, AlertDelivered, AlertFailed, AlertOutbox } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { OutboxOptions } from './outbox.ts';
import { openOutbox } from './outbox.ts';
import type { Timers } from './timers.ts';

/** What the tests of this folder share: a real receiver on loopback, and a clock that only the test moves. */
export const KEY = `whsec_${Buffer.alloc(32, 'k').toString('base64')}`;
export const OTHER_KEY = `whsec_${Buffer.alloc(32, 'o').toString('base64')}`;

/** An alert of `rome` for the sink `ops`. */
export function alertOf(id: string, more: Partial<Alert> = {}): Alert {
  const type = more.type ?? 'incident.opened';
  return {
    id,
    sink: 'ops',
    type,
    subject: 'rome',
    severity: 'high',
    key: id,
    summary: `rome tried to reach 203.0.113.10:22/tcp and was killed.`,
    facts: [{ name: 'rule', value: 'budget.denials' }],
    body: JSON.stringify({ type, timestamp: '2026-10-05T08:00:00.000Z', data: { id } }),
    ...more,
  };
}

/** What an agent, or somebody who names things for one, might put into an alert. */
export const HOSTILE: readonly (readonly [title: string, text: string])[] = [
  ['a call of the whole channel', 'rome <!channel> <!here> <@U123> and was killed'],
  ['a link in disguise', '<https://evil.example/|ringfence release rome>'],
  ['entities that are there already', '&lt;!channel&gt; & &amp;'],
  ['formatting', '*bold* _it_ ~no~ `code` ```block``` :fire:'],
  ['terminal escapes', '\u001b[2J\u001b]0;owned\u0007\u009b31m'],
  ['lines of its own', 'first\nMESSAGE=second\r\n\u2028third\u0000'],
  ['reversed text', '\u202egnp.exe\u2066'],
  ['half a character', '\ud83d and \udc00'],
  ['JSON', '"}],"routing_key":"x'],
  ['a megabyte', 'A<'.repeat(512 * 1024)],
  ['a megabyte of wide characters', '\u{1f600}'.repeat(256 * 1024)],
];

/** The same alert with a hostile text wherever one can be. */
export function hostileAlert(text: string): Alert {
  const facts = Array.from({ length: 40 }, () => ({ name: text, value: text }));
  return alertOf('i0123456789ab', { summary: text, facts });
}

export type Received = {
  readonly id: string;
  readonly body: string;
  readonly headers: IncomingMessage['headers'];
};

export type Receiver = {
  readonly url: string;
  readonly port: number;
  readonly received: readonly Received[];
  /** Throws when no key of the receiver fits: the independent implementation of Standard Webhooks decides. */
  verify(request: Received, key?: string): unknown;
  close(): Promise<void>;
};

/** `answer` gets the number of the request, from 1; it must end the response, or leave it open on purpose. */
export async function startReceiver(
  answer: (response: ServerResponse, count: number) => void,
  options: { readonly port?: number } = {},
): Promise<Receiver> {
  const received: Received[] = [];
  const listener: RequestListener = (request, response) => {
    const chunks: Buffer[] = [];
    request.on('error', () => {});
    response.on('error', () => {});
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString('utf8');
      received.push({ id: String(request.headers['webhook-id']), body, headers: request.headers });
      answer(response, received.length);
    });
  };
  const server: Server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(options.port ?? 0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/hook`,
    port,
    received,
    verify: (request, key = KEY) =>
      new Verifier(key).verify(request.body, request.headers as Readonly<Record<string, string>>),
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export class ManualClock implements Timers {
  nowMs = Date.now();
  readonly #pending = new Set<{ readonly atMs: number; readonly call: () => void }>();

  after(delayMs: number, call: () => void): () => void {
    const entry = { atMs: this.nowMs + delayMs, call };
    this.#pending.add(entry);
    return () => this.#pending.delete(entry);
  }

  /** Moves the clock to the next timer and calls it; false when there is none within the time. */
  advance(withinMs: number): boolean {
    const [next] = [...this.#pending].toSorted((left, right) => left.atMs - right.atMs);
    if (next === undefined || next.atMs > this.nowMs + withinMs) return false;
    this.#pending.delete(next);
    this.nowMs = Math.max(this.nowMs, next.atMs);
    next.call();
    return true;
  }
}

export function recordingLog(): Log & { readonly lines: { readonly level: string; readonly message: string }[] } {
  const lines: { level: string; message: string }[] = [];
  const at =
    (level: string) =>
    (_facts: Readonly<Record<string, unknown>>, message: string): void => {
      lines.push({ level, message });
    };
  return { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

export async function withDirectory<Result>(work: (directory: string) => Promise<Result>): Promise<Result> {
  const directory = await mkdtemp(join(tmpdir(), 'ringfence-alert-'));
  try {
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

export type Opened = {
  readonly outbox: AlertOutbox;
  readonly clock: ManualClock;
  readonly delivered: AlertDelivered[];
  readonly failed: AlertFailed[];
  readonly log: ReturnType<typeof recordingLog>;
};

/** An outbox with the webhook `ops` at `url`, or the sinks that `more` brings, and a clock that stands still. */
export async function open(directory: string, url: string, more: Partial<OutboxOptions> = {}): Promise<Opened> {
  const clock = new ManualClock();
  const delivered: AlertDelivered[] = [];
  const failed: AlertFailed[] = [];
  const log = recordingLog();
  const outbox = await openOutbox({
    directory,
    sinks: { ops: { type: 'webhook', url, keys: [KEY], allowPrivate: true } },
    log,
    onDelivered: (each) => delivered.push(each),
    onFailed: (each) => failed.push(each),
    nowMs: () => clock.nowMs,
    random: () => 1,
    timers: clock,
    ...more,
  });
  return { outbox, clock, delivered, failed, log };
}
