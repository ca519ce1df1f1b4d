import type { Refusal } from './hello.ts';

/** Finds the end of a message's body while it passes, without keeping it (RFC 9112, 6 and 7). */
export type Framing =
  | { readonly kind: 'none' }
  | { readonly kind: 'length'; readonly bytes: number }
  | { readonly kind: 'chunked' };

export type BodyResult =
  /** `forward` is what has been judged; `taken` is how much of the chunk belongs to the body. */
  { readonly kind: 'more' | 'done'; readonly forward: readonly Buffer[]; readonly taken: number } | Refusal;

export type BodyReader = {
  /** Feeds what came next; `done` ends it. A body of kind `none` has no reader. */
  feed(chunk: Buffer): BodyResult;
};

const LF = 0x0a;
const CR = 0x0d;
/** Enough for 2^52 bytes in one chunk; longer numbers overflow somewhere. */
const SIZE_LINE_BYTES_MAX = 13 + 2;
const SIZE = /^[0-9A-Fa-f]+$/;
const TRAILER_BYTES_MAX = 8 * 1024;
const TRAILER = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*$/;
/** What a server that merges trailers into the head must never find there. */
const TRAILERS_REFUSED = new Set([
  'authorization',
  'connection',
  'content-encoding',
  'content-length',
  'content-type',
  'host',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

export function createBodyReader(framing: Exclude<Framing, { kind: 'none' }>): BodyReader {
  return framing.kind === 'length' ? lengthReader(framing.bytes) : chunkedReader();
}

function lengthReader(bytes: number): BodyReader {
  let left = bytes;
  return {
    feed: (chunk) => {
      const part = chunk.subarray(0, left);
      left -= part.length;
      return { kind: left === 0 ? 'done' : 'more', forward: [part], taken: part.length };
    },
  };
}

type ChunkedState = 'size' | 'data' | 'data-end' | 'trailer';

const TOO_LONG: Readonly<Record<ChunkedState, string>> = {
  size: 'the size of a chunk is no number',
  data: 'a chunk is longer than its size',
  'data-end': 'a chunk is longer than its size',
  trailer: 'trailers are too long',
};

/**
 * Lines of the framing are forwarded only when they are whole and judged. Extensions of chunks are refused: nobody
 * sends them, and readers disagree on where they end.
 */
function chunkedReader(): BodyReader {
  let state: ChunkedState = 'size';
  let left = 0;
  let trailerBytes = 0;
  let partial: Buffer = Buffer.alloc(0);

  /** The text of a line, null while it is not whole, or why it is none. */
  function takeLine(chunk: Buffer, at: number, max: number): { line: Buffer | null; next: number } | string {
    const end = chunk.indexOf(LF, at);
    const next = end < 0 ? chunk.length : end + 1;
    const line = Buffer.concat([partial, chunk.subarray(at, next)]);
    if (line.length > max) return TOO_LONG[state];
    if (end < 0) {
      partial = line;
      return { line: null, next };
    }
    partial = Buffer.alloc(0);
    if (line.length < 2 || line[line.length - 2] !== CR) return 'a line ends with a bare LF';
    return { line, next };
  }

  /** Moves on over one whole line; a string says what is wrong with it, true that the body is over. */
  function judge(line: Buffer): string | boolean {
    const text = line.toString('latin1', 0, line.length - 2);
    if (state === 'data-end') {
      state = 'size';
      return text === '' ? false : 'a chunk is longer than its size';
    }
    if (state === 'size') {
      if (!SIZE.test(text)) return 'the size of a chunk is no number';
      left = Number.parseInt(text, 16);
      state = left === 0 ? 'trailer' : 'data';
      return false;
    }
    if (text === '') return true;
    trailerBytes += line.length;
    const name = TRAILER.exec(text)?.[1]?.toLowerCase();
    return name === undefined || TRAILERS_REFUSED.has(name) ? 'a trailer that may not be one' : false;
  }

  return {
    feed: (chunk) => {
      const forward: Buffer[] = [];
      let at = 0;
      while (at < chunk.length) {
        if (state === 'data') {
          const part = chunk.subarray(at, at + left);
          forward.push(part);
          left -= part.length;
          at += part.length;
          if (left === 0) state = 'data-end';
          continue;
        }
        const max = state === 'trailer' ? TRAILER_BYTES_MAX - trailerBytes : state === 'size' ? SIZE_LINE_BYTES_MAX : 2;
        const taken = takeLine(chunk, at, max);
        if (typeof taken === 'string') return malformed(taken);
        at = taken.next;
        if (taken.line === null) break;
        const judged = judge(taken.line);
        if (typeof judged === 'string') return malformed(judged);
        forward.push(taken.line);
        if (judged) return { kind: 'done', forward, taken: at };
      }
      return { kind: 'more', forward, taken: at };
    },
  };
}

function malformed(why: string): Refusal {
  return { kind: 'refuse', rule: 'check.request', explanation: `the body of the request is malformed: ${why}` };
}
