import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { setTimeout as delay } from 'node:timers/promises';
import type { RunView } from '../../src/api/service.ts';
import type { LedgerRecord } from '../../src/core/ports/record.ts';
import { createRandom } from '../simulation/random.ts';
import { cli } from '../support/daemon.ts';
import { docker } from '../support/lab.ts';
import { processesWith } from '../support/processes.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * The real daemon is killed at instants that a seed chooses, in the midst of launch, breach, kill and clean-up, and
 * started again. What the simulator holds for every pair of records must hold here for those that it meets.
 *
 *     RINGFENCE_INSTANTS=30 RINGFENCE_SEED=1 scripts/lab exec -- npx vitest run --project lab test/lab/adoption-instants.test.ts
 */
const INSTANTS = Number(process.env['RINGFENCE_INSTANTS'] ?? 10);
const SEED = Number(process.env['RINGFENCE_SEED'] ?? Math.floor(Date.now() / 86_400_000));
/** Enough for the days on which the machine is busy; what is not reached by then is left out, and said. */
const TIME_MS_MAX = Number(process.env['RINGFENCE_INSTANTS_MS'] ?? 150_000);
const OVER_MS_MAX = 90_000;
/** What is on record when the moment comes, so that it comes in each part of a life, however slow this machine is. */
const AFTER = ['run.admitted', 'run.admitted', 'run.started', 'run.verified', 'breach', 'run.ended'] as const;
const STRAY_MS_MAX = 400;

const world = useSupervised();

const LIVES = [
  { name: 'instant-ends', command: SHELL('sleep 0.3; exit 7') },
  { name: 'instant-burns', command: SHELL('while :; do :; done'), budget: { cpu: '300ms' } },
  { name: 'instant-denied', command: SHELL('curl -s -m 2 http://203.0.113.9/; sleep 5'), budget: { denials: 0 } },
  { name: 'instant-lost', command: SHELL('exec sleep 30'), on: { 'supervisor.lost': { action: 'kill', for: '1s' } } },
] as const;

async function allRecords(): Promise<readonly LedgerRecord[]> {
  const lines = (await world.ringfence('events', '--json')).split('\n');
  return lines.map((line) => JSON.parse(line) as LedgerRecord);
}

/** Without the daemon, which would be in the midst of other work. */
function has(kind: string): boolean {
  return readFileSync(`${world.daemon.state}/ledger/ledger-000001.ndjson`, 'utf8').includes(`"kind":"${kind}"`, told);
}
/** How much of the ledger is of earlier lives. */
let told = 0;

test(
  `a daemon killed at ${INSTANTS} instants of seed ${SEED} loses no run and tells none twice`,
  {
    timeout: TIME_MS_MAX + OVER_MS_MAX + 150_000,
  },
  async () => {
    const random = createRandom(SEED);
    const endsAtMs = performance.now() + TIME_MS_MAX;
    let instants = 0;
    for (; instants < INSTANTS && performance.now() < endsAtMs; instants += 1) {
      const life = random.pick(LIVES);
      const killsByHand = random.chance(0.3);
      const after = random.pick(AFTER);
      const strayMs = random.next() * STRAY_MS_MAX;
      told = readFileSync(`${world.daemon.state}/ledger/ledger-000001.ndjson`, 'utf8').length;
      const launched = world.daemon.cli(['run', '--detach', world.writeProfile(life)]).then(async () => {
        if (killsByHand) await world.daemon.cli(['kill', life.name]);
      });
      // A life without a breach is over without one.
      await until(`${after} is on record`, () => has(after) || has('run.cleaned'), { deadlineMs: OVER_MS_MAX });
      await delay(strayMs);
      await world.daemon.crash();
      await launched.catch(() => undefined);
      await world.daemon.start();
      for (const { runId } of JSON.parse(await world.ringfence('ps', '--json')) as RunView[]) {
        if (life.name === 'instant-lost') await world.daemon.cli(['kill', runId]);
      }
      await until('every run is over', async () => (await world.ringfence('ps', '--json')).trim() === '[]', {
        deadlineMs: OVER_MS_MAX,
      });
    }
    expect(instants).toBeGreaterThan(0);
    const records = await allRecords();
    const of = (kind: string): readonly LedgerRecord[] => records.filter((record) => record.kind === kind);
    const admitted = of('run.admitted').map(({ runId }) => runId ?? '');
    expect(
      of('run.ended')
        .map(({ runId }) => runId ?? '')
        .toSorted(),
    ).toEqual(admitted.toSorted());
    const outcomes = of('run.ended').map((record) => record['outcome'] as { runId: string; incidentId: string | null });
    const opened = of('incident.opened').map((record) => (record['incident'] as { id: string }).id);
    expect(opened.toSorted()).toEqual(outcomes.flatMap(({ incidentId }) => incidentId ?? []).toSorted());
    const started = of('daemon.started');
    expect(started.map((record) => record['gapFrom'] !== null)).toEqual(started.map((_, index) => index > 0));
    expect(await docker('ps', '--all', '--quiet', '--filter', 'label=ringfence.run')).toBe('');
    const { stdout } = await cli(['ledger', 'verify', '--json', '--state', world.daemon.state]);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true });
    // A warden waits a minute for a launch that was on its way to the engine when its daemon died.
    await until(
      'only the last daemon has a warden',
      () => processesWith('/warden/process.', world.daemon.state).length === 1,
      { deadlineMs: 90_000 },
    );
    const met = new Set(of('run.ended').map((record) => (record['outcome'] as { reason: string }).reason));
    process.stdout.write(`${instants} instants, ${admitted.length} runs: ${[...met].toSorted().join(', ')}\n`);
  },
);
