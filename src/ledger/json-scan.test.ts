import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isPlainJson } from './json-scan.ts';

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

describe('isPlainJson', () => {
  const no = [
    '',
    '{',
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    '{,}',
    '{a:1}',
    '[1,]',
    '[1 2]',
    '[1][2]',
    '{}}',
    '"',
    '"\\x"',
    '"\\u12g4"',
    '"\\u12"',
    '"\n"',
    '"a',
    '01',
    '-',
    '1.',
    '.5',
    '+1',
    'tru',
    'nulll',
    'NaN',
    'é',
  ];
  test.each(no)('no: %j', (text) => {
    expect([isPlainJson(Buffer.from(text)), parses(text)]).toEqual([false, false]);
  });

  test('leaves to others what the ledger never writes: spaces, exponents, depths without end', () => {
    const deep = `${'['.repeat(40)}${']'.repeat(40)}`;
    expect(['{ }', '1e5', deep].map((text) => [isPlainJson(Buffer.from(text)), parses(text)])).toEqual([
      [false, true],
      [false, true],
      [false, true],
    ]);
  });

  test('takes what is written from any value', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 5 }), (value) => {
        const text = JSON.stringify(value);
        return /\de[+-]/.test(text) || isPlainJson(Buffer.from(text));
      }),
      { numRuns: 500 },
    );
  });

  test('takes nothing that is no JSON, however it came about', () => {
    const text = '{"a":[1,-2.5,true,null],"b":"é\\n\\u00e9\\\\","c":{"d":"x"},"e":[]}';
    const pieces = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      '"',
      ',',
      ':',
      '\\',
      'u',
      '0',
      '1',
      '-',
      '.',
      't',
      '\u0001',
      ' ',
    );
    const place = fc.nat({ max: text.length });
    fc.assert(
      fc.property(place, pieces, fc.nat({ max: 3 }), (at, piece, removed) => {
        const changed = text.slice(0, at) + piece + text.slice(at + removed);
        return !isPlainJson(Buffer.from(changed)) || parses(changed);
      }),
      { numRuns: 5_000 },
    );
  });
});
