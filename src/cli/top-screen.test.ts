import { describe, expect, test } from 'vitest';
import type { RunView } from '../api/service.ts';
import { USAGE_NONE, type Bound } from '../core/outcome.ts';
import { barOf, renderTop, type TopView } from './top-screen.ts';

const AT = '2026-10-05T08:00:00.000Z';

function runOf(profile: string, cpuMs: number): RunView {
  const bounds: readonly Bound[] = [
    { path: 'budget.cpu', value: 10_000, unit: 'ms', rung: 'watchdog' },
    { path: 'limits.memory', value: 2 ** 30, unit: 'bytes', rung: 'kernel' },
    { path: 'limits.files', value: 1024, unit: 'count', rung: 'kernel' },
  ];
  return {
    runId: `r-${profile}`,
    profile,
    phase: 'running',
    admittedAt: AT,
    startedAt: AT,
    usage: { ...USAGE_NONE, cpuMs, memoryBytes: 2 ** 28 },
    bounds,
    outcome: null,
    labels: {},
    held: null,
  };
}

function viewOf(over: Partial<TopView>): TopView {
  return {
    runs: [],
    incidents: [],
    denials: [],
    nowMs: Date.parse(AT) + 65_000,
    columns: 140,
    rows: 24,
    colour: false,
    unicode: true,
    failure: null,
    ...over,
  };
}

describe('renderTop', () => {
  test('puts the run that is nearest to a bound first, with that bound first', () => {
    const lines = renderTop(viewOf({ runs: [runOf('calm', 100), runOf('busy', 9_500)] }));
    expect(lines.map((line) => line.split(/\s+/)[1])).toEqual(['2', 'busy', 'calm']);
    expect(lines[1]).toMatch(/cpu +█{11}░ +95% 9\.5 s of 10 s/);
    expect(lines[2]).toMatch(/running +1m +memory +███░/);
  });

  test('never takes more lines or columns than there are', () => {
    const runs = Array.from({ length: 50 }, (_, index) => runOf(`agent-${index}`, index * 10));
    const denials = Array.from({ length: 9 }, (_, index) => `refused ${index} ${'x'.repeat(200)}`);
    const lines = renderTop(viewOf({ runs, denials, rows: 12, columns: 80 }));
    expect(lines).toHaveLength(12);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(80);
    expect(lines[0]).toContain('not shown');
    expect(lines.at(-1)).toContain('refused 8');
  });

  test.each([
    [140, 'r-busy         busy               running     1m cpu         ███████████░  95% 9.5 s of 10 s memory'],
    [93, 'r-busy         busy               running     1m cpu         ███████████░  95% 9.5 s of 10 s'],
    [80, 'r-busy         busy               running     1m cpu         ███████████░  95%'],
    [50, 'busy               cpu         ███████████░  95%'],
    [40, 'busy               cpu          95%'],
  ])('says which bound is nearest, and how near, in %d columns', (columns, start) => {
    const [, line = ''] = renderTop(viewOf({ runs: [runOf('busy', 9_500)], columns }));
    expect(line.slice(0, start.length)).toBe(start);
    expect(line.length).toBeLessThanOrEqual(columns);
  });

  test('shows nothing of an agent that a terminal would obey', () => {
    const lines = renderTop(viewOf({ denials: ['\u001b[2Jgone\nnew line'], runs: [runOf('\u001b[31mred', 1)] }));
    expect(lines.join('')).not.toContain('\u001b');
    expect(lines).toHaveLength(4);
  });

  test('uses colour only where it was asked for, and says why there is nothing', () => {
    expect(renderTop(viewOf({ runs: [runOf('a', 9_900)], colour: true })).join('')).toContain('\u001b[31m');
    expect(renderTop(viewOf({ failure: 'the daemon is not running' }))[1]).toBe('the daemon is not running');
  });
});

test.each([
  [0, '------------'],
  [0.5, '######------'],
  [1, '############'],
  [7, '############'],
])('a bar of %d', (ratio, bar) => {
  expect(barOf(ratio, false)).toBe(bar);
});
