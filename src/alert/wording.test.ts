import fc from 'fast-check';
import { expect, test } from 'vitest';
import { alertOf, HOSTILE } from './testing.ts';
import { boundedFacts, oneLine, timestampOf } from './wording.ts';

test('a line is one line, printable, and never longer than asked, whatever the text', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 300 }),
    fc.constantFrom(...HOSTILE.map(([, each]) => each)),
  );
  fc.assert(
    fc.property(text, fc.integer({ min: 8, max: 400 }), (value, charsMax) => {
      const line = oneLine(value, charsMax);
      expect(line.length).toBeLessThanOrEqual(charsMax);
      expect(line.isWellFormed()).toBe(true);
      expect(line).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
    }),
    { numRuns: 300 },
  );
  expect(oneLine('rome was killed.', 100)).toBe('rome was killed.');
});

test('facts are few and short', () => {
  const facts = Array.from({ length: 100 }, () => ({ name: 'n'.repeat(1_000), value: 'v'.repeat(10_000) }));
  const bounded = boundedFacts(alertOf('a1', { facts }));
  expect(bounded).toHaveLength(24);
  for (const { name, value } of bounded) expect([name.length, value.length]).toEqual([40, 500]);
});

test('the moment of an alert is that of its body, if it has one', () => {
  expect(timestampOf(alertOf('a1'))).toBe('2026-10-05T08:00:00.000Z');
  for (const body of ['{', 'null', '{}', '{"timestamp":1}', '{"timestamp":"soon"}']) {
    expect(timestampOf(alertOf('a1', { body }))).toBeNull();
  }
});
