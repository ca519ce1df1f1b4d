import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicalisePath, PATH_CHARS_MAX } from './request-path.ts';

describe('a path is made canonical', () => {
  test.each([
    ['/', '/'],
    ['/v1/chat', '/v1/chat'],
    ['/v1/', '/v1/'],
    ['/%76%31/%7euser', '/v1/~user'],
    ['/a%c3%a9', '/a%C3%A9'],
    ['/a;b=c/d,e:f@g', '/a;b=c/d,e:f@g'],
    ['/a|b[0]^', '/a|b[0]^'],
    ['/100%25', '/100%25'],
    ['/a.b/.well-known/..x', '/a.b/.well-known/..x'],
    [`/${'a'.repeat(PATH_CHARS_MAX - 1)}`, `/${'a'.repeat(PATH_CHARS_MAX - 1)}`],
  ])('%s', (raw, path) => {
    expect(canonicalisePath(raw)).toEqual({ ok: true, path });
  });
});

describe('a path that servers read in two ways is refused', () => {
  test.each([
    '',
    'v1',
    '*',
    'http://a.example/v1',
    '/v1//chat',
    '//v1',
    '/v1/../admin',
    '/v1/..',
    '/v1/./chat',
    '/v1/...',
    '/v1/%2e%2e/admin',
    '/v1/.%2E/admin',
    '/v1%2fadmin',
    '/v1%5Cadmin',
    '/v1\\admin',
    '/v1/%00',
    '/v1/%0d%0aX',
    '/v1/%7f',
    '/v1/%252e%252e/admin',
    '/v1/%c0%af',
    '/v1/%ff',
    '/v1/%EF%BC%8E%EF%BC%8E/admin',
    '/v1/%EF%BC%8Fadmin',
    '/v1/..;/admin',
    '/v1/..%3Bx/admin',
    '/;x/admin',
    '/v1/%',
    '/v1/%4',
    '/v1/%zz',
    '/v 1',
    '/v1\n',
    '/v1\0',
    '/vé',
    '/v1?x',
    '/v1#x',
    '/v1"',
    `/${'a'.repeat(PATH_CHARS_MAX)}`,
  ])('%j', (raw) => {
    expect(canonicalisePath(raw)).toEqual({ ok: false, rule: expect.stringMatching(/^must /) as string });
  });
});

// What a lenient server may do to a path: decode it, twice; cut parameters; fold slashes; follow dots.
function lenient(path: string, rounds: number): string {
  let text = path;
  for (let round = 0; round < rounds; round += 1) {
    try {
      text = decodeURIComponent(text).normalize('NFKC');
    } catch {
      break;
    }
  }
  const segments: string[] = [];
  for (const segment of text.replaceAll('\\', '/').split('/').slice(1)) {
    const name = segment.split(';', 1)[0] ?? '';
    if (name === '..') segments.pop();
    else if (name !== '.' && name !== '') segments.push(name);
  }
  return `/${segments.join('/')}`;
}

test('what is canonical stays so, and no lenient reading of it leaves the prefix that it shows', () => {
  const parts = ['/', '//', '.', '..', 'a', ';', '|', ':', '\\', '2e', '%2e', '%2E', '%2f', '%5c', '%25', '%252e'];
  const part = fc.constantFrom(...parts, '%00', '%61', '%3b', '%C3%A9', '%c0', '%EF%BC%8E', '%EF%BC%8F');
  const path = fc.oneof(
    fc.array(part, { maxLength: 10 }).map((chosen) => `/a/${chosen.join('')}`),
    fc.string({ unit: 'binary', maxLength: 40 }).map((text) => `/a/${text}`),
  );
  let passed = 0;
  fc.assert(
    fc.property(path, (raw) => {
      const canonical = canonicalisePath(raw);
      if (!canonical.ok) return;
      passed += 1;
      expect(canonicalisePath(canonical.path)).toEqual(canonical);
      expect(canonical.path.startsWith('/a/')).toBe(true);
      for (const rounds of [0, 1, 2]) expect(`${lenient(canonical.path, rounds)}/`).toMatch(/^\/a\//);
    }),
    { numRuns: 5_000 },
  );
  expect(passed).toBeGreaterThan(100);
});
