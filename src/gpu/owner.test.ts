import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createOwners, runIdOf, startTicksOf } from './owner.ts';

const RUN = 'r0123456789ab';

describe('the run of a process', () => {
  it.each([
    ['cgroupfs', `12:memory:/ringfence/${RUN}/0f3a\n0::/ringfence/${RUN}/0f3a\n`],
    ['systemd', `0::/ringfence.slice/ringfence-${RUN}.slice/docker-0f3a.scope\n`],
    ['the parent itself', `0::/ringfence/${RUN}\n`],
    ['a cgroup inside another', `0::/machine.slice/ringfence/${RUN}/x\n`],
  ])('is told by its cgroup: %s', (_, text) => {
    expect(runIdOf(text)).toBe(RUN);
  });

  it.each([
    ['another’s', '0::/system.slice/docker-0f3a.scope\n'],
    ['a name that only begins so', `0::/ringfence/${RUN}x/y\n`],
    ['a name that only ends so', `0::/myringfence/${RUN}/y\n`],
    ['the root', '0::/\n'],
    ['nothing', ''],
  ])('is not told by %s', (_, text) => {
    expect(runIdOf(text)).toBeNull();
  });

  it('does not believe the name of a process', () => {
    const stat = (name: string): string => `42 (${name}) S ${'0 '.repeat(18)}777 0 0`;
    expect(startTicksOf(stat('python3'))).toBe(777);
    expect(startTicksOf(stat('a) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 5 (b'))).toBe(777);
    expect(startTicksOf(null)).toBeNull();
  });
});

describe('owners', () => {
  let proc: string;
  beforeEach(() => {
    proc = mkdtempSync(join(tmpdir(), 'rf-proc-'));
  });
  afterEach(() => rmSync(proc, { recursive: true, force: true }));
  const live = (pid: number, ticks: number, runId: string): void => {
    mkdirSync(join(proc, String(pid)), { recursive: true });
    writeFileSync(join(proc, String(pid), 'stat'), `${pid} (x) S ${'0 '.repeat(18)}${ticks} 0`);
    writeFileSync(join(proc, String(pid), 'cgroup'), `0::/ringfence/${runId}/c\n`);
  };

  it('stay known after the end of the process, for as long as it is listed', () => {
    const owners = createOwners(proc);
    live(42, 7, RUN);
    expect(owners.of(42)).toEqual({ startTicks: 7, runId: RUN });
    rmSync(join(proc, '42'), { recursive: true });
    expect(owners.of(42)).toEqual({ startTicks: 7, runId: RUN });
    expect(owners.isKnown(42)).toBe(true);
    owners.keep(new Set());
    expect(owners.isKnown(42)).toBe(false);
    expect(owners.of(42)).toEqual({ startTicks: 0, runId: null });
  });

  it('are not mistaken for a later process of the same number', () => {
    const owners = createOwners(proc);
    live(42, 7, RUN);
    owners.of(42);
    live(42, 8, 'r000000000000');
    expect(owners.of(42)).toEqual({ startTicks: 8, runId: 'r000000000000' });
  });
});
