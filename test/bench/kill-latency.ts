/**
 * How long an agent lives after it has crossed a bound, with 1, 100 and 500 agents supervised: killed by the warden, and
 * beside it, on real containers of the same engine, killed through Docker's API and by a watchdog on streams of
 * `docker stats`. Needs a lab with its images:
 *
 *   scripts/lab exec -- node test/bench/kill-latency.ts [--agents 1,100,500] [--containers 100] [--victims 50]
 *
 * No figure comes from who kills. The agent writes the time until it is dead (`test/fixtures/agents/clock.c`); when it
 * crossed its CPU budget follows from the kernel's count of its cgroup, when it asked for too much memory it wrote down
 * itself, and a refused name crosses when this program, in the gate's place, hands it to the warden.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { BudgetPlan } from '../../src/core/ports/warden.ts';
import { detectLayout } from '../../src/meter/layout.ts';
import { openMeter } from '../../src/meter/meter.ts';
import { describeMachine, distribution, DISTRIBUTION, markdown, stopAfter } from '../support/bench.ts';
import { buildClock, monotonicMs } from '../support/bench-clock.ts';
import type { ClockLife } from '../support/bench-clock.ts';
import { openBenchEngine, startContainerRun } from '../support/bench-containers.ts';
import type { ContainerRun } from '../support/bench-containers.ts';
import { FAR_FROM_BOUNDS, inTurns, startCrowd } from '../support/bench-crowd.ts';
import { lab } from '../support/lab.ts';
import { until } from '../support/until.ts';
import { launch, makeRun, startFixture, stopFixture, untilReport } from '../support/warden-run.ts';
import type { FixtureRun, Hierarchies } from '../support/warden-run.ts';

const MINUTES_MAX = 40;
const CPU_BUDGET_MS = 150;
const MEMORY_BYTES_MAX = 24 * 1024 ** 2;
/** How often the sampler of the API kill looks: as often as the warden does near a bound. */
const SAMPLE_MS = 10;
const STATS_KILL_MS_MAX = 30_000;
/** Both take seconds each. */
const STATS_VICTIMS_SHARE = 0.2;

const { values } = parseArgs({
  options: {
    agents: { type: 'string', default: '1,100,500' },
    containers: { type: 'string', default: '100' },
    victims: { type: 'string', default: '50' },
  },
});
const sizes = values.agents.split(',').map(Number);
const containersMax = Number(values.containers);
const victims = Number(values.victims);
const CPU_BUDGET: readonly BudgetPlan[] = [{ budget: 'cpu', limitMs: CPU_BUDGET_MS, action: 'kill' }];
const version = detectLayout().version;
const DENIAL = {
  kind: 'name',
  at: new Date().toISOString(),
  destination: 'pool.example',
  port: null,
  protocol: 'dns',
  rule: 'egress',
  explanation: 'no rule of the profile names it',
};

const stop = stopAfter(MINUTES_MAX);
const clock = buildClock();
const engine = openBenchEngine(lab.dockerSocket);
const fixture = await startFixture();
const releases: (() => Promise<void>)[] = [];
const crowdContainers: ContainerRun[] = [];
const rows: string[][] = [];
try {
  let supervised = 0;
  process.stdout.write(`before: ${await describeMachine()}\n`);
  for (const size of sizes) {
    await growCrowd(size - 1 - supervised);
    supervised = size - 1;
    await measure(size);
  }
} finally {
  print();
  for (const release of releases.toReversed()) await release();
  await engine.removeAll();
  await stopFixture(fixture);
  clock.remove();
}

/** Agents that do nothing: containers as many as wanted, then processes in cgroups of their own. */
async function growCrowd(count: number): Promise<void> {
  const containers = Math.max(0, Math.min(count, containersMax - crowdContainers.length));
  await inTurns(containers, async () => {
    stop.throwIfAborted();
    const options = { command: ['sleep', '86400'], watched: { budgets: FAR_FROM_BOUNDS } };
    const made = await startContainerRun({ engine, fixture }, options);
    crowdContainers.push(made);
    releases.push(() => made.release());
  });
  const options = { count: count - containers, hierarchies: 'all', script: 'exec sleep 86400' } as const;
  const crowd = await startCrowd(fixture, { ...options, budgets: FAR_FROM_BOUNDS });
  releases.push(() => crowd.release());
}

async function measure(size: number): Promise<void> {
  const sides: readonly (readonly [string, () => Promise<number>])[] = [
    ['CPU budget, sampled; cgroup v1 alone', () => ofProcess('v1', spin)],
    ['CPU budget, sampled; killed and seen through the v2 tree', () => ofProcess('all', spin)],
    [
      `memory limit, told by ${version === 2 ? 'v2 `memory.events`' : 'an eventfd of v1'}`,
      () => ofProcess('all', fill),
    ],
    ['refused name, told by the gate', () => ofProcess('all', beRefused)],
    ['CPU budget, sampled; a real container', containerByWarden],
    ['Docker: the same counter every 10 ms, kill through the API', containerByApi],
  ];
  const columns = sides.map((): number[] => []);
  for (let count = 0; count < victims; count += 1) {
    for (const [index, [, run]] of sides.entries()) {
      stop.throwIfAborted();
      columns[index]?.push(await run());
    }
  }
  sides.forEach(([label], index) => rows.push([String(size), label, ...distribution(columns[index] ?? [])]));
  const byStats = await containersByStats(Math.max(1, Math.round(victims * STATS_VICTIMS_SHARE)));
  const streams = crowdContainers.length + 1;
  const label = `Docker: watchdog on ${streams} \`docker stats\` stream${streams === 1 ? '' : 's'}, kill through the API`;
  rows.push([String(size), label, ...distribution(byStats)]);
}

async function ofProcess(hierarchies: Hierarchies, live: (run: FixtureRun) => Promise<number>): Promise<number> {
  const run = await makeRun(hierarchies);
  try {
    return await live(run);
  } finally {
    fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
    await untilReport(fixture, 'emptied', run.runId).catch(() => undefined);
    await run.release();
    fixture.warden.send({ kind: 'unwatch', runId: run.runId });
  }
}

async function spin(run: FixtureRun): Promise<number> {
  const record = clock.record();
  await launch(fixture, run, { script: `exec ${clock.path} spin ${record.file}`, plan: { budgets: CPU_BUDGET } });
  await untilReport(fixture, 'emptied', run.runId);
  return afterCpuBudget(run, record.read());
}

async function fill(run: FixtureRun): Promise<number> {
  const record = clock.record();
  if (version === 2) writeFileSync(join(run.paths.memory, 'cgroup.subtree_control'), '+memory');
  run.limit('memory', version === 2 ? 'memory.max' : 'memory.limit_in_bytes', String(MEMORY_BYTES_MAX));
  await launch(fixture, run, { script: `exec ${clock.path} fill ${record.file}`, plan: { budgets: [] } });
  await untilReport(fixture, 'emptied', run.runId);
  const { lastSignMs, filledAtMs } = record.read();
  return lastSignMs - filledAtMs;
}

async function beRefused(run: FixtureRun): Promise<number> {
  const record = clock.record();
  const budgets = [{ budget: 'denials', count: 0, windowMs: null, action: 'kill' }] as const;
  await launch(fixture, run, { script: `exec ${clock.path} spin ${record.file}`, plan: { budgets } });
  await until('the agent writes', () => record.begun(), { deadlineMs: 10_000 });
  const line = { kind: 'denied', address: run.plan({}).address, suppressed: 0, denial: DENIAL };
  const refusedAtMs = monotonicMs();
  fixture.warden.feedSocket.write(`${JSON.stringify(line)}\n`);
  await untilReport(fixture, 'emptied', run.runId);
  // An agent that had no processor at that moment wrote its last before it.
  return Math.max(0, record.read().lastSignMs - refusedAtMs);
}

async function containerByWarden(): Promise<number> {
  const record = clock.record();
  const made = await startContainerRun(
    { engine, fixture },
    { ...spinIn(record.file), watched: { budgets: CPU_BUDGET } },
  );
  try {
    await untilReport(fixture, 'emptied', made.run.runId);
    return afterCpuBudget(made.run, record.read());
  } finally {
    await made.release();
  }
}

async function containerByApi(): Promise<number> {
  const record = clock.record();
  const made = await startContainerRun({ engine, fixture }, { ...spinIn(record.file), watched: null });
  const meter = openMeter(made.run.paths);
  try {
    while (meter.read().cpuMs < CPU_BUDGET_MS) await delay(SAMPLE_MS);
    await made.container.kill();
    await until('the container is empty', () => meter.empty(), { deadlineMs: STATS_KILL_MS_MAX });
    return afterCpuBudget(made.run, record.read());
  } finally {
    meter.close();
    await made.release();
  }
}

/** The watchdog follows every container, as one that guards them all must. */
async function containersByStats(count: number): Promise<readonly number[]> {
  const lives: number[] = [];
  const streams = await Promise.all(
    crowdContainers.map(({ container }) => engine.follow(container.id, () => undefined)),
  );
  try {
    for (let done = 0; done < count; done += 1) {
      stop.throwIfAborted();
      const record = clock.record();
      const made = await startContainerRun({ engine, fixture }, { ...spinIn(record.file), watched: null });
      let killed: Promise<void> | null = null;
      const stream = await engine.follow(made.container.id, (cpuMs) => {
        if (cpuMs >= CPU_BUDGET_MS) killed ??= made.container.kill();
      });
      try {
        await until('the watchdog kills', () => killed !== null, { deadlineMs: STATS_KILL_MS_MAX });
        await until('the container is empty', () => made.run.pids().length === 0, { deadlineMs: STATS_KILL_MS_MAX });
        lives.push(afterCpuBudget(made.run, record.read()));
      } finally {
        stream.stop();
        await made.release();
      }
    }
  } finally {
    for (const stream of streams) stream.stop();
  }
  return lives;
}

function spinIn(file: string): { readonly command: readonly string[]; readonly folders: readonly string[] } {
  return { command: [clock.path, 'spin', file], folders: clock.folders };
}

/**
 * What the cgroup used beside the agent, it used before the agent began: so the budget was crossed when the agent's own
 * CPU time reached what was left of it.
 */
function afterCpuBudget(run: FixtureRun, life: ClockLife): number {
  const meter = openMeter(run.paths);
  const othersMs = meter.read().cpuMs - life.cpuMs;
  meter.close();
  const crossedAtMs = life.cpuReachedAtMs(CPU_BUDGET_MS - othersMs);
  if (crossedAtMs === null) throw new Error('the agent was killed before it crossed its budget');
  return life.lastSignMs - crossedAtMs;
}

function print(): void {
  process.stdout.write(
    `crossing to last sign of life, milliseconds; ${crowdContainers.length} of the agents are containers\n\n`,
  );
  process.stdout.write(`${markdown(['agents', 'bound and killer', ...DISTRIBUTION], rows)}\n`);
}
