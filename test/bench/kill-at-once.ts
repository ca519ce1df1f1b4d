/**
 * Forty agents in containers whose time is up at the same moment, killed by the warden; and as many killed at the same
 * moment by forty calls of Docker's API. Needs a lab with its images:
 *
 *   scripts/lab exec -- node test/bench/kill-at-once.ts [--agents 40] [--rounds 5]
 *
 * The moment is known beforehand, and the end is what the agent itself wrote last, at most 5 ms before its death
 * (`test/fixtures/agents/clock.c`).
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import { leafPathsOf } from '../../src/meter/layout.ts';
import { describeMachine, distribution, DISTRIBUTION, markdown, stopAfter } from '../support/bench.ts';
import { buildClock, monotonicMs } from '../support/bench-clock.ts';
import type { ClockRecord } from '../support/bench-clock.ts';
import { openBenchEngine, startContainerRun } from '../support/bench-containers.ts';
import type { ContainerRun } from '../support/bench-containers.ts';
import { inTurns } from '../support/bench-crowd.ts';
import { lab } from '../support/lab.ts';
import { until } from '../support/until.ts';
import { startFixture, stopFixture, untilReport } from '../support/warden-run.ts';

const MINUTES_MAX = 20;
const WALL_MS = 3_600_000;
const SOON_MS = 1_000;
const DIE_MS_MAX = 30_000;

const { values } = parseArgs({
  options: { agents: { type: 'string', default: '40' }, rounds: { type: 'string', default: '5' } },
});
const agents = Number(values.agents);
const rounds = Number(values.rounds);

type Victim = { readonly made: ContainerRun; readonly record: ClockRecord };

const stop = stopAfter(MINUTES_MAX);
const clock = buildClock();
const engine = openBenchEngine(lab.dockerSocket);
const fixture = await startFixture();
const rows = new Map<string, { readonly lives: number[]; readonly lastOfRound: number[] }>();
const before = await describeMachine();
try {
  for (let round = 0; round < rounds; round += 1) {
    add('Ringfence: one wall time for all', await together('warden'));
    add('Docker: a kill through the API for each', await together('api'));
  }
} finally {
  await engine.removeAll();
  await stopFixture(fixture);
  clock.remove();
  const cells = [...rows].map(([label, { lives, lastOfRound }]) => [
    label,
    ...distribution(lives),
    distribution(lastOfRound)[1] ?? '',
  ]);
  process.stdout.write(`${before}\nmoment to last sign of life of ${agents} containers at once, milliseconds\n\n`);
  process.stdout.write(`${markdown(['killer', ...DISTRIBUTION, 'the last of a round, p50'], cells)}\n`);
}

async function together(killer: 'warden' | 'api'): Promise<readonly number[]> {
  const victims: Victim[] = [];
  try {
    await inTurns(agents, async () => {
      stop.throwIfAborted();
      const record = clock.record();
      const options = { command: [clock.path, 'tick', record.file], folders: clock.folders };
      const budgets = [{ budget: 'wall', limitMs: WALL_MS, action: 'kill' }] as const;
      const watched = killer === 'warden' ? { budgets } : null;
      victims.push({ record, made: await startContainerRun({ engine, fixture }, { ...options, watched }) });
    });
    for (const { record } of victims) await until('the agent writes', () => record.begun(), { deadlineMs: DIE_MS_MAX });
    const momentMs = killer === 'warden' ? await timeIsUp(victims) : await killAll(victims);
    return victims.map(({ record }) => record.read().lastSignMs - momentMs);
  } finally {
    for (const { made } of victims) await made.release();
  }
}

/** They are told to have begun so long ago that the time of all is up a second from now. */
async function timeIsUp(victims: readonly Victim[]): Promise<number> {
  const momentMs = monotonicMs() + SOON_MS;
  const startedAtBootMs = bootTimeMs() + SOON_MS - WALL_MS;
  for (const { made } of victims) {
    const { pid } = made.container;
    const { runId } = made.run;
    fixture.warden.send({ kind: 'started', runId, pid, leafPaths: leafPathsOf(pid), startedAtBootMs });
  }
  for (const { made } of victims) await untilReport(fixture, 'emptied', made.run.runId);
  return momentMs;
}

async function killAll(victims: readonly Victim[]): Promise<number> {
  await delay(SOON_MS);
  const momentMs = monotonicMs();
  await Promise.all(victims.map(({ made }) => made.container.kill()));
  const empty = (): boolean => victims.every(({ made }) => made.run.pids().length === 0);
  await until('all are dead', empty, { deadlineMs: DIE_MS_MAX });
  return momentMs;
}

function add(label: string, lives: readonly number[]): void {
  const row = rows.get(label) ?? { lives: [], lastOfRound: [] };
  row.lives.push(...lives);
  row.lastOfRound.push(Math.max(...lives));
  rows.set(label, row);
}
