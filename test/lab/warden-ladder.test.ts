import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BudgetPlan, WatchPlan } from '../../src/core/ports/warden.ts';
import { killNow } from '../../src/meter/processes.ts';
import { until } from '../support/until.ts';
import { launch, makeRun, startFixture, stopFixture, untilReport } from '../support/warden-run.ts';
import type { FixtureRun, WardenFixture } from '../support/warden-run.ts';

// Loops are bounded, so that a failing test leaves a machine that comes to rest by itself.
const SPIN = 'i=0; while [ $i -lt 60000000 ]; do i=$((i+1)); done';
const CORE_US = '100000';
const WALL: BudgetPlan = { budget: 'wall', limitMs: 30_000, action: 'kill' };

let fixture: WardenFixture;
let run: FixtureRun;

async function begin(hierarchies: 'all' | 'v1'): Promise<void> {
  fixture = await startFixture();
  run = await makeRun(hierarchies);
}
async function finish(): Promise<void> {
  const released = await Promise.allSettled([run.release()]);
  fixture.warden.send({ kind: 'unwatch', runId: run.runId });
  await stopFixture(fixture);
  for (const result of released) if (result.status === 'rejected') throw result.reason;
}
afterEach(finish);

function count(kind: string): number {
  return fixture.reports.filter((report) => report.kind === kind).length;
}

async function end(): Promise<void> {
  fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
  await untilReport(fixture, 'emptied', run.runId);
}

/** CPU time while at least so much time of the run passed. */
async function cpuMsOf(wallMs: number): Promise<{ readonly cpuMs: number; readonly wallMs: number }> {
  const first = await fixture.warden.sample(run.runId);
  const last = await until(
    `${wallMs} ms have passed`,
    async () => {
      const usage = await fixture.warden.sample(run.runId);
      return usage.wallMs - first.wallMs >= wallMs ? usage : null;
    },
    { deadlineMs: 20_000 },
  );
  return { cpuMs: last.cpuMs - first.cpuMs, wallMs: last.wallMs - first.wallMs };
}

function boundsOf(budgets: readonly BudgetPlan[]): Pick<WatchPlan, 'budgets' | 'graceMs' | 'warnAt' | 'onOom'> & {
  readonly killWithoutDaemonAfterMs: null;
  readonly gpu: null;
} {
  return { budgets, graceMs: 300, warnAt: [], onOom: 'agent', killWithoutDaemonAfterMs: null, gpu: null };
}

describe('a run whose budget says `throttle`', () => {
  const slow: BudgetPlan = { budget: 'cpu', limitMs: 200, action: 'throttle' };
  const quotas = (): readonly string[] =>
    [run.paths.cpu, run.leafPaths.cpu].map((place) => readFileSync(join(place, 'cpu.cfs_quota_us'), 'utf8').trim());
  beforeEach(() => begin('all'));

  it('keeps a quarter of its CPU, as the kernel says and does, and still ends at a harder budget', async () => {
    run.limit('cpu', 'cpu.cfs_quota_us', CORE_US);
    await launch(fixture, run, { script: `(${SPIN}) & ${SPIN}`, plan: { budgets: [slow, WALL] } });
    const held = await untilReport(fixture, 'held', run.runId);
    expect(held.breach).toMatchObject({ reason: 'budget.cpu', action: 'throttle', limit: 200 });
    expect(quotas()).toEqual(['25000', '25000']);
    const used = await cpuMsOf(1_000);
    // A quarter of a core, and what two periods next to each other may add.
    expect(used.cpuMs).toBeLessThan(used.wallMs / 4 + 75);
    expect(used.cpuMs).toBeGreaterThan(0);
    await fixture.warden.change(run.runId, boundsOf([slow, { ...WALL, limitMs: 1 }]));
    const { breach } = await untilReport(fixture, 'emptied', run.runId);
    expect([breach?.reason, breach?.action, count('held'), count('breached')]).toEqual(['budget.wall', 'kill', 1, 1]);
  });

  it('is as fast as before when a changed profile gives it more', async () => {
    run.limit('cpu', 'cpu.cfs_quota_us', CORE_US);
    await launch(fixture, run, { script: SPIN, plan: { budgets: [slow, WALL] } });
    await untilReport(fixture, 'held', run.runId);
    await fixture.warden.change(run.runId, boundsOf([{ ...slow, limitMs: 60_000 }, WALL]));
    expect(quotas()).toEqual(['-1', CORE_US]);
    const used = await until('it is fast again', async () => ((await cpuMsOf(200)).cpuMs > 60 ? true : null), {
      deadlineMs: 20_000,
    });
    expect([used, count('held')]).toEqual([true, 1]);
    await end();
  });

  it('keeps at least a twentieth of a core', async () => {
    run.limit('cpu', 'cpu.cfs_quota_us', '12000');
    await launch(fixture, run, { script: SPIN, plan: { budgets: [{ ...slow, limitMs: 50 }, WALL] } });
    await untilReport(fixture, 'held', run.runId);
    expect(quotas()).toEqual(['5000', '5000']);
    await end();
  });

  it('is not slowed down once more by the warden of the next daemon', async () => {
    run.limit('cpu', 'cpu.cfs_quota_us', CORE_US);
    await launch(fixture, run, { script: SPIN, plan: { budgets: [slow, WALL] } });
    await untilReport(fixture, 'held', run.runId);
    const next = await startFixture({ directory: fixture.directory });
    try {
      await fixture.warden.stop();
      await next.warden.watch(run.plan({ budgets: [slow, WALL] }));
      await untilReport(next, 'held', run.runId);
      expect(quotas()).toEqual(['25000', '25000']);
      next.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
      await untilReport(next, 'emptied', run.runId);
      next.warden.send({ kind: 'unwatch', runId: run.runId });
    } finally {
      await next.warden.stop();
    }
  });
});

describe.each(['by the freezer', 'by the v2 tree'] as const)('a run whose budget says `pause`, %s', (way) => {
  const pause: BudgetPlan = { budget: 'cpu', limitMs: 200, action: 'pause' };
  const start = (script: string, budgets: readonly BudgetPlan[]): Promise<unknown> => {
    const parentPaths = way === 'by the freezer' ? run.paths : { ...run.paths, freezer: null };
    return launch(fixture, run, { script, plan: { budgets, parentPaths, graceMs: 5_000 } });
  };
  const isFrozen = (): boolean =>
    way === 'by the freezer'
      ? readFileSync(join(run.paths.freezer ?? '', 'freezer.state'), 'utf8').trim() === 'FROZEN'
      : readFileSync(join(run.paths.unified ?? '', 'cgroup.events'), 'utf8').includes('frozen 1');
  beforeEach(() => begin('all'));

  it('stands still until a person lets it go on, and pauses again when as much again is used', async () => {
    await start(`(${SPIN}) & ${SPIN}`, [pause, WALL]);
    const held = await untilReport(fixture, 'held', run.runId);
    expect(held.breach).toMatchObject({ reason: 'budget.cpu', action: 'pause', limit: 200 });
    expect([isFrozen(), (await cpuMsOf(300)).cpuMs, run.pids().length]).toEqual([true, 0, 2]);
    fixture.warden.send({ kind: 'resume', runId: run.runId });
    await untilReport(fixture, 'resumed', run.runId);
    const second = await until('it is paused again', () => fixture.reports.filter(({ kind }) => kind === 'held')[1], {
      deadlineMs: 20_000,
    });
    if (second.kind !== 'held') throw new Error('it is the report that was looked for');
    expect(second.breach.limit).toBeGreaterThanOrEqual(400);
    expect(second.breach.measured).toBeGreaterThanOrEqual(second.breach.limit);
    expect([isFrozen(), count('breached')]).toEqual([true, 0]);
    await end();
    expect(run.pids()).toEqual([]);
  });

  it('ends at its wall time when nobody comes', async () => {
    await start(SPIN, [pause, { ...WALL, limitMs: 1_500 }]);
    await untilReport(fixture, 'held', run.runId);
    const { breach, times } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.wall', action: 'kill' });
    expect(times.signalledMs).toBeGreaterThanOrEqual(1_500);
  });

  it('can be killed without the warden too', async () => {
    await start(`(${SPIN}) & ${SPIN}`, [pause, WALL]);
    await untilReport(fixture, 'held', run.runId);
    await until('nothing of it is left', () => killNow(run.paths).length === 0, { deadlineMs: 5_000 });
    await untilReport(fixture, 'emptied', run.runId);
  });

  it('can still be asked to end, and ends in order', async () => {
    await start(`trap 'exit 7' TERM; ${SPIN}`, [pause, WALL]);
    await untilReport(fixture, 'held', run.runId);
    fixture.warden.send({ kind: 'stop', runId: run.runId, reason: 'stopped', graceMs: 5_000 });
    const { times } = await untilReport(fixture, 'emptied', run.runId);
    expect((times.emptyMs ?? 0) - (times.signalledMs ?? 0)).toBeLessThan(4_000);
  });
});

describe('a change', () => {
  beforeEach(() => begin('v1'));

  it('to less than is used ends the run, and one to more lets it live on', async () => {
    const cpu: BudgetPlan = { budget: 'cpu', limitMs: 1_000, action: 'kill' };
    await launch(fixture, run, { script: SPIN, plan: { budgets: [cpu] } });
    await until('a little is used', async () => (await fixture.warden.sample(run.runId)).cpuMs > 100, {
      deadlineMs: 10_000,
    });
    await fixture.warden.change(run.runId, boundsOf([{ ...cpu, limitMs: 60_000 }]));
    await until('the old bound is passed', async () => (await fixture.warden.sample(run.runId)).cpuMs > 1_100, {
      deadlineMs: 20_000,
    });
    expect(count('breached')).toBe(0);
    await fixture.warden.change(run.runId, boundsOf([{ ...cpu, limitMs: 500 }]));
    const { breach } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.cpu', limit: 500 });
    await expect(fixture.warden.change(run.runId, boundsOf([cpu]))).rejects.toThrow(/is ending/);
  });

  it('that cannot be is refused, and the old bounds stay', async () => {
    const parentPaths = { ...run.paths, freezer: null };
    const wall: BudgetPlan = { ...WALL, limitMs: 1_000 };
    await launch(fixture, run, { script: 'sleep 20', plan: { budgets: [wall], parentPaths } });
    const pause: BudgetPlan = { ...WALL, action: 'pause' };
    await expect(fixture.warden.change(run.runId, boundsOf([pause]))).rejects.toThrow(/pause.*not enforceable/);
    await expect(fixture.warden.change('rnothinghere0', boundsOf([]))).rejects.toThrow(/no watched run/);
    const { breach } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.wall', limit: 1_000 });
  });

  it('to `onOom: agent` passes over what was killed before, and not what is killed after', async () => {
    run.limit('memory', 'memory.limit_in_bytes', String(24 * 1024 * 1024));
    const script = 'sleep 0.2; tail /dev/zero; sleep 1.5; tail /dev/zero; sleep 20';
    await launch(fixture, run, { script, plan: { onOom: 'process', budgets: [WALL] } });
    await until('one process was killed', async () => (await fixture.warden.sample(run.runId)).oomKills === 1, {
      deadlineMs: 10_000,
    });
    await fixture.warden.change(run.runId, boundsOf([WALL]));
    expect([(await fixture.warden.sample(run.runId)).oomKills, count('breached')]).toEqual([1, 0]);
    const { breach, usage } = await untilReport(fixture, 'emptied', run.runId);
    expect([breach?.reason, usage.oomKills]).toEqual(['oom', 2]);
  });

  it('keeps what was refused before', async () => {
    const line = (name: string): string =>
      `${JSON.stringify({
        address: '203.0.113.2',
        suppressed: 0,
        denial: {
          kind: 'name',
          at: new Date().toISOString(),
          destination: name,
          port: null,
          protocol: 'dns',
          rule: 'egress',
          explanation: 'no rule of the profile names it',
        },
      })}\n`;
    const denials: BudgetPlan = { budget: 'denials', count: 9, windowMs: null, action: 'kill' };
    await launch(fixture, run, { script: 'sleep 20', plan: { budgets: [denials] } });
    fixture.warden.feedSocket.write(line('one.example') + line('two.example'));
    await until('both are counted', async () => (await fixture.warden.sample(run.runId)).denials === 2, {
      deadlineMs: 5_000,
    });
    await fixture.warden.change(run.runId, boundsOf([{ ...denials, count: 2 }]));
    expect(count('breached')).toBe(0);
    fixture.warden.feedSocket.write(line('three.example'));
    const { breach } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.denials', measured: 3, limit: 2 });
  });

  it('of a pause is asked for only where there is one to end', async () => {
    await launch(fixture, run, { script: 'sleep 20', plan: { budgets: [WALL] } });
    fixture.warden.send({ kind: 'resume', runId: run.runId });
    const { message, request } = await untilReport(fixture, 'refused', run.runId);
    expect([request, message]).toEqual(['resume', expect.stringMatching(/not paused/)]);
    await end();
  });
});
