import { describe, expect, test } from 'vitest';
import { crc32 } from 'node:zlib';
import { checkLine, encodeLine, faultOf, GENESIS } from './line.ts';

const PLACE = { seq: 7, prev: 'a'.repeat(64) };
const line = encodeLine(PLACE, '2026-10-05T08:00:00.000Z', { kind: 'run.ended', runId: 'r1', note: 'é✓ "quoted"' });

/** Somebody who knows the format makes the checksum fit what he wrote. */
function fitted(text: string): Buffer {
  const body = text.slice(0, text.lastIndexOf(',"crc":'));
  return Buffer.from(`${body},"crc":"${crc32(body).toString(16).padStart(8, '0')}"}`);
}

describe('checkLine', () => {
  test('knows the kind of a sound line', () => {
    expect(checkLine(Buffer.from(line), PLACE)).toEqual({ kind: 'run.ended', fault: null });
  });

  const wrong: readonly (readonly [string, Buffer, string])[] = [
    ['a changed byte', Buffer.from(line.replace('r1', 'r2')), 'the bytes of the line were changed'],
    ['a field that is no JSON', fitted(line.replace('"r1"', 'r1')), 'the line is not JSON'],
    ['a bracket too many', fitted(line.replace(',"crc"', '},"crc"')), 'the line is not JSON'],
    ['an end of line inside', fitted(line.replace('quoted', '\n')), 'the line is not JSON'],
    ['another number', fitted(line.replace('"seq":7', '"seq":8')), 'record 7 should stand here, but it is record 8'],
    ['a number with a zero before it', fitted(line.replace('"seq":7', '"seq":07')), 'the line is not a record'],
    ['another hash', fitted(line.replace('aaaa', 'aaab')), 'record 7 holds another hash for the line before it'],
    ['capitals in the hash', fitted(line.replace('aaaa', 'AAAA')), 'the line is not a record'],
    ['a moment that is none', fitted(line.replace('08:00', '8:000')), 'the line is not a record'],
    ['no kind', fitted(line.replace('"kind"', '"kinds"')), 'the line is not a record'],
    ['a space before it', fitted(` ${line}`), 'the line is not a record'],
    ['something after it', Buffer.from(`${line} `), 'the line is not a record'],
    ['a checksum in capitals', Buffer.from(line.replace(/"crc":".*"/, (sum) => sum.toUpperCase())), 'not a record'],
    ['nothing', Buffer.alloc(0), 'the line is not a record'],
  ];
  test.each(wrong)('finds %s', (_, bytes, why) => {
    const { kind, fault } = checkLine(bytes, PLACE);
    expect({ kind, fault }).toEqual({
      kind: null,
      fault: { kind: expect.any(String), why: expect.stringContaining(why) },
    });
    expect(faultOf(bytes, PLACE)).toEqual(fault);
  });

  test('takes what the careful way takes and the quick one does not know', () => {
    const spaced = fitted(line.replace('"runId":"r1"', '"runId" : "r1"'));
    const odd = fitted(line.replace('"run.ended"', '"Run Ended"'));
    expect([spaced, odd].map((bytes) => checkLine(bytes, PLACE))).toEqual([
      { kind: 'run.ended', fault: null },
      { kind: null, fault: null },
    ]);
    expect(checkLine(Buffer.from(line), { seq: 1, prev: GENESIS }).fault?.kind).toBe('order');
  });
});
