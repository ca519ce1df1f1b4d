import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import { until } from '../support/until.ts';
import { kindsOf, launch, makeRun, startFixture, stopFixture, untilReport } from '../support/warden-run.ts';
import type { FixtureRun, WardenFixture } from '../support/warden-run.ts';
import { makeStuckDisk } from '../support/warden-stuck-disk.ts';
import type { StuckDisk } from '../support/warden-stuck-disk.ts';

let fixture: WardenFixture;
let run: FixtureRun;
let disk: StuckDisk | null = null;
afterEach(async () => {
  // First, or nothing could end who waits for it.
  await disk?.goOn();
  const released = await Promise.allSettled([run.release()]);
  await disk?.remove();
  disk = null;
  fixture.warden.send({ kind: 'unwatch', runId: run.runId });
  await stopFixture(fixture);
  for (const result of released) if (result.status === 'rejected') throw result.reason;
});

function stateOf(pid: number): string {
  return readFileSync(`/proc/${pid}/status`, 'latin1').match(/^State:\s+(\S)/m)?.[1] ?? '';
}

describe.each(['all', 'v1'] as const)('a run that sleeps where no signal wakes it, in the hierarchies %s', (where) => {
  it('is told as undead with those that are left, not killed for ever, and over when it wakes', async () => {
    const stuck = await makeStuckDisk();
    disk = stuck;
    fixture = await startFixture();
    run = await makeRun(where);
    const budgets = [{ budget: 'wall', limitMs: 400, action: 'kill' }] as const;
    const script = `sleep 30 & echo x > ${stuck.directory}/new; sleep 30`;
    const child = await launch(fixture, run, { script, plan: { budgets } });
    const { pids } = await untilReport(fixture, 'undead', run.runId);
    expect([pids, stateOf(child.pid), kindsOf(fixture.reports)]).toEqual([[child.pid], 'D', ['breached', 'undead']]);
    await stuck.goOn();
    const { breach } = await untilReport(fixture, 'emptied', run.runId);
    expect([breach?.reason, kindsOf(fixture.reports)]).toEqual(['budget.wall', ['breached', 'undead', 'emptied']]);
  });
});

it('is killed where it was to be paused, when the kernel does not say that it stands still', async () => {
  fixture = await startFixture();
  run = await makeRun('all');
  // Takes every word and never answers FROZEN, as a freezer does whose process sleeps out of its reach.
  const freezer = join(fixture.directory, 'freezer');
  mkdirSync(freezer);
  symlinkSync('/dev/null', join(freezer, 'freezer.state'));
  const budgets = [{ budget: 'wall', limitMs: 300, action: 'pause' }] as const;
  await launch(fixture, run, { script: 'sleep 30', plan: { budgets, parentPaths: { ...run.paths, freezer } } });
  const { breach, times } = await untilReport(fixture, 'emptied', run.runId);
  expect([breach?.reason, breach?.action, kindsOf(fixture.reports)]).toEqual([
    'budget.wall',
    'kill',
    ['breached', 'emptied'],
  ]);
  expect(times.signalledMs).toBeGreaterThanOrEqual(1_300);
});

it('says how late it was when it was kept from looking', async () => {
  fixture = await startFixture();
  run = await makeRun('v1');
  await launch(fixture, run, { script: 'sleep 30', plan: {} });
  // Only what waits has a moment to be late for: it answers, and then it waits.
  fixture.warden.send({ kind: 'sample', runId: run.runId });
  await untilReport(fixture, 'sampled', run.runId);
  await until('it waits', () => stateOf(fixture.warden.pid) === 'S', { deadlineMs: 5_000 });
  const stoppedAtMs = bootTimeMs();
  process.kill(fixture.warden.pid, 'SIGSTOP');
  await until('more than the longest wait has passed', () => bootTimeMs() - stoppedAtMs > 1_600, { deadlineMs: 5_000 });
  process.kill(fixture.warden.pid, 'SIGCONT');
  await until('it is told', () => fixture.reports.some((each) => each.kind === 'late' && each.sumMs > 400), {
    deadlineMs: 15_000,
  });
  fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
  await untilReport(fixture, 'emptied', run.runId);
});
