import { expect, it } from 'vitest';
import { boundsAfterChange, boundsOf, budgetPlansOf } from './bounds.ts';
import { specOf } from './testing.ts';

const NONE = specOf();
const ALL = specOf({
  limits: { ...NONE.limits, bandwidthBitsPerSecond: 20_000_000 },
  budget: {
    ...NONE.budget,
    cpuMs: 5_000,
    egressBytes: 1_000,
    ingressBytes: 2_000,
    connections: 30,
    denials: { count: 4, windowMs: 60_000 },
  },
  on: { ...NONE.on, ingress: 'throttle', connections: 'pause' },
});

it('names only the budgets that the profile sets, with what holds each', () => {
  const budgets = (spec: typeof NONE): readonly unknown[] =>
    boundsOf(spec)
      .filter(({ path }) => path.startsWith('budget.') || path === 'limits.bandwidth')
      .map(({ path, value, unit, rung }) => [path, value, unit, rung]);
  expect(budgets(NONE)).toEqual([['budget.wall', 60_000, 'ms', 'watchdog']]);
  expect(budgets(ALL)).toEqual([
    ['limits.bandwidth', 20_000_000, 'bit/s', 'kernel'],
    ['budget.wall', 60_000, 'ms', 'watchdog'],
    ['budget.cpu', 5_000, 'ms', 'watchdog'],
    ['budget.egress', 1_000, 'bytes', 'kernel'],
    ['budget.ingress', 2_000, 'bytes', 'kernel'],
    ['budget.connections', 30, 'count', 'kernel'],
    ['budget.denials', 4, 'count', 'watchdog'],
  ]);
});

it('gives the warden each budget with its action, and none that the profile does not set', () => {
  expect(budgetPlansOf(NONE)).toEqual([{ budget: 'wall', limitMs: 60_000, action: 'kill' }]);
  expect(budgetPlansOf(ALL)).toEqual([
    { budget: 'wall', limitMs: 60_000, action: 'kill' },
    { budget: 'cpu', limitMs: 5_000, action: 'kill' },
    { budget: 'egress', limitBytes: 1_000, action: 'kill' },
    { budget: 'ingress', limitBytes: 2_000, action: 'throttle' },
    { budget: 'connections', count: 30, action: 'pause' },
    { budget: 'denials', count: 4, windowMs: 60_000, action: 'kill' },
  ]);
});

it('says of the disks what holds them on this host, and keeps that over a change of the profile', () => {
  const mount = { hostPath: '/srv/w', path: '/w', mode: 'rw' as const, sizeBytesMax: null };
  const spec = specOf({
    limits: { ...NONE.limits, ioBytesPerSecond: 1_000 },
    mounts: [mount, { ...mount, path: '/x', sizeBytesMax: 4_096 }],
  });
  const disks = (bounds: ReturnType<typeof boundsOf>): readonly unknown[] =>
    bounds.filter(({ path }) => path === 'limits.io' || path.startsWith('mounts'));
  const wanted = (rung: string, value: number): readonly unknown[] => [
    { path: 'limits.io', value, unit: 'byte/s', rung },
    { path: 'mounts[1].size', value: 4_096, unit: 'bytes', rung: 'kernel' },
  ];
  const before = boundsOf(spec, { io: 'kernel' });
  expect([disks(before), disks(boundsOf(spec)), disks(boundsOf(NONE))]).toEqual([
    wanted('kernel', 1_000),
    wanted('none', 1_000),
    [],
  ]);
  const changed = { ...spec, limits: { ...spec.limits, ioBytesPerSecond: 2_000 } };
  expect(disks(boundsAfterChange(changed, before))).toEqual(wanted('kernel', 2_000));
});
