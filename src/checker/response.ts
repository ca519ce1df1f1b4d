import { createBodyReader } from './body.ts';
import type { BodyReader, Framing } from './body.ts';

/**
 * Follows the responses of an approved host while they pass, to know two things: whether an upgrade was agreed to,
 * and whether the client is between responses, so that a refusal of ours would be read as one. Nothing is changed or
 * refused; what cannot be followed makes the rest `opaque`, in which no upgrade happens and no refusal is written.
 */
export type ResponseTracker = {
  /** A request is on its way to the host. */
  expect(request: ExpectedResponse): void;
  feed(chunk: Buffer): void;
  /** Requests without a whole response. */
  outstanding(): number;
  /** Part of a response has passed, and its end has not. */
  midway(): boolean;
  state(): 'following' | 'switched' | 'opaque';
};

type ExpectedResponse = { readonly method: string; readonly upgrade: boolean };

const HEAD_BYTES_MAX = 64 * 1024;
const LF = 0x0a;
const STATUS_LINE = /^HTTP\/1\.[01] ([1-5][0-9]{2})(?: |$)/;
const SWITCHING = 101;
const NO_CONTENT = 204;
const NOT_MODIFIED = 304;

export function createResponseTracker(): ResponseTracker {
  const expected: ExpectedResponse[] = [];
  let state: 'following' | 'switched' | 'opaque' = 'following';
  let lines: string[] = [];
  let partial: Buffer = Buffer.alloc(0);
  let headBytes = 0;
  let body: BodyReader | null = null;

  /** The head is whole: what follows it? */
  function judgeHead(): void {
    const head = lines;
    lines = [];
    headBytes = 0;
    const [request] = expected;
    const status = Number(STATUS_LINE.exec(head[0] ?? '')?.[1] ?? 0);
    if (status === 0 || request === undefined) {
      state = 'opaque';
      return;
    }
    if (status === SWITCHING) {
      state = request.upgrade ? 'switched' : 'opaque';
      if (state === 'switched') expected.shift();
      return;
    }
    if (status < 200) return;
    const framing =
      request.method === 'HEAD' || status === NO_CONTENT || status === NOT_MODIFIED ? NONE : framingOf(head);
    if (framing === null) {
      state = 'opaque';
      return;
    }
    if (framing.kind === 'none') expected.shift();
    else body = createBodyReader(framing);
  }

  function feedHead(chunk: Buffer, at: number): number {
    const end = chunk.indexOf(LF, at);
    const next = end < 0 ? chunk.length : end + 1;
    headBytes += next - at;
    if (headBytes > HEAD_BYTES_MAX) {
      state = 'opaque';
      return next;
    }
    const line = Buffer.concat([partial, chunk.subarray(at, next)]);
    partial = end < 0 ? line : Buffer.alloc(0);
    if (end < 0) return next;
    const text = line.toString('latin1').replace(/\r?\n$/, '');
    if (text === '') judgeHead();
    else lines.push(text);
    return next;
  }

  return {
    expect: (request) => {
      if (state === 'following') expected.push(request);
    },
    feed: (chunk) => {
      let at = 0;
      while (at < chunk.length && state === 'following') {
        if (body === null) {
          at = feedHead(chunk, at);
          continue;
        }
        const result = body.feed(chunk.subarray(at));
        if (result.kind === 'refuse') {
          state = 'opaque';
          return;
        }
        at += result.taken;
        if (result.kind === 'done') {
          body = null;
          expected.shift();
        }
      }
    },
    outstanding: () => expected.length,
    midway: () => headBytes > 0 || body !== null,
    state: () => state,
  };
}

const NONE: Framing = { kind: 'none' };

/** null: the response ends with its connection, or says two things. */
function framingOf(head: readonly string[]): Framing | null {
  const valuesOf = (name: string): string[] =>
    head
      .slice(1)
      .filter((line) => line.toLowerCase().startsWith(`${name}:`))
      .map((line) =>
        line
          .slice(name.length + 1)
          .trim()
          .toLowerCase(),
      );
  const encodings = valuesOf('transfer-encoding');
  const lengths = new Set(valuesOf('content-length'));
  if (encodings.length > 0) return encodings.length === 1 && encodings[0] === 'chunked' ? { kind: 'chunked' } : null;
  const [length, ...more] = lengths;
  if (length === undefined || more.length > 0 || !/^[0-9]{1,15}$/.test(length)) return null;
  return Number(length) === 0 ? NONE : { kind: 'length', bytes: Number(length) };
}
