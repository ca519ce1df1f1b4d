import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Action, Breach } from '../core/outcome.ts';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { createLadder, impossibleAction } from './ladder.ts';

/** The files of a pure v2 host, which the lab is not; what the kernel would write there the test writes. */
let root: string;
let paths: CgroupPaths;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'rf-ladder-'));
  paths = { cpu: root, cpuacct: root, memory: root, pids: root, freezer: null, unified: root };
  write('cpu.max', 'max 100000\n');
  write('cgroup.freeze', '0');
  events({ populated: 1, frozen: 0 });
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function write(file: string, text: string): void {
  writeFileSync(join(root, file), text);
}

function read(file: string): string {
  return readFileSync(join(root, file), 'utf8').trim();
}

function events({ populated, frozen }: { readonly populated: number; readonly frozen: number }): void {
  write('cgroup.events', `populated ${populated}\nfrozen ${frozen}\n`);
}

function breachOf(budget: 'cpu' | 'wall', action: Action): Breach {
  const rule = `budget.${budget}` as const;
  return { reason: rule, rule, measured: 2, limit: 1, unit: 'ms', action, denial: null };
}

const AT = { nowMs: 1_000, cpuMillisMax: 2_000 };

describe('a pause on a v2 host', () => {
  const pause = breachOf('cpu', 'pause');

  it('is told when the kernel says that everything stands, not before', () => {
    const ladder = createLadder({ paths, cpusOnline: 4 });
    ladder.take(pause, AT);
    const asked = [read('cgroup.freeze'), ladder.settle(1_010), ladder.pending, ladder.paused];
    events({ populated: 1, frozen: 1 });
    const done = [ladder.settle(1_020), ladder.pending, ladder.paused];
    ladder.thaw();
    expect([asked, done]).toEqual([
      ['1', [], true, false],
      [[{ breach: pause, held: true }], false, true],
    ]);
    expect([read('cgroup.freeze'), ladder.paused]).toEqual(['0', false]);
    ladder.close();
  });

  it.each([
    ['that never stands', { populated: 1, frozen: 0 }],
    ['whose processes are elsewhere', { populated: 0, frozen: 1 }],
  ])('fails after a second for a run %s', (_, state) => {
    events(state);
    const ladder = createLadder({ paths, cpusOnline: 4 });
    ladder.take(pause, AT);
    expect([ladder.settle(1_999), ladder.settle(2_000), ladder.paused]).toEqual([
      [],
      [{ breach: pause, held: false }],
      false,
    ]);
    ladder.close();
  });

  it('for a second budget waits no longer than for the first', () => {
    const other = breachOf('wall', 'pause');
    const ladder = createLadder({ paths, cpusOnline: 4 });
    ladder.take(pause, AT);
    ladder.take(other, { ...AT, nowMs: 1_900 });
    expect(ladder.settle(2_000)).toEqual([
      { breach: pause, held: false },
      { breach: other, held: false },
    ]);
    ladder.close();
  });
});

describe('a throttle on a v2 host', () => {
  it.each([
    ['a quarter of the limit', 2_000, '50000 100000'],
    ['a quarter of the host where there is no limit', null, '100000 100000'],
    ['a twentieth of a core at least', 100, '5000 100000'],
  ])('leaves %s', (_, cpuMillisMax, expected) => {
    const slow = breachOf('cpu', 'throttle');
    const ladder = createLadder({ paths, cpusOnline: 4 });
    ladder.take(slow, { ...AT, cpuMillisMax });
    expect([ladder.settle(1_000), read('cpu.max')]).toEqual([[{ breach: slow, held: true }], expected]);
    ladder.speedUp();
    expect(read('cpu.max')).toMatch(/^max/);
  });
});

it('says beforehand what the kernel cannot do', () => {
  const bare: CgroupPaths = { ...paths, cpu: join(root, 'nowhere'), unified: null };
  const ask = (action: Action, place: CgroupPaths): string | null =>
    impossibleAction(place, [{ budget: 'wall', limitMs: 1, action }]);
  expect([ask('throttle', paths), ask('pause', paths), ask('kill', bare), ask('warn', bare)]).toEqual([
    null,
    null,
    null,
    null,
  ]);
  expect(ask('throttle', bare)).toMatch(/throttle of budget\.wall is not enforceable/);
  expect(ask('pause', bare)).toMatch(/pause of budget\.wall is not enforceable/);
});
