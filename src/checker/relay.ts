import type { Socket } from 'node:net';
import { assertNever } from '../core/assert.ts';
import { createBodyReader } from './body.ts';
import type { BodyReader } from './body.ts';
import { closeWith, guarded, refuseHttp } from './connection.ts';
import type { Connection } from './connection.ts';
import type { Refusal } from './hello.ts';
import { createHeadReader } from './request.ts';
import type { HeadReader, RequestHead } from './request.ts';
import { createResponseTracker } from './response.ts';
import { boundIdle } from './splice.ts';

/**
 * An HTTP/1 connection whose first request has been allowed. Every later request is read as strictly and must show the
 * same name; a refusal of one is said between two responses, or the connection is closed.
 */
export const HEAD_MS = 10_000;
/** How long responses on their way may take before a refusal of a later request can be said; then it is closed. */
const ANSWERS_MS = 10_000;
/** Requests sent ahead of their responses; more have to wait. */
const PIPELINED_MAX = 32;

export const SLOW: Omit<Refusal, 'kind'> = {
  rule: 'check.slow',
  explanation: `the head of the request was not complete within ${HEAD_MS / 1000} s`,
};

export function portRefusal(head: RequestHead, connection: Connection): Refusal | null {
  const { port } = connection.destination;
  if (head.port === null || head.port === port) return null;
  const explanation = `the Host shows port ${head.port} on a connection to port ${port}`;
  return { kind: 'refuse', rule: 'check.name', explanation };
}

type Relay = {
  readonly connection: Connection;
  readonly upstream: Socket;
  readonly first: RequestHead;
  /** What came behind the first head already. */
  readonly rest: Buffer;
};

/** What the next byte of the client is. In `held` nothing is read on: an upgrade or a full pipeline waits for responses. */
type Reading =
  | { readonly kind: 'head'; readonly reader: HeadReader }
  | { readonly kind: 'body'; readonly reader: BodyReader }
  | { readonly kind: 'held' }
  | { readonly kind: 'tunnel' }
  | { readonly kind: 'over' };

export function relay({ connection, upstream, first, rest }: Relay): void {
  const { client } = connection;
  const tracker = createResponseTracker();
  let reading: Reading = { kind: 'held' };
  let waiting: Buffer = Buffer.alloc(0);
  let clientEnded = client.readableEnded;
  let upgrading = false;
  let headTimer: NodeJS.Timeout | null = null;
  let refusal: { readonly say: () => void; readonly timer: NodeJS.Timeout } | null = null;

  const stopHeadTimer = (): void => {
    if (headTimer !== null) clearTimeout(headTimer);
    headTimer = null;
  };

  function send(bytes: Buffer): void {
    if (bytes.length > 0 && !upstream.write(bytes)) client.pause();
  }

  /** The request goes upstream; what follows it is its body, the next request, or nothing until the host has answered. */
  function begin(head: RequestHead): void {
    tracker.expect(head);
    send(head.bytes);
    upgrading = head.upgrade;
    if (head.upgrade) reading = { kind: 'held' };
    else if (head.framing.kind === 'none') reading = afterMessage();
    else reading = { kind: 'body', reader: createBodyReader(head.framing) };
  }

  function afterMessage(): Reading {
    if (tracker.state() === 'following' && tracker.outstanding() >= PIPELINED_MAX) return { kind: 'held' };
    return { kind: 'head', reader: createHeadReader() };
  }

  /** Refuses a later request: after the responses that are owed, so that the refusal is not read as part of one. */
  function refuse(
    refused: Refusal,
    options: { readonly owed: number; readonly destination?: string; readonly head?: boolean },
  ): void {
    const { destination, head = false } = options;
    connection.deny(refused.rule, refused.explanation, destination);
    reading = { kind: 'over' };
    stopHeadTimer();
    client.pause();
    const say = (): void => {
      if (tracker.state() === 'following' && (tracker.midway() || tracker.outstanding() > options.owed)) return;
      clearTimeout(timer);
      refusal = null;
      detach();
      if (tracker.state() !== 'following') return connection.close();
      connection.leave();
      refuseHttp(connection, {
        status: 403,
        ...refused,
        line: null,
        ...(destination === undefined ? {} : { destination }),
        head,
      });
    };
    const timer = setTimeout(connection.close, ANSWERS_MS);
    connection.signal.addEventListener('abort', () => clearTimeout(timer), { once: true });
    refusal = { say, timer };
    say();
  }

  /** One piece of what the client sent; returns how much of it was taken, which is less than all only when held. */
  function read(chunk: Buffer): number {
    switch (reading.kind) {
      case 'tunnel':
        send(chunk);
        return chunk.length;
      case 'over':
        return chunk.length;
      case 'held':
        return 0;
      case 'body': {
        const result = reading.reader.feed(chunk);
        if (result.kind === 'refuse') {
          // The response to this very request is owed to nobody any more.
          refuse(result, { owed: 1 });
          return chunk.length;
        }
        for (const part of result.forward) send(part);
        if (result.kind === 'done') reading = afterMessage();
        return result.taken;
      }
      case 'head': {
        headTimer ??= setTimeout(
          guarded(connection, () => refuse({ kind: 'refuse', ...SLOW }, { owed: 0 })),
          HEAD_MS,
        );
        const result = reading.reader.feed(chunk);
        if (result.kind === 'more') return chunk.length;
        stopHeadTimer();
        if (result.kind === 'refuse') {
          refuse(result, { owed: 0 });
          return chunk.length;
        }
        const { head, taken } = result;
        const wrong = head.name === first.name ? portRefusal(head, connection) : otherName(head.name, first.name);
        if (wrong === null) begin(head);
        else refuse(wrong, { owed: 0, destination: head.name, head: head.method === 'HEAD' });
        return taken;
      }
      default:
        return assertNever(reading);
    }
  }

  /** Reads on in what is there until all of it is taken or has to wait. */
  function drain(): void {
    // Size lines, data and heads of one segment go out as one.
    upstream.cork();
    while (waiting.length > 0) {
      const taken = read(waiting);
      if (taken === 0) break;
      waiting = waiting.subarray(taken);
    }
    upstream.uncork();
    if (waiting.length > 0 || reading.kind === 'held') client.pause();
    else if (!upstream.writableNeedDrain && reading.kind !== 'over') client.resume();
    if (clientEnded && waiting.length === 0) finish();
  }

  /** The client has nothing more to say. Half a head is a request that nobody makes. */
  function finish(): void {
    if (reading.kind === 'over') return;
    stopHeadTimer();
    reading = { kind: 'over' };
    upstream.end();
  }

  const onClientData = guarded(connection, (chunk: Buffer) => {
    waiting = waiting.length === 0 ? chunk : Buffer.concat([waiting, chunk]);
    drain();
  });
  const onClientEnd = guarded(connection, () => {
    clientEnded = true;
    drain();
  });
  const onUpstreamData = guarded(connection, (chunk: Buffer) => {
    tracker.feed(chunk);
    if (!client.write(chunk)) upstream.pause();
    if (refusal !== null) return refusal.say();
    if (reading.kind !== 'held') return;
    if (upgrading && tracker.state() === 'following' && tracker.outstanding() > 0) return;
    if (upgrading && tracker.state() === 'switched') reading = { kind: 'tunnel' };
    // What cannot be followed has agreed to nothing that could be known.
    else if (upgrading && tracker.state() === 'opaque') return connection.close();
    else reading = afterMessage();
    upgrading = false;
    drain();
  });
  const onUpstreamEnd = (): void => {
    reading = { kind: 'over' };
    stopHeadTimer();
    upstream.end();
    closeWith(connection, Buffer.alloc(0));
  };
  const onUpstreamDrain = guarded(connection, drain);
  const onClientDrain = (): void => void upstream.resume();

  function detach(): void {
    client.removeListener('data', onClientData);
    client.removeListener('end', onClientEnd);
    client.removeListener('drain', onClientDrain);
    upstream.removeListener('data', onUpstreamData);
    upstream.removeListener('end', onUpstreamEnd);
    upstream.removeListener('drain', onUpstreamDrain);
  }

  boundIdle(client, upstream);
  connection.signal.addEventListener('abort', stopHeadTimer, { once: true });
  client.on('data', onClientData);
  client.on('end', onClientEnd);
  client.on('drain', onClientDrain);
  upstream.on('data', onUpstreamData);
  upstream.on('end', onUpstreamEnd);
  upstream.on('drain', onUpstreamDrain);
  begin(first);
  waiting = rest;
  drain();
}

function otherName(shown: string, name: string): Refusal {
  const explanation = `a later request on a connection to "${name}" shows "${shown}"; each name needs a connection of its own`;
  return { kind: 'refuse', rule: 'check.name', explanation };
}
