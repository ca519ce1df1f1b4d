import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createHeadReader, HEAD_BYTES_MAX } from './request.ts';
import type { HeadResult } from './request.ts';

function read(...chunks: readonly (string | Buffer)[]): HeadResult {
  const reader = createHeadReader();
  let result: HeadResult = { kind: 'more' };
  for (const chunk of chunks) {
    result = reader.feed(typeof chunk === 'string' ? Buffer.from(chunk, 'latin1') : chunk);
    if (result.kind !== 'more') break;
  }
  return result;
}

const request = (lines: readonly string[], start = 'GET / HTTP/1.1'): string =>
  `${[start, ...lines].join('\r\n')}\r\n\r\n`;
const HOST = 'Host: good.test';

describe('a request', () => {
  test('is read whole, and is forwarded byte for byte', () => {
    const text = request([HOST, 'User-Agent:curl', 'X-Empty:', 'Content-Length: 12']);
    expect(read(`${text}body`)).toEqual({
      kind: 'head',
      head: {
        method: 'GET',
        name: 'good.test',
        port: null,
        framing: { kind: 'length', bytes: 12 },
        upgrade: false,
        bytes: Buffer.from(text),
      },
      taken: text.length,
    });
  });

  test('is the same however it is cut', () => {
    const text = request(['HOST: GOOD.test:80', 'Transfer-Encoding: Chunked']);
    const whole = read(text);
    expect(whole).toMatchObject({ kind: 'head', head: { name: 'good.test', port: 80, framing: { kind: 'chunked' } } });
    for (let cut = 1; cut < text.length; cut += 1) {
      expect(read(text.slice(0, cut), text.slice(cut))).toEqual({ ...whole, taken: text.length - cut });
    }
    expect(read(...text.split(''))).toEqual({ ...whole, taken: 1 });
  });

  test.each([
    ['an absolute target that agrees', request([HOST], 'GET http://good.test/a?b HTTP/1.1')],
    ['an absolute target without a path', request([HOST], 'GET HTTP://GOOD.test HTTP/1.1')],
    ['an absolute target with the same port', request([`${HOST}:80`], 'GET http://good.test:80/ HTTP/1.1')],
    ['the asterisk of OPTIONS', request([HOST], 'OPTIONS * HTTP/1.1')],
    ['HTTP/1.0 with a Host', request([HOST], 'GET / HTTP/1.0')],
    ['two slashes', request([HOST], 'GET //evil.test/ HTTP/1.1')],
    ['a length of zero', request([HOST, 'Content-Length: 0'], 'POST / HTTP/1.1')],
  ])('passes with %s', (_, text) => {
    expect(read(text)).toMatchObject({ kind: 'head', head: { name: 'good.test', framing: { kind: 'none' } } });
  });

  test.each<[string, string, string]>([
    ['no Host', 'check.no-name', request([])],
    ['an empty Host', 'check.no-name', request(['Host:'])],
    ['two Hosts', 'check.request', request([HOST, 'Host: evil.test'])],
    ['the same Host twice', 'check.request', request([HOST, HOST])],
    ['two names in one Host', 'check.name', request(['Host: good.test, evil.test'])],
    ['a space in the Host', 'check.name', request(['Host: good.test evil.test'])],
    ['an address as Host', 'check.name', request(['Host: 203.0.113.7'])],
    ['a user in the Host', 'check.name', request(['Host: good.test@evil.test'])],
    ['a path in the Host', 'check.name', request(['Host: good.test/evil.test'])],
    ['a dot behind the Host', 'check.name', request(['Host: good.test.'])],
    ['an empty port', 'check.name', request(['Host: good.test:'])],
    ['an absolute target of another name', 'check.request', request([HOST], 'GET http://evil.test/ HTTP/1.1')],
    ['an absolute target of another port', 'check.request', request([HOST], 'GET http://good.test:8080/ HTTP/1.1')],
    ['an absolute target with a user', 'check.name', request([HOST], 'GET http://good.test@evil.test/ HTTP/1.1')],
    ['an absolute target with a backslash', 'check.name', request([HOST], 'GET http://good.test\\evil.test/ HTTP/1.1')],
    ['a target of another scheme', 'check.request', request([HOST], 'GET https://good.test/ HTTP/1.1')],
    ['a bare authority', 'check.request', request([HOST], 'GET good.test:80 HTTP/1.1')],
    ['CONNECT', 'check.request', request([HOST], 'CONNECT good.test:443 HTTP/1.1')],
    ['a fragment in the target', 'check.request', request([HOST], 'GET /#x HTTP/1.1')],
    ['HTTP/0.9', 'check.protocol', 'GET /\r\n'],
    ['the preface of HTTP/2', 'check.protocol', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['another version', 'check.protocol', request([HOST], 'GET / HTTP/1.2')],
    ['a version in small letters', 'check.protocol', request([HOST], 'GET / http/1.1')],
    ['two spaces in the request line', 'check.protocol', request([HOST], 'GET  / HTTP/1.1')],
    ['a space in the target', 'check.protocol', request([HOST], 'GET /a b HTTP/1.1')],
    ['a bare LF', 'check.request', 'GET / HTTP/1.1\r\nHost: good.test\nX: y\r\n\r\n'],
    ['a bare LF behind the request line', 'check.request', 'GET / HTTP/1.1\nHost: good.test\r\n\r\n'],
    ['a bare LF as the end', 'check.request', 'GET / HTTP/1.1\r\nHost: good.test\r\n\n'],
    ['a bare CR', 'check.request', request([`${HOST}\rX: y`])],
    ['a folded header', 'check.request', request([HOST, ' more'])],
    ['a folded header first', 'check.request', request([' Host: evil.test', HOST])],
    ['a space before the colon', 'check.request', request([HOST, 'Content-Length : 5'])],
    ['a header without a colon', 'check.request', request([HOST, 'nothing'])],
    ['a header without a name', 'check.request', request([HOST, ': x'])],
    ['a NUL in a header', 'check.request', request([HOST, 'X: a\0b'])],
    ['a NUL in a name', 'check.request', request([HOST, 'X\0: a'])],
    ['a length and an encoding', 'check.request', request([HOST, 'Content-Length: 5', 'Transfer-Encoding: chunked'])],
    ['two lengths', 'check.request', request([HOST, 'Content-Length: 5', 'Content-Length: 6'])],
    ['the same length twice', 'check.request', request([HOST, 'Content-Length: 5', 'Content-Length: 5'])],
    ['a list of lengths', 'check.request', request([HOST, 'Content-Length: 5, 5'])],
    ['a signed length', 'check.request', request([HOST, 'Content-Length: +5'])],
    ['a negative length', 'check.request', request([HOST, 'Content-Length: -5'])],
    ['a hexadecimal length', 'check.request', request([HOST, 'Content-Length: 0x5'])],
    ['an empty length', 'check.request', request([HOST, 'Content-Length:'])],
    ['a length beyond every number', 'check.request', request([HOST, 'Content-Length: 18446744073709551621'])],
    ['two encodings', 'check.request', request([HOST, 'Transfer-Encoding: gzip, chunked'])],
    ['chunked twice', 'check.request', request([HOST, 'Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'])],
    ['an unknown encoding', 'check.request', request([HOST, 'Transfer-Encoding: xchunked'])],
    ['identity', 'check.request', request([HOST, 'Transfer-Encoding: identity'])],
    ['a vertical tab before chunked', 'check.request', request([HOST, 'Transfer-Encoding: \x0bchunked'])],
    ['an encoding in HTTP/1.0', 'check.request', request([HOST, 'Transfer-Encoding: chunked'], 'POST / HTTP/1.0')],
    ['a Connection that names Host', 'check.request', request([HOST, 'Connection: close, Host'])],
    [
      'a Connection that names the length',
      'check.request',
      request([HOST, 'Connection: content-length', 'Content-Length: 5']),
    ],
  ])('is refused with %s', (_, rule, text) => {
    expect(read(text)).toMatchObject({ kind: 'refuse', rule, explanation: expect.stringMatching(/./) as string });
  });

  test.each([
    ['an SSH banner', 'SSH-2.0-OpenSSH_9.2p1\r\n'],
    ['a TLS hello', '\x16\x03\x01\x02\x00\x01'],
    ['an empty line', '\r\n'],
    ['a method without end', 'A'.repeat(33)],
    ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\n'],
  ])('is none, and is not answered: %s', (_, bytes) => {
    expect(read(bytes)).toMatchObject({ kind: 'refuse', rule: 'check.protocol', answerable: false });
  });

  test('is refused above its bounds, and read just below them', () => {
    const empty = request([HOST, 'X: ']).length;
    expect(read(request([HOST, `X: ${'a'.repeat(HEAD_BYTES_MAX - empty)}`])).kind).toBe('head');
    expect(read(request([HOST, `X: ${'a'.repeat(HEAD_BYTES_MAX - empty + 1)}`]))).toMatchObject({ rule: 'check.size' });
    const fields = (count: number): string => request([HOST, ...Array.from({ length: count - 1 }, () => 'X: y')]);
    expect(read(fields(128)).kind).toBe('head');
    expect(read(fields(129))).toMatchObject({ rule: 'check.size' });
    expect(read(`GET /${'a'.repeat(HEAD_BYTES_MAX)}`)).toMatchObject({ rule: 'check.size' });
  });

  test('asks for WebSocket in one way only; every other upgrade is taken out of it', () => {
    const websocket = request([HOST, 'Connection: keep-alive, Upgrade', 'Upgrade: WebSocket', 'Sec-WebSocket-Key: x']);
    expect(read(websocket)).toMatchObject({ head: { upgrade: true, bytes: Buffer.from(websocket) } });
    const none = [
      request([HOST, 'Upgrade: h2c', 'Connection: Upgrade, HTTP2-Settings', 'HTTP2-Settings: AAMAAABk']),
      request([HOST, 'Upgrade: websocket']),
      request([HOST, 'Upgrade: websocket', 'Upgrade: h2c', 'Connection: upgrade']),
      request([HOST, 'Upgrade: websocket', 'Connection: upgrade', 'Content-Length: 5']),
      request([HOST, 'Upgrade: websocket', 'Connection: upgrade'], 'POST / HTTP/1.1'),
      request([HOST, 'Upgrade: websocket', 'Connection: upgrade'], 'GET / HTTP/1.0'),
    ];
    for (const text of none) {
      const kept = text.replaceAll(/Upgrade: \w+\r\n|HTTP2-Settings: \w+\r\n/g, '');
      expect(read(text)).toMatchObject({ head: { upgrade: false, bytes: Buffer.from(kept) } });
    }
  });
});

test('random bytes and mutated requests give a canonical name or none, however they are cut', () => {
  const whole = Buffer.from(request([HOST, 'Content-Length: 5', 'Accept: */*']));
  const changes = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(changes, fc.nat(whole.length), (mutations, cut) => {
      const mutated = Buffer.from(whole);
      for (const [at, value] of mutations) mutated[at] = value;
      const result = read(mutated);
      const inTwo = read(mutated.subarray(0, cut), mutated.subarray(cut));
      expect(inTwo.kind).toBe(result.kind);
      if (result.kind !== 'head' || inTwo.kind !== 'head') return;
      expect(inTwo.head).toEqual(result.head);
      expect(result.head.name).toMatch(/^[a-z0-9.-]+$/);
    }),
    { numRuns: 5_000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      expect(read(Buffer.from(bytes)).kind).not.toBe('head');
    }),
    { numRuns: 2_000 },
  );
});
