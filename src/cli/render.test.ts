import { describe, expect, it } from 'vitest';

import { REASONS } from '../core/outcome.ts';
import { fakeOutcome, fakeRun } from '../../test/support/fake-service.ts';
import { withoutControls } from './agent-output.ts';
import { shortAge, shortBytes, shortDuration } from './amounts.ts';
import { exitCodeOf } from './exit-code.ts';
import { renderRuns } from './ps.ts';
import { renderTable } from './table.ts';

describe('amounts for a column', () => {
  it.each([
    [0, '0B'],
    [1023, '1023B'],
    [1536, '1.5K'],
    [256 * 2 ** 20, '256M'],
    [1.25 * 2 ** 30, '1.3G'],
    [2 ** 41, '2T'],
  ])('%d bytes are %s', (bytes, text) => expect(shortBytes(bytes)).toBe(text));

  it.each([
    [0, '0ms'],
    [999, '999ms'],
    [3_120, '3.1s'],
    [60_000, '1m'],
    [245_000, '4m05s'],
    [7_620_000, '2h07m'],
    [90_000_000, '1d01h'],
  ])('%d ms are %s', (milliseconds, text) => expect(shortDuration(milliseconds)).toBe(text));

  it.each([
    [-5, '0s'],
    [59_999, '59s'],
    [3_599_999, '59m'],
    [86_400_000, '1d'],
  ])('%d ms old is %s', (milliseconds, text) => expect(shortAge(milliseconds)).toBe(text));
});

describe('tables', () => {
  const columns = [
    { head: 'NAME', charsMin: 4 },
    { head: 'N', align: 'right' as const },
  ];

  it('cut what may be cut until they fit', () => {
    expect(renderTable(columns, [['a-long-name', '1']], 10)).toBe('NAME     N\na-long…  1');
  });

  it('never lose the least that a column needs, even where they do not fit', () => {
    expect(renderTable(columns, [['a-long-name', '1000000']], 5)).toBe('NAME        N\na-l…  1000000');
  });

  it('show no control character of anybody', () => {
    expect(renderTable(columns, [['a\u001b[2J\nb', '1']])).toBe('NAME              N\na\\u{1b}[2J\\u{a}b  1');
  });

  it('of runs fit 80 columns', () => {
    const runs = [fakeRun({ profile: 'a-profile-with-the-longest-name-there-is1' })];
    const lines = renderRuns(runs, { nowMs: Date.parse('2026-03-01T12:10:00Z'), columnsMax: 80 }).split('\n');
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(80);
  });
});

describe('exit codes', () => {
  it.each([
    [{ reason: 'exited', exitCode: 0 }, 0],
    [{ reason: 'exited', exitCode: 7 }, 7],
    [{ reason: 'exited', exitCode: null, signal: 'SIGTERM' }, 143],
    [{ reason: 'exited', exitCode: null, signal: null }, 125],
    [{ reason: 'refused' }, 126],
    [{ reason: 'engine.failed', exitCode: null }, 125],
    [{ reason: 'engine.failed', exitCode: 1 }, 125],
    [{ reason: 'engine.failed', exitCode: 127 }, 127],
    [{ reason: 'engine.failed', exitCode: 126 }, 126],
    [{ reason: 'budget.cpu', exitCode: 137, signal: 'SIGKILL' }, 124],
    [{ reason: 'oom', exitCode: 0 }, 124],
  ] as const)('of %j is %d', (change, code) => {
    expect(exitCodeOf(fakeOutcome(change))).toBe(code);
  });

  it('are 124 for whatever else ends a run', () => {
    const others = REASONS.filter((reason) => !['exited', 'refused', 'engine.failed'].includes(reason));
    expect(others.map((reason) => exitCodeOf(fakeOutcome({ reason, exitCode: 0 })))).toEqual(others.map(() => 124));
  });
});

describe('what an agent writes to a terminal', () => {
  it.each([
    ['plain\ttext\n', 'plain\ttext\n'],
    ['line\r\n', 'line\n'],
    ['over\rwritten', 'over\\u{d}written'],
    ['\u001b]52;c;ZXZpbA==\u0007', '\\u{1b}]52;c;ZXZpbA==\\u{7}'],
    ['\u009b2J', '\\u{9b}2J'],
    ['a\u202eb', 'a\\u{202e}b'],
    ['naïve ✓', 'naïve ✓'],
  ])('%j is shown as %j', (text, shown) => expect(withoutControls(text)).toBe(shown));
});
