import fc from 'fast-check';
import { expect, test } from 'vitest';
import { printable } from '../core/text.ts';
import { hideSecrets, holdsSecret, secretWords } from './secret-words.ts';

const VALUE = 'Canary-7f3a.91bd/Zq+x';
const words = secretWords([
  { name: 'API_KEY', value: Buffer.from(VALUE) },
  { name: 'OTHER', value: Buffer.from('another value of a secret\n') },
]);

test.each([
  ['as it is', `curl -H 'X: ${VALUE}' x`, "curl -H 'X: «secret API_KEY»' x"],
  ['in other letters, as names come', `${VALUE.toLowerCase()}.evil.example.com`, '«secret API_KEY».evil.example.com'],
  ['in several labels', 'canary-7f3a.91bd/z.q+x.evil.example.com', '«secret API_KEY».evil.example.com'],
  ['in base64', `x=${Buffer.from(VALUE).toString('base64')}`, undefined],
  ['in base64 after a user', Buffer.from(`someone:${VALUE}`).toString('base64'), undefined],
  ['in base64 for URLs', `/a?b=${Buffer.from(VALUE).toString('base64url')}`, undefined],
  ['in hexadecimal', Buffer.from(VALUE).toString('hex'), '«secret API_KEY»'],
  ['in a URL', `/a?b=${encodeURIComponent(VALUE)}&c=d`, '/a?b=«secret API_KEY»&c=d'],
  ['two of them', `${VALUE} another value of a secret`, '«secret API_KEY» «secret OTHER»'],
])('finds a secret %s', (_title, text, wanted) => {
  const shown = hideSecrets(text, words);
  if (wanted !== undefined) expect(shown).toBe(wanted);
  expect(shown).toContain('«secret API_KEY»');
  expect(shown.toLowerCase()).not.toContain(VALUE.toLowerCase().slice(0, 8));
});

test('finds one that was cut in its middle', () => {
  const text = printable(`${'x'.repeat(244)}${VALUE}`);
  expect(hideSecrets(text, words)).toBe(`${'x'.repeat(244)}«secret API_KEY»… (${244 + VALUE.length} characters)`);
});

test('leaves everything else the very same', () => {
  const value = { a: ['canary', { b: 'some other words', c: 7, d: null }], e: 'api.example.com' };
  expect(hideSecrets(value, words)).toBe(value);
  expect(holdsSecret('canary-7f3', words)).toBe(true);
  expect(holdsSecret('canary', words)).toBe(false);
});

test('reaches into lists and objects, and keeps their shape', () => {
  const denial = { kind: 'denied', denial: { destination: `${VALUE}.example.com`, port: 53 }, list: [VALUE, 1] };
  expect(hideSecrets(denial, words)).toEqual({
    kind: 'denied',
    denial: { destination: '«secret API_KEY».example.com', port: 53 },
    list: ['«secret API_KEY»', 1],
  });
});

test('knows a key of several lines by each of its lines', () => {
  const key = secretWords([
    { name: 'PEM', value: Buffer.from('-----BEGIN KEY-----\nQUJDREVGR0hJSktMTU5P\n-----END KEY-----\n') },
  ]);
  expect(hideSecrets('a line: QUJDREVGR0hJSktMTU5P', key)).toBe('a line: «secret PEM»');
});

test('does not look for what is too short to be told from a word', () => {
  const short = secretWords([{ name: 'PIN', value: Buffer.from('12345') }]);
  expect(hideSecrets('12345', short)).toBe('12345');
});

test('no secret of any characters is left in a text that holds it', () => {
  const secret = fc.string({ unit: 'binary', minLength: 10, maxLength: 40 }).filter((text) => text.trim().length >= 10);
  fc.assert(
    fc.property(secret, fc.string({ maxLength: 40 }), fc.string({ maxLength: 40 }), (value, before, after) => {
      const bytes = Buffer.from(value);
      const text = new TextDecoder().decode(bytes).trim();
      const known = secretWords([{ name: 'S', value: bytes }]);
      expect(hideSecrets(`${before}${text}${after}`, known)).not.toContain(text);
    }),
    { numRuns: 40 },
  );
});
