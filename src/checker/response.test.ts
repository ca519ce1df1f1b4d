import { describe, expect, test } from 'vitest';
import { createResponseTracker } from './response.ts';
import type { ResponseTracker } from './response.ts';

function track(
  requests: readonly { method?: string; upgrade?: boolean }[],
  ...chunks: readonly string[]
): ResponseTracker {
  const tracker = createResponseTracker();
  for (const { method = 'GET', upgrade = false } of requests) tracker.expect({ method, upgrade });
  for (const chunk of chunks) tracker.feed(Buffer.from(chunk, 'latin1'));
  return tracker;
}

const view = (tracker: ResponseTracker) => ({
  state: tracker.state(),
  outstanding: tracker.outstanding(),
  midway: tracker.midway(),
});
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello';

describe('a response', () => {
  test.each([
    ['a length', OK],
    ['chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n'],
    ['no body by its status', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ['no body by its status, with a length', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n'],
    ['an interim response first', `HTTP/1.1 100 Continue\r\n\r\n${OK}`],
    ['early hints first', `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${OK}`],
    ['bare LFs', 'HTTP/1.1 200 OK\nContent-Length: 5\n\nhello'],
    ['no reason', 'HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n'],
  ])('with %s is followed to its end, whole and byte by byte', (_, text) => {
    const over = { state: 'following', outstanding: 0, midway: false };
    expect(view(track([{}], text))).toEqual(over);
    expect(view(track([{}], ...text.split('')))).toEqual(over);
    expect(view(track([{}], text.slice(0, -1)))).toMatchObject({ outstanding: 1, midway: true });
  });

  test('to HEAD has no body, whatever its length says', () => {
    expect(view(track([{ method: 'HEAD' }], 'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n')).outstanding).toBe(0);
  });

  test('after another is counted by itself', () => {
    expect(view(track([{}, {}, {}], `${OK}${OK}HTTP`))).toEqual({ state: 'following', outstanding: 1, midway: true });
  });

  test.each([
    ['without an end of its own', 'HTTP/1.1 200 OK\r\n\r\nhello'],
    ['with two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello'],
    ['that is none', 'SSH-2.0-x\r\n\r\n'],
    ['with chunks that are none', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n'],
    ['with a head without end', `HTTP/1.1 200 OK\r\nX: ${'a'.repeat(70_000)}`],
    ['that switches unasked', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
  ])('%s makes the rest opaque', (_, text) => {
    expect(track([{}], text).state()).toBe('opaque');
  });

  test('nobody asked for makes the rest opaque', () => {
    expect(track([], 'HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n').state()).toBe('opaque');
  });

  test('switches when an upgrade was asked for, in its turn only', () => {
    const switching = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello';
    expect(track([{ upgrade: true }], switching).state()).toBe('switched');
    expect(track([{}, { upgrade: true }], `${OK}${switching}`).state()).toBe('switched');
    expect(track([{}, { upgrade: true }], switching).state()).toBe('opaque');
    expect(view(track([{ upgrade: true }], 'HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n'))).toEqual({
      state: 'following',
      outstanding: 0,
      midway: false,
    });
  });
});
