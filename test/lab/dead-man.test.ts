import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import { childOf, isAlive, isProcess, pidsOfRun, processesWith, untilDead } from '../support/processes.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * Daemon and warden both end by SIGKILL, or stand still: what is left is the kernel, which holds limits and egress, and
 * for runs with `supervisor.lost: kill` the dead-man.
 */
const world = useSupervised();
const DEADLINE_MS = 40_000;
const TIME_OUT = { timeout: 180_000 };
const FOR_MS = 1_500;
const LOST = { 'supervisor.lost': { action: 'kill', for: `${FOR_MS}ms` } };

/** The process of this daemon that runs a program of the warden; each names the state directory. */
function processOf(program: 'process' | 'dead-man-process'): number {
  const found = processesWith(`/warden/${program}.`, world.daemon.state);
  expect(found).toHaveLength(1);
  return found[0] ?? 0;
}

async function twoRuns(): Promise<{ readonly lost: RunDetail; readonly kept: RunDetail }> {
  const lost = await world.start({
    name: 'not-alone',
    command: SHELL('exec sleep 300'),
    on: LOST,
    budget: { wall: '5m' },
  });
  const kept = await world.start({ name: 'alone', command: SHELL('exec sleep 300'), budget: { wall: '5m' } });
  return { lost, kept };
}

async function untilKilled({ lost, kept }: Awaited<ReturnType<typeof twoRuns>>): Promise<void> {
  const sinceMs = performance.now();
  await untilDead(lost, { deadlineMs: DEADLINE_MS });
  expect(performance.now() - sinceMs).toBeGreaterThan(FOR_MS - 500);
  expect(isAlive(kept)).toBe(true);
}

async function account({ lost, kept }: Awaited<ReturnType<typeof twoRuns>>): Promise<void> {
  await world.daemon.start();
  const { outcome } = await world.wait(lost.runId);
  expect(outcome).toMatchObject({ reason: 'supervisor.lost', rule: 'on.supervisor.lost' });
  const ofTheRun = (await world.incidentsOf('not-alone')).filter(({ runId }) => runId === lost.runId);
  expect(ofTheRun.map(({ id }) => id)).toEqual([outcome.incidentId]);
  await world.running(kept.runId);
  await world.ringfence('kill', kept.runId);
  expect((await world.wait(kept.runId)).outcome.reason).toBe('killed');
}

function mayBeProtected(): boolean {
  try {
    writeFileSync('/proc/self/oom_score_adj', '-1');
    return true;
  } catch {
    return false;
  }
}

test('the processes of the supervisor are the last that a kernel without memory ends', TIME_OUT, async () => {
  const runs = await twoRuns();
  const scoreOf = (pid: number): number => Number(readFileSync(`/proc/${pid}/oom_score_adj`, 'latin1'));
  const gate = childOf(world.daemon.pid, 'gate/process');
  const scores = {
    warden: scoreOf(processOf('process')),
    deadMan: scoreOf(processOf('dead-man-process')),
    daemon: scoreOf(world.daemon.pid),
    gate: scoreOf(gate),
    checker: scoreOf(childOf(gate, 'checker/process')),
    agent: scoreOf(pidsOfRun(runs.lost)[0] ?? 0),
  };
  const { agent, ...ours } = scores;
  // Less than it has is a power that this machine may keep from its root.
  const asked = { warden: -999, deadMan: -999, daemon: -900, gate: -800, checker: 0 };
  const kept = { warden: 0, deadMan: 0, daemon: 0, gate: 0, checker: 0 };
  expect(ours).toEqual(mayBeProtected() ? asked : kept);
  expect(agent).toBeGreaterThan(Math.max(...Object.values(ours)));
  for (const { runId } of Object.values(runs)) {
    await world.ringfence('kill', runId);
    await world.wait(runId);
  }
});

test(
  'a run that must not be alone is ended when daemon and warden are both killed, and another goes on',
  TIME_OUT,
  async () => {
    const runs = await twoRuns();
    const [warden, deadMan] = [processOf('process'), processOf('dead-man-process')];
    await world.daemon.crash();
    process.kill(warden, 'SIGKILL');
    await untilKilled(runs);
    await account(runs);
    await until('the dead-man of the daemon before is gone', () => !isProcess(deadMan, 'dead-man-process'), {
      deadlineMs: DEADLINE_MS,
    });
  },
);

test('a warden that stands still when the daemon dies is none', TIME_OUT, async () => {
  const runs = await twoRuns();
  process.kill(processOf('process'), 'SIGSTOP');
  await world.daemon.crash();
  await untilKilled(runs);
  // The next daemon ends the one that stands still, and takes its place.
  await account(runs);
});

test('a dead-man that dies is started again, and guards what it guarded', TIME_OUT, async () => {
  const runs = await twoRuns();
  const first = processOf('dead-man-process');
  process.kill(first, 'SIGKILL');
  await until(
    'there is another',
    () => processesWith('/warden/dead-man-process.', world.daemon.state).some((pid) => pid !== first),
    { deadlineMs: DEADLINE_MS },
  );
  // It answers before it is asked about the next run, so it guards the first one by then.
  const next = await world.start({ name: 'next', command: SHELL('exec sleep 300'), on: LOST, budget: { wall: '5m' } });
  await world.ringfence('kill', next.runId);
  await world.wait(next.runId);
  const warden = processOf('process');
  await world.daemon.crash();
  process.kill(warden, 'SIGKILL');
  await untilKilled(runs);
  await account(runs);
});
