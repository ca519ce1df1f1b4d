import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BudgetPlan } from '../../src/core/ports/warden.ts';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import { until } from '../support/until.ts';
import { launch, makeRun, startFixture, stopFixture, untilEnded, untilReport } from '../support/warden-run.ts';
import type { FixtureRun, WardenFixture } from '../support/warden-run.ts';

/** What the warden of one daemon counted, the next one goes on from. */
const WALL: BudgetPlan = { budget: 'wall', limitMs: 60_000, action: 'kill' };
const SPIN = 'i=0; while [ $i -lt 60000000 ]; do i=$((i+1)); done';

let first: WardenFixture;
let next: WardenFixture | null = null;
let run: FixtureRun;

beforeEach(async () => {
  first = await startFixture();
  run = await makeRun('all');
});

afterEach(async () => {
  const last = next ?? first;
  last.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
  await untilReport(last, 'emptied', run.runId);
  const released = await Promise.allSettled([run.release()]);
  last.warden.send({ kind: 'unwatch', runId: run.runId });
  await first.warden.stop();
  await untilEnded(first.warden.pid);
  await stopFixture(last);
  next = null;
  for (const result of released) if (result.status === 'rejected') throw result.reason;
});

function refuse(fixture: WardenFixture, ...names: readonly string[]): void {
  const lines = names.map((name) => {
    const denial = {
      kind: 'name',
      at: new Date().toISOString(),
      destination: name,
      port: null,
      protocol: 'dns',
      rule: 'egress',
      explanation: 'no rule of the profile names it',
    };
    return `${JSON.stringify({ address: '203.0.113.2', suppressed: 0, denial })}\n`;
  });
  fixture.warden.feedSocket.write(lines.join(''));
}

async function untilRefused(fixture: WardenFixture, count: number): Promise<void> {
  await until(`${count} are counted`, async () => (await fixture.warden.sample(run.runId)).denials === count, {
    deadlineMs: 10_000,
  });
}

/** The daemon goes, and the next one's warden takes the run. */
async function succeed(budgets: readonly BudgetPlan[], warnAt: readonly number[] = []): Promise<WardenFixture> {
  await first.warden.stop();
  next = await startFixture({ directory: first.directory });
  await next.warden.watch(run.plan({ budgets, warnAt }));
  return next;
}

describe('refused attempts', () => {
  const whole: BudgetPlan = { budget: 'denials', count: 3, windowMs: null, action: 'kill' };

  it('count on over the whole run', async () => {
    await launch(first, run, { script: 'sleep 60', plan: { budgets: [whole, WALL] } });
    refuse(first, 'one.example', 'two.example');
    await untilRefused(first, 2);
    const after = await succeed([whole, WALL]);
    refuse(after, 'three.example');
    await untilRefused(after, 3);
    refuse(after, 'four.example');
    const { breach, usage } = await untilReport(after, 'emptied', run.runId);
    expect([breach?.reason, breach?.measured, usage.denials]).toEqual(['budget.denials', 4, 4]);
  });

  it('count on in their window, and fall out of it by the time that has passed', async () => {
    const within = (windowMs: number): BudgetPlan => ({ budget: 'denials', count: 2, windowMs, action: 'kill' });
    await launch(first, run, { script: 'sleep 60', plan: { budgets: [within(60_000), WALL] } });
    refuse(first, 'one.example', 'two.example');
    await untilRefused(first, 2);
    const refusedAtMs = bootTimeMs();
    const after = await succeed([within(500), WALL]);
    await until('the window is empty', () => bootTimeMs() - refusedAtMs > 500, { deadlineMs: 5_000 });
    refuse(after, 'three.example');
    await untilRefused(after, 3);
    expect(after.reports.filter(({ kind }) => kind === 'breached')).toEqual([]);
    await after.warden.change(run.runId, { ...run.plan({}), budgets: [within(60_000), WALL] });
    refuse(after, 'four.example');
    await untilRefused(after, 4);
    refuse(after, 'five.example');
    const { breach } = await untilReport(after, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.denials', limit: 2, measured: 3 });
  });

  it('count when they come before the run is taken over, and after its warden was killed', async () => {
    await launch(first, run, { script: 'sleep 60', plan: { budgets: [whole, WALL] } });
    refuse(first, 'one.example', 'two.example');
    await untilRefused(first, 2);
    await first.warden.stop();
    await until('what it knew is written', () => existsSync(join(first.directory, `${run.runId}.note`)), {
      deadlineMs: 5_000,
    });
    process.kill(first.warden.pid, 'SIGKILL');
    await untilEnded(first.warden.pid);
    next = await startFixture({ directory: first.directory });
    refuse(next, 'three.example', 'four.example');
    // Answered after the lines were read: nothing tells of a refusal to a run that is not watched.
    await expect(next.warden.change('rnothinghere0', run.plan({}))).rejects.toThrow(/no watched run/);
    await next.warden.watch(run.plan({ budgets: [whole, WALL] }));
    const { breach } = await untilReport(next, 'emptied', run.runId);
    expect(breach).toMatchObject({ reason: 'budget.denials', measured: 4, limit: 3 });
  });

  it('are warned of once', async () => {
    const budgets = [{ ...whole, count: 4 }, WALL];
    await launch(first, run, { script: 'sleep 60', plan: { budgets, warnAt: [0.5] } });
    refuse(first, 'one.example', 'two.example');
    await untilReport(first, 'warned', run.runId);
    const after = await succeed(budgets, [0.5]);
    refuse(after, 'three.example');
    await untilRefused(after, 3);
    expect(after.reports.filter(({ kind }) => kind === 'warned')).toEqual([]);
  });
});

it('what a person granted a paused run stays granted', async () => {
  const pause: BudgetPlan = { budget: 'cpu', limitMs: 200, action: 'pause' };
  await launch(first, run, { script: SPIN, plan: { budgets: [pause, WALL] } });
  await untilReport(first, 'held', run.runId);
  first.warden.send({ kind: 'resume', runId: run.runId });
  await untilReport(first, 'resumed', run.runId);
  const after = await succeed([pause, WALL]);
  const held = await untilReport(after, 'held', run.runId);
  expect(held.breach.limit).toBeGreaterThanOrEqual(400);
  expect(held.breach.measured).toBeGreaterThanOrEqual(held.breach.limit);
});

it('leaves no note of a run that is over', async () => {
  await launch(first, run, { script: 'sleep 60', plan: { budgets: [WALL] } });
  const after = await succeed([WALL]);
  const note = join(first.directory, `${run.runId}.note`);
  expect(existsSync(note)).toBe(true);
  after.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
  await untilReport(after, 'emptied', run.runId);
  after.warden.send({ kind: 'unwatch', runId: run.runId });
  await until('it is gone', () => !existsSync(note), { deadlineMs: 5_000 });
});
