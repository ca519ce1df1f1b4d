import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicaliseName, isBelow, nameRefusal, sharedSuffixBelow, wildcardRefusal } from './names.ts';

const label63 = 'a'.repeat(63);
const name253 = `${label63}.${label63}.${label63}.${'a'.repeat(61)}`;

describe('canonicaliseName', () => {
  test.each([
    ['example.com', 'example.com'],
    ['EXAMPLE.Com', 'example.com'],
    ['example.com.', 'example.com'],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
    ['a-b--c.example', 'a-b--c.example'],
    ['localhost', 'localhost'],
    ['1.2.3.com', '1.2.3.com'],
    ['3com.example', '3com.example'],
    [`${label63}.example`, `${label63}.example`],
    [name253, name253],
    [`${name253}.`, name253],
  ])('takes %s', (raw, name) => {
    expect(canonicaliseName(raw)).toEqual({ ok: true, name });
  });

  test.each([
    ['', 'must not be empty'],
    ['.', 'must not be empty'],
    ['..', 'must have no empty label (two dots in a row, or a dot at the start)'],
    ['example.com..', 'must have no empty label (two dots in a row, or a dot at the start)'],
    ['.example.com', 'must have no empty label (two dots in a row, or a dot at the start)'],
    ['a..b', 'must have no empty label (two dots in a row, or a dot at the start)'],
    [`a${label63}.example`, 'must have labels of at most 63 characters'],
    [`${name253}a`, 'must be at most 253 characters long'],
    ['a'.repeat(1_000_000), 'must be at most 253 characters long'],
    ['-a.example', 'must have no label that starts or ends with a hyphen'],
    ['a-.example', 'must have no label that starts or ends with a hyphen'],
    ['a_b.example', 'must consist of letters, digits, hyphens and dots'],
    ['a b.example', 'must consist of letters, digits, hyphens and dots'],
    ['a\0.example', 'must consist of letters, digits, hyphens and dots'],
    ['a.example\n', 'must consist of letters, digits, hyphens and dots'],
    ['a.example\r\nb.example', 'must consist of letters, digits, hyphens and dots'],
    ['user@a.example', 'must consist of letters, digits, hyphens and dots'],
    ['a.example/x', 'must consist of letters, digits, hyphens and dots'],
    ['a.example:443', 'must consist of letters, digits, hyphens and dots'],
    ['a%2eexample', 'must consist of letters, digits, hyphens and dots'],
    ['*.example', 'must consist of letters, digits, hyphens and dots'],
    ['bücher.example', 'must consist of letters, digits, hyphens and dots'],
    ['аpple.com', 'must consist of letters, digits, hyphens and dots'],
    // The Kelvin sign becomes a `k` when it is lowered as Unicode, which would make it another name.
    ['\u212aelvin.example', 'must consist of letters, digits, hyphens and dots'],
    ['a。example', 'must consist of letters, digits, hyphens and dots'],
    ['1.2.3', 'must be a name, not an address or a part of one'],
    ['192.0.2.7', 'must be a name, not an address or a part of one'],
    ['0x7f.1', 'must be a name, not an address or a part of one'],
    ['0x7f000001', 'must be a name, not an address or a part of one'],
    ['2130706433', 'must be a name, not an address or a part of one'],
    ['0177.0.0.01', 'must be a name, not an address or a part of one'],
    ['example.0x', 'must be a name, not an address or a part of one'],
    ['::1', 'must consist of letters, digits, hyphens and dots'],
  ])('refuses %j', (raw, rule) => {
    expect(canonicaliseName(raw)).toEqual({ ok: false, rule });
  });

  test('never throws, and what it takes it takes again unchanged', () => {
    const hostile = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.string({ unit: fc.constantFrom('a', 'Z', '0', '-', '.', '_', 'x', '\0', 'ü', '\u212a') }),
      fc.domain(),
    );
    fc.assert(
      fc.property(hostile, (raw) => {
        const first = canonicaliseName(raw);
        if (!first.ok) return;
        expect(canonicaliseName(first.name)).toEqual(first);
        expect(canonicaliseName(`${first.name.toUpperCase()}.`)).toEqual(first);
        expect(first.name).toMatch(/^[a-z0-9.-]{1,253}$/);
      }),
      { numRuns: 2_000 },
    );
  });
});

test.each([
  ['a.example.com', true],
  ['a.b.example.com', true],
  ['example.com', false],
  ['.example.com', false],
  ['evilexample.com', false],
  ['example.com.evil.test', false],
  ['com', false],
])('is %s below example.com: %s', (name, below) => {
  expect(isBelow(name, 'example.com')).toBe(below);
});

test.each(['com', 'test', 'co.uk', 'com.br', 'gov.au', 'ac.jp', 'github.io', 'workers.dev', 's3.amazonaws.com'])(
  'refuses a wildcard before %s',
  (name) => {
    expect(wildcardRefusal(name)).not.toBeNull();
  },
);

test.each(['example.com', 'example.co.uk', 'me.github.io', 'google.de', 'amazonaws.com', 'pythonhosted.org', 'go.com'])(
  'takes a wildcard before %s',
  (name) => {
    expect(wildcardRefusal(name)).toBeNull();
  },
);

test('knows that names are rented out below a wildcard', () => {
  expect([
    sharedSuffixBelow('amazonaws.com'),
    sharedSuffixBelow('azonaws.com'),
    sharedSuffixBelow('github.io'),
  ]).toEqual(['s3.amazonaws.com', null, null]);
});

test.each(['localhost', 'a.localhost', 'printer.local', 'intranet', 'host.docker.internal', '1.0.0.10.in-addr.arpa'])(
  'refuses a rule for %s',
  (name) => {
    expect(nameRefusal(name)).not.toBeNull();
  },
);

test.each(['example.com', 'local.example.com', 'docs.example.test', 'db.internal'])('takes a rule for %s', (name) => {
  expect(nameRefusal(name)).toBeNull();
});
