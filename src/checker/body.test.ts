import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createBodyReader } from './body.ts';
import type { Framing } from './body.ts';

/** What was forwarded, what is left over, and how it ended. */
function read(
  framing: Exclude<Framing, { kind: 'none' }>,
  chunks: readonly string[],
): { end: string; forwarded: string; rest: string } {
  const reader = createBodyReader(framing);
  let forwarded = '';
  for (const [index, chunk] of chunks.entries()) {
    const bytes = Buffer.from(chunk, 'latin1');
    const result = reader.feed(bytes);
    if (result.kind === 'refuse') return { end: result.explanation, forwarded, rest: '' };
    forwarded += Buffer.concat(result.forward).toString('latin1');
    if (result.kind === 'done') {
      return {
        end: 'done',
        forwarded,
        rest: bytes.toString('latin1', result.taken) + chunks.slice(index + 1).join(''),
      };
    }
  }
  return { end: 'more', forwarded, rest: '' };
}

const CHUNKED = { kind: 'chunked' } as const;
const MALFORMED = 'the body of the request is malformed: ';

describe('a body with a length', () => {
  test('ends where it says, however it is cut', () => {
    for (let cut = 0; cut <= 8; cut += 1) {
      const text = 'hello123';
      const chunks = [text.slice(0, cut), text.slice(cut)].filter((part) => part !== '');
      expect(read({ kind: 'length', bytes: 5 }, chunks)).toEqual({ end: 'done', forwarded: 'hello', rest: '123' });
    }
    expect(read({ kind: 'length', bytes: 9 }, ['hello'])).toEqual({ end: 'more', forwarded: 'hello', rest: '' });
  });
});

describe('a chunked body', () => {
  const body = '5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n';
  const trailed = '1\r\nx\r\n0\r\nX-Sum: abc\r\nX-More:\r\n\r\n';

  test.each([body, trailed, '0\r\n\r\n', '00000005\r\nhello\r\n0\r\n\r\n'])(
    'passes byte for byte, however it is cut: %j',
    (text) => {
      for (let cut = 1; cut < text.length; cut += 1) {
        const chunks = [text.slice(0, cut), `${text.slice(cut)}GET`];
        expect(read(CHUNKED, chunks)).toEqual({ end: 'done', forwarded: text, rest: 'GET' });
      }
      expect(read(CHUNKED, text.split(''))).toEqual({ end: 'done', forwarded: text, rest: '' });
    },
  );

  test.each([
    ['an extension', '5;a=b\r\nhello\r\n', 'the size of a chunk is no number'],
    ['a space behind the size', '5 \r\nhello\r\n', 'the size of a chunk is no number'],
    ['a hexadecimal prefix', '0x5\r\nhello\r\n', 'the size of a chunk is no number'],
    ['a sign', '+5\r\nhello\r\n', 'the size of a chunk is no number'],
    ['no size', '\r\nhello\r\n', 'the size of a chunk is no number'],
    ['a size beyond every number', '10000000000005\r\nhello\r\n', 'the size of a chunk is no number'],
    ['a bare LF behind the size', '5\nhello\r\n', 'a line ends with a bare LF'],
    ['a bare LF behind the data', '5\r\nhello\n0\r\n\r\n', 'a line ends with a bare LF'],
    ['more data than its size', '5\r\nhello!\r\n', 'a chunk is longer than its size'],
    ['a Host as trailer', '0\r\nHost: evil.test\r\n\r\n', 'a trailer that may not be one'],
    ['a length as trailer', '0\r\nContent-Length: 5\r\n\r\n', 'a trailer that may not be one'],
    ['a folded trailer', '0\r\nX: y\r\n z\r\n\r\n', 'a trailer that may not be one'],
    ['a bare LF in the trailers', '0\r\nX: y\n\r\n', 'a line ends with a bare LF'],
    ['endless trailers', `0\r\n${'X: y\r\n'.repeat(2_000)}\r\n`, 'trailers are too long'],
  ])('is refused with %s, before the wrong line has passed', (_, text, why) => {
    expect(read(CHUNKED, [text]).end).toBe(`${MALFORMED}${why}`);
    expect(read(CHUNKED, text.split('')).end).toBe(`${MALFORMED}${why}`);
    expect(read(CHUNKED, text.split('')).forwarded).not.toContain('evil');
  });

  test('of any chunks comes out as it went in', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ minLength: 1, maxLength: 40, unit: 'binary-ascii' })),
        fc.nat(7),
        (parts, size) => {
          const text = `${parts.map((part) => `${part.length.toString(16)}\r\n${part}\r\n`).join('')}0\r\n\r\n`;
          const chunks = text.match(new RegExp(`[^]{1,${size + 1}}`, 'g')) ?? [];
          expect(read(CHUNKED, chunks)).toEqual({ end: 'done', forwarded: text, rest: '' });
        },
      ),
      { numRuns: 500 },
    );
  });
});
