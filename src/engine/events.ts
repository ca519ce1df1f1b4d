import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import type { EngineEvent } from '../core/ports/engine.ts';
import { printable } from '../core/text.ts';
import type { EngineClient } from './client.ts';
import { objectOf, text } from './inspection.ts';
import { LineSplitter } from './stream.ts';

/**
 * The engine's events, for as long as somebody listens. The engine replays only its last 256 events and drops them for a
 * reader that is slow, so a gap can never be ruled out: after each reconnection, and when our own queue was full,
 * `reconnected` tells the caller to list what there is.
 *
 *   connect ─▶ read ─▶ (closed, bad line, silence of the socket) ─▶ wait 0.1–2 s ─▶ connect, `reconnected`
 */
const LINE_BYTES_MAX = 1024 * 1024;
const QUEUE_EVENTS_MAX = 4096;
const RETRY_MS_FIRST = 100;
const RETRY_MS_MAX = 2000;

/** What others do to a container, as the engine names it. `exec_create: sh -c …` is cut at the colon. */
const ACTIONS_TOUCHED = new Set([
  'exec_create',
  'restart',
  'pause',
  'unpause',
  'update',
  'rename',
  'extract-to-dir',
  'start',
]);

const ACTION_CHARS_MAX = 40;

/** `startedByUs` tells our own starts from those of others; each counts once. */
export async function* readEvents(
  client: EngineClient,
  options: { readonly signal: AbortSignal; readonly startedByUs: (containerId: string) => boolean },
): AsyncIterable<EngineEvent> {
  const { signal } = options;
  const queue = new EventQueue(signal);
  const reader = keepReading({ client, queue, ...options });
  try {
    yield* queue.drain();
  } finally {
    queue.close();
    await reader;
  }
}

async function keepReading(options: {
  readonly client: EngineClient;
  readonly queue: EventQueue;
  readonly signal: AbortSignal;
  readonly startedByUs: (containerId: string) => boolean;
}): Promise<void> {
  const { client, queue, startedByUs } = options;
  const signal = AbortSignal.any([options.signal, queue.closed]);
  const seen = { sinceNano: BigInt(Date.now()) * 1_000_000n, starts: new Set<string>() };
  let retryMs = RETRY_MS_FIRST;
  for (let attempt = 0; !signal.aborted; attempt += 1) {
    try {
      const source = await connect(client, { signal, sinceNano: seen.sinceNano });
      if (attempt > 0) queue.put({ kind: 'reconnected' });
      retryMs = RETRY_MS_FIRST;
      await readLines(source, (line) => {
        const event = eventIn(line, { seen, startedByUs });
        if (event !== null) queue.put(event);
      });
    } catch {
      // Whatever ended the connection, the cure is the same: connect again and have the caller list.
    }
    await delay(retryMs, null, { signal }).catch(() => null);
    retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
  }
}

async function connect(
  client: EngineClient,
  options: { readonly signal: AbortSignal; readonly sinceNano: bigint },
): Promise<Readable> {
  const seconds = options.sinceNano / 1_000_000_000n;
  const nanoseconds = String(options.sinceNano % 1_000_000_000n).padStart(9, '0');
  const connection = await client.open({
    method: 'GET',
    path: '/events',
    query: { since: `${seconds}.${nanoseconds}`, filters: JSON.stringify({ type: ['container', 'network'] }) },
    upgrade: false,
    signal: options.signal,
  });
  return connection.kind === 'response' ? connection.response : connection.socket;
}

async function readLines(source: Readable, take: (line: string) => void): Promise<void> {
  const splitter = new LineSplitter(LINE_BYTES_MAX);
  for await (const bytes of source as AsyncIterable<Uint8Array>) {
    for (const line of splitter.push(bytes)) if (line.trim() !== '') take(line);
  }
}

type Seen = { sinceNano: bigint; readonly starts: Set<string> };

function eventIn(
  line: string,
  options: { readonly seen: Seen; readonly startedByUs: (containerId: string) => boolean },
): EngineEvent | null {
  const { seen } = options;
  const root = objectOf(JSON.parse(line));
  // As text, because the number is greater than a double can hold exactly.
  const nano = BigInt(/"timeNano":(\d{1,19})/.exec(line)?.[1] ?? '0');
  if (nano !== 0n && nano <= seen.sinceNano) return null;
  if (nano !== 0n) seen.sinceNano = nano;
  const event = mapEvent(root);
  if (event?.kind === 'touched' && event.action === 'start') {
    if (options.startedByUs(event.containerId) && !seen.starts.has(event.containerId)) {
      seen.starts.add(event.containerId);
      return null;
    }
  }
  if (root['Type'] === 'container' && root['Action'] === 'destroy') seen.starts.delete(actorOf(root).id);
  return event;
}

function actorOf(root: Readonly<Record<string, unknown>>): { id: string; attributes: Record<string, string> } {
  const actor = objectOf(root['Actor']);
  const attributes = objectOf(actor['Attributes']);
  return {
    id: text(actor['ID']),
    attributes: Object.fromEntries(Object.entries(attributes).map(([key, value]) => [key, text(value)])),
  };
}

/** One line of the engine's feed as an event of ours, or null for what does not concern us. */
function mapEvent(root: Readonly<Record<string, unknown>>): EngineEvent | null {
  const { id, attributes } = actorOf(root);
  const action = text(root['Action']).split(':')[0] ?? '';
  if (root['Type'] === 'network') {
    const kind = action === 'connect' ? 'network-attached' : action === 'disconnect' ? 'network-detached' : null;
    if (kind === null) return null;
    return { kind, containerId: attributes['container'] ?? '', network: attributes['name'] ?? '' };
  }
  if (root['Type'] !== 'container') return null;
  if (action === 'die') {
    return { kind: 'died', containerId: id, exitCode: Number(attributes['exitCode'] ?? -1), labels: attributes };
  }
  if (action === 'oom') return { kind: 'oom', containerId: id };
  if (!ACTIONS_TOUCHED.has(action)) return null;
  return { kind: 'touched', containerId: id, action: printable(action, ACTION_CHARS_MAX) };
}

/** A bounded queue between the connection and the caller: a full one becomes a single `reconnected`. */
export class EventQueue {
  readonly #closing = new AbortController();
  #events: EngineEvent[] = [];
  #wake: () => void = () => undefined;

  constructor(signal: AbortSignal) {
    if (signal.aborted) this.close();
    else signal.addEventListener('abort', () => this.close(), { once: true, signal: this.#closing.signal });
  }

  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  put(event: EngineEvent): void {
    if (this.#events.length >= QUEUE_EVENTS_MAX) this.#events = [{ kind: 'reconnected' }];
    else this.#events.push(event);
    this.#wake();
  }

  close(): void {
    this.#closing.abort();
    this.#wake();
  }

  async *drain(): AsyncIterable<EngineEvent> {
    while (!this.closed.aborted) {
      const events = this.#events;
      this.#events = [];
      yield* events;
      if (this.#events.length > 0 || this.closed.aborted) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
  }
}
