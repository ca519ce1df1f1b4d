import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FenceDenial } from '../../src/core/ports/fence.ts';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import { removeRunCgroup } from '../../src/meter/cgroup.ts';
import { openCounter } from '../../src/meter/counters.ts';
import { takeAfterlife } from '../../src/warden/afterlife.ts';
import { until } from '../support/until.ts';
import { kindsOf, launch, makeRun, startFixture, stopFixture, untilEnded, untilReport } from '../support/warden-run.ts';
import type { FixtureRun, WardenFixture } from '../support/warden-run.ts';

let fixture: WardenFixture;
let run: FixtureRun;
beforeEach(async () => {
  fixture = await startFixture();
  run = await makeRun('all');
});
afterEach(async () => {
  const released = await Promise.allSettled([run.release()]);
  fixture.warden.send({ kind: 'unwatch', runId: run.runId });
  await stopFixture(fixture);
  for (const result of released) if (result.status === 'rejected') throw result.reason;
});

function refused(suppressed = 0): string {
  const denial: FenceDenial = {
    address: '203.0.113.2',
    suppressed,
    denial: {
      kind: 'name',
      at: new Date().toISOString(),
      destination: 'pool.example',
      port: null,
      protocol: 'dns',
      rule: 'egress',
      explanation: 'no rule of the profile names it',
    },
  };
  return `${JSON.stringify(denial)}\n`;
}

/** The shell starts its first sleep after it has set its trap. */
function untilTrapped(): Promise<true> {
  return until('the shell has set its trap', () => run.pids().length >= 2, { deadlineMs: 5_000 });
}

describe('ending by request', () => {
  it('kills at once, and calls it no breach', async () => {
    await launch(fixture, run, { script: "trap '' TERM; sleep 30", plan: {} });
    fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
    const { breach, times } = await untilReport(fixture, 'emptied', run.runId);
    expect([breach, times.detectedMs]).toEqual([null, null]);
    expect((times.emptyMs ?? 0) - (times.signalledMs ?? 0)).toBeLessThan(500);
  });

  it('asks, waits for the grace, then kills', async () => {
    await launch(fixture, run, {
      script: "trap '' TERM; i=0; while [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done",
      plan: {},
    });
    await untilTrapped();
    fixture.warden.send({ kind: 'stop', runId: run.runId, reason: 'stopped', graceMs: 300 });
    const { breach, times } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toBeNull();
    expect((times.emptyMs ?? 0) - (times.signalledMs ?? 0)).toBeGreaterThanOrEqual(295);
  });

  it('kills within the grace of a stop when it is asked to', async () => {
    await launch(fixture, run, {
      script: "trap '' TERM; i=0; while [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done",
      plan: {},
    });
    await untilTrapped();
    fixture.warden.send({ kind: 'stop', runId: run.runId, reason: 'stopped', graceMs: 20_000 });
    fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
    const { times } = await untilReport(fixture, 'emptied', run.runId);
    expect(times.emptyMs).toBeLessThan(5_000);
  });

  it('ends a run that has not begun, and kills what begins in it afterwards', async () => {
    await fixture.warden.watch(run.plan({}));
    fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
    const emptied = await untilReport(fixture, 'emptied', run.runId);
    const child = run.shell('sleep 30');
    const [, signal] = (await once(child, 'exit')) as [number | null, string | null];
    expect([emptied.times.emptyMs, signal]).toEqual([null, 'SIGKILL']);
    await until('the cgroup is empty', () => run.pids().length === 0, { deadlineMs: 5_000 });
    expect(kindsOf(fixture.reports)).toEqual(['emptied']);
  });

  it('kills a run whose budget was crossed before the daemon told of its start', async () => {
    await fixture.warden.watch(run.plan({ budgets: [{ budget: 'cpu', limitMs: 300, action: 'kill' }] }));
    run.shell('i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done');
    const { breach } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.cpu' });
  });

  it('does not let go of a run that lives', async () => {
    await launch(fixture, run, {
      script: 'sleep 30',
      plan: { budgets: [{ budget: 'wall', limitMs: 600, action: 'kill' }] },
    });
    fixture.warden.send({ kind: 'unwatch', runId: run.runId });
    const { message } = await untilReport(fixture, 'refused', run.runId);
    const { breach } = await untilReport(fixture, 'emptied', run.runId);
    expect([message, breach?.reason]).toEqual(['processes of the run are still alive', 'budget.wall']);
  });

  it('answers a sample with the use of now, and refuses one of a run it does not know', async () => {
    await launch(fixture, run, { script: 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 30', plan: {} });
    await until('some CPU time was used', async () => (await fixture.warden.sample(run.runId)).cpuMs > 20, {
      deadlineMs: 5_000,
    });
    await expect(fixture.warden.sample('rnothinghere0')).rejects.toThrow(/no watched run/);
    fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
    await untilReport(fixture, 'emptied', run.runId);
  });

  it('refuses to watch what it cannot measure, what it watches already, and what it cannot do', async () => {
    const nowhere = { ...run.paths, memory: '/sys/fs/cgroup/memory/ringfence/rnothinghere0' };
    await expect(fixture.warden.watch(run.plan({ parentPaths: nowhere }))).rejects.toThrow(/memory use/);
    const pause = [{ budget: 'wall', limitMs: 1, action: 'pause' }] as const;
    const bare = { ...run.paths, freezer: null, unified: null };
    await expect(fixture.warden.watch(run.plan({ budgets: pause, parentPaths: bare }))).rejects.toThrow(
      /pause.*not enforceable/,
    );
    await fixture.warden.watch(run.plan({}));
    await expect(fixture.warden.watch(run.plan({}))).rejects.toThrow(/already watched/);
  });
});

describe('denied names', () => {
  it('end a run at the first one where none is allowed', async () => {
    const budgets = [{ budget: 'denials', count: 0, windowMs: null, action: 'kill' }] as const;
    await launch(fixture, run, { script: 'sleep 30', plan: { budgets } });
    fixture.warden.feedSocket.write(refused());
    const { breach, usage } = await untilReport(fixture, 'emptied', run.runId);
    expect(breach).toMatchObject({
      reason: 'egress.forbidden',
      rule: 'budget.denials',
      measured: 1,
      limit: 0,
      denial: { kind: 'name', destination: 'pool.example' },
    });
    expect(usage.denials).toBe(1);
  });

  it('are counted with those that the gate did not tell one by one', async () => {
    const budgets = [{ budget: 'denials', count: 10, windowMs: 60_000, action: 'kill' }] as const;
    await launch(fixture, run, { script: 'sleep 30', plan: { budgets } });
    fixture.warden.feedSocket.write(refused(9));
    await untilReport(fixture, 'denied', run.runId);
    expect(kindsOf(fixture.reports)).not.toContain('breached');
    fixture.warden.feedSocket.write(refused());
    const { breach } = await untilReport(fixture, 'breached', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.denials', rule: 'budget.denials', measured: 11, limit: 10 });
    await untilReport(fixture, 'emptied', run.runId);
  });

  it('are told in a bounded number, and none is lost from the count', async () => {
    await launch(fixture, run, { script: 'sleep 30', plan: {} });
    fixture.warden.feedSocket.write(refused().repeat(5_000));
    await until('all of them are counted', async () => (await fixture.warden.sample(run.runId)).denials === 5_000, {
      deadlineMs: 10_000,
    });
    const told = fixture.reports.filter(({ kind }) => kind === 'denied');
    expect(told.length).toBeGreaterThanOrEqual(32);
    expect(told.length).toBeLessThan(100);
    fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
    await untilReport(fixture, 'emptied', run.runId);
  });

  it('are passed over when they are not what they should be, and the next good one counts', async () => {
    const budgets = [{ budget: 'denials', count: 0, windowMs: null, action: 'kill' }] as const;
    await launch(fixture, run, { script: 'sleep 30', plan: { budgets } });
    const foreign = refused().replace('203.0.113.2', '203.0.113.6');
    fixture.warden.feedSocket.write(`\n{}\n[]\nnull\n{"address":1}\n${'x'.repeat(100_000)}\n${foreign}`);
    await fixture.warden.sample(run.runId);
    expect(kindsOf(fixture.reports)).toEqual([]);
    fixture.warden.feedSocket.write(refused());
    await untilReport(fixture, 'emptied', run.runId);
  });
});

describe('without a daemon', () => {
  it('goes on holding its runs, ends with the last, and leaves a record for the next daemon', async () => {
    const budgets = [{ budget: 'wall', limitMs: 3_500, action: 'kill' }] as const;
    await launch(fixture, run, { script: "trap '' TERM HUP; sleep 30", plan: { budgets } });
    await fixture.warden.stop();
    expect(run.pids().length).toBeGreaterThan(0);
    await untilEnded(fixture.warden.pid);
    expect(run.pids()).toEqual([]);
    const records = takeAfterlife(fixture.directory);
    expect(records.map(({ report }) => report.kind)).toEqual(['breached', 'emptied']);
    expect(records[0]?.report).toMatchObject({ runId: run.runId, breach: { reason: 'budget.wall' } });
    expect(takeAfterlife(fixture.directory)).toEqual([]);
  });

  it('hands a run over to the warden of the next daemon without ending it', async () => {
    const child = await launch(fixture, run, { script: 'sleep 30', plan: {} });
    const startedAtBootMs = bootTimeMs();
    await fixture.warden.stop();
    const next = await startFixture({ directory: fixture.directory });
    try {
      await next.warden.watch(run.plan({}));
      await untilEnded(fixture.warden.pid);
      expect(run.pids()).toContain(child.pid);
      next.warden.send({
        kind: 'started',
        runId: run.runId,
        pid: child.pid,
        leafPaths: run.leafPaths,
        startedAtBootMs,
      });
      next.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
      await untilReport(next, 'emptied', run.runId);
      expect(readFileSync(join(next.directory, `${run.runId}.holder`), 'utf8')).toBe(String(next.warden.pid));
    } finally {
      await next.warden.stop();
      await untilEnded(next.warden.pid);
    }
  });

  it('ends a run whose profile says so when the daemon stays away', async () => {
    await launch(fixture, run, { script: 'sleep 30', plan: { killWithoutDaemonAfterMs: 300 } });
    await fixture.warden.stop();
    await untilEnded(fixture.warden.pid);
    expect(takeAfterlife(fixture.directory)[0]?.report).toMatchObject({
      kind: 'breached',
      breach: { reason: 'supervisor.lost', rule: 'on.supervisor.lost' },
    });
  });
});

it('tells the daemon at once when the warden itself is killed', async () => {
  await fixture.warden.watch(run.plan({}));
  process.kill(fixture.warden.pid, 'SIGKILL');
  const lost = await until('the loss is told', () => fixture.lost[0], { deadlineMs: 5_000 });
  expect(lost).toBe('it ended by SIGKILL');
  await expect(fixture.warden.sample(run.runId)).rejects.toThrow(/the warden is gone/);
  // What a killed process could not take back.

  rmSync(join(fixture.directory, `${run.runId}.holder`));
});

it('keeps the last value of a counter whose cgroup was removed under its open descriptor', async () => {
  const other = await makeRun('all');
  const counter = openCounter([{ file: join(other.paths.pids, 'pids.current'), key: null, scale: 1 }]);
  expect([counter?.read(), counter?.gone()]).toEqual([0, false]);
  await removeRunCgroup(other.runId);
  expect([counter?.read(), counter?.gone()]).toEqual([0, true]);
  counter?.close();
});
