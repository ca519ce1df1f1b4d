import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { launch, makeRun, startFixture, stopFixture, untilReport } from '../support/warden-run.ts';
import type { FixtureRun, WardenFixture } from '../support/warden-run.ts';

// Loops are bounded, so that a failing test leaves a machine that comes to rest by itself.
const SPIN = 'i=0; while [ $i -lt 60000000 ]; do i=$((i+1)); done';
const BURSTS = `n=0; while [ $n -lt 400 ]; do timeout 0.05 sh -c '${SPIN}'; sleep 0.02; n=$((n+1)); done`;

describe.each(['all', 'v1'] as const)('a run in the hierarchies %s', (hierarchies) => {
  let fixture: WardenFixture;
  let run: FixtureRun;
  beforeEach(async () => {
    fixture = await startFixture();
    run = await makeRun(hierarchies);
  });
  afterEach(async () => {
    const released = await Promise.allSettled([run.release()]);
    fixture.warden.send({ kind: 'unwatch', runId: run.runId });
    await stopFixture(fixture);
    for (const result of released) if (result.status === 'rejected') throw result.reason;
  });

  it('is killed whole when several processes spend its CPU budget in bursts', async () => {
    const plan = { budgets: [{ budget: 'cpu', limitMs: 400, action: 'kill' }] } as const;
    await launch(fixture, run, { script: `(${BURSTS}) & (${BURSTS}) & (${BURSTS})`, plan });
    const breached = await untilReport(fixture, 'breached', run.runId);
    const emptied = await untilReport(fixture, 'emptied', run.runId);
    expect(breached.breach).toMatchObject({ reason: 'budget.cpu', rule: 'budget.cpu', limit: 400, action: 'kill' });
    expect(breached.breach.measured).toBeLessThan(500);
    expect(breached.processes.length).toBeGreaterThan(0);
    expect(emptied.breach).toEqual(breached.breach);
    expect(emptied.usage.cpuMs).toBeGreaterThanOrEqual(400);
    expect(run.pids()).toEqual([]);
  });

  it('goes on below its budgets, and its natural end is told with its last counters', async () => {
    const plan = {
      budgets: [
        { budget: 'cpu', limitMs: 30_000, action: 'kill' },
        { budget: 'wall', limitMs: 30_000, action: 'kill' },
      ],
    } as const;
    await launch(fixture, run, { script: 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.1', plan });
    const emptied = await untilReport(fixture, 'emptied', run.runId);
    expect(emptied.breach).toBeNull();
    expect(emptied.times).toEqual({ detectedMs: null, signalledMs: null, emptyMs: emptied.usage.wallMs });
    expect(emptied.usage.cpuMs).toBeGreaterThan(20);
    expect(emptied.usage.wallMs).toBeGreaterThan(100);
    expect(emptied.usage.memoryBytesPeak).toBeGreaterThan(0);
    expect(fixture.reports.filter(({ kind }) => kind === 'breached')).toEqual([]);
  });

  it('is killed at its wall budget although it ignores every signal that can be ignored', async () => {
    const plan = { budgets: [{ budget: 'wall', limitMs: 400, action: 'kill' }] } as const;
    await launch(fixture, run, { script: "trap '' TERM INT HUP QUIT; sleep 30; sleep 30", plan });
    const { times, usage } = await untilReport(fixture, 'emptied', run.runId);
    expect(times.detectedMs).toBeGreaterThanOrEqual(400);
    expect(times.detectedMs).toBeLessThan(450);
    expect(times.emptyMs).toBeLessThan(700);
    expect(usage.wallMs).toBe(times.emptyMs);
  });

  it('gets SIGTERM and its grace where the budget says `stop`, and SIGKILL after it', async () => {
    const plan = { budgets: [{ budget: 'wall', limitMs: 200, action: 'stop' }], graceMs: 400 } as const;
    await launch(fixture, run, {
      script: "trap '' TERM; i=0; while [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done",
      plan,
    });
    const { times, breach } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({ rule: 'budget.wall', action: 'stop' });
    expect((times.emptyMs ?? 0) - (times.signalledMs ?? 0)).toBeGreaterThanOrEqual(395);
    expect((times.emptyMs ?? 0) - (times.signalledMs ?? 0)).toBeLessThan(700);
  });

  it('may end in order within its grace', async () => {
    const plan = { budgets: [{ budget: 'wall', limitMs: 200, action: 'stop' }], graceMs: 5_000 } as const;
    await launch(fixture, run, { script: "trap 'exit 7' TERM; while [ -d /proc ]; do sleep 0.05; done", plan });
    const { times } = await untilReport(fixture, 'emptied', run.runId);
    expect((times.emptyMs ?? 0) - (times.signalledMs ?? 0)).toBeLessThan(1_000);
  });

  it('is only warned where the budget says `warn`', async () => {
    const plan = { budgets: [{ budget: 'wall', limitMs: 100, action: 'warn' }] } as const;
    await launch(fixture, run, { script: 'sleep 0.5', plan });
    const emptied = await untilReport(fixture, 'emptied', run.runId);
    const warned = fixture.reports.filter(({ kind }) => kind === 'warned');
    expect(emptied.breach).toBeNull();
    expect(warned).toMatchObject([{ rule: 'budget.wall', fraction: 1, limit: 100 }]);
  });

  it('does not outlive its kill by forking during it', async () => {
    run.limit('pids', 'pids.max', '150');
    const plan = { budgets: [{ budget: 'wall', limitMs: 500, action: 'kill' }] } as const;
    const fork = 'n=0; while [ $n -lt 20000 ]; do sleep 1 & n=$((n+1)); done';
    await launch(fixture, run, { script: `(${fork}) & (${fork}) & ${fork}`, plan });
    const { usage } = await untilReport(fixture, 'emptied', run.runId);
    expect(usage.pidsPeak).toBeGreaterThan(20);
    expect(run.pids()).toEqual([]);
    expect(fixture.reports.filter(({ kind }) => kind === 'undead')).toEqual([]);
  });

  it('takes those with it that left its session and its parents', async () => {
    const plan = { budgets: [{ budget: 'wall', limitMs: 500, action: 'kill' }] } as const;
    const script = "setsid sh -c '(sleep 30 &) ; setsid sleep 30 & exit' & sleep 30";
    await launch(fixture, run, { script, plan });
    const { processes } = await untilReport(fixture, 'breached', run.runId);
    await untilReport(fixture, 'emptied', run.runId);
    expect(processes.length).toBeGreaterThanOrEqual(3);
    expect(run.pids()).toEqual([]);
  });

  it('is counted although it was over before anybody could look', async () => {
    const plan = { budgets: [{ budget: 'cpu', limitMs: 30_000, action: 'kill' }] } as const;
    await launch(fixture, run, { script: ':', plan });
    const { usage, breach } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toBeNull();
    expect(usage.cpuMs).toBeGreaterThan(0);
    expect(usage.pidsPeak).toBeGreaterThan(0);
  });

  it('is ended by its first OOM kill where the profile says `agent`', async () => {
    run.limit('memory', 'memory.limit_in_bytes', String(24 * 1024 * 1024));
    await launch(fixture, run, { script: 'sleep 0.2; tail /dev/zero; sleep 20', plan: { onOom: 'agent' } });
    const { breach, usage } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'oom', rule: 'limits.memory', limit: 24 * 1024 * 1024 });
    expect(usage.oomKills).toBeGreaterThanOrEqual(1);
    expect(usage.wallMs).toBeLessThan(10_000);
  });

  it('survives an OOM kill of one process where the profile says `process`', async () => {
    run.limit('memory', 'memory.limit_in_bytes', String(24 * 1024 * 1024));
    await launch(fixture, run, { script: 'sleep 0.2; tail /dev/zero; sleep 0.3', plan: { onOom: 'process' } });
    const { breach, usage } = await untilReport(fixture, 'emptied', run.runId);
    expect([breach, usage.oomKills]).toEqual([null, 1]);
  });

  it('tells how often the kernel refused it a process', async () => {
    run.limit('pids', 'pids.max', '4');
    await launch(fixture, run, {
      script: 'sleep 0.2; n=0; while [ $n -lt 8 ]; do (sleep 0.3 &) ; n=$((n+1)); done',
      plan: {},
    });
    const { usage } = await untilReport(fixture, 'emptied', run.runId);
    expect(usage.pidsRefusals).toBeGreaterThan(0);
    expect(usage.pidsPeak).toBeLessThanOrEqual(4);
  });
});
