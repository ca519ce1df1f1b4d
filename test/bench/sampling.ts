/**
 * What it costs to supervise 1, 100 and 500 agents that do nothing: the warden, far from every bound and close to one,
 * and beside it a `docker stats` stream for each container, pidusage and systeminformation once a second. Needs a lab
 * with its images:
 *
 *   scripts/lab exec -- node test/bench/sampling.ts [--agents 1,100,500] [--containers 100] [--seconds 20]
 *
 * CPU time is what the kernel counts for the processes that do the work, which other work on the machine changes little.
 * Each of the others runs in a process of its own (`sampling-rival.ts`).
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { BudgetPlan } from '../../src/core/ports/warden.ts';
import { describeMachine, markdown, stopAfter } from '../support/bench.ts';
import { openBenchEngine } from '../support/bench-containers.ts';
import { FAR_FROM_BOUNDS, cpuMsOf, descendantsOf, inTurns, pidsNamed, startCrowd } from '../support/bench-crowd.ts';
import { lab } from '../support/lab.ts';
import { startFixture, stopFixture } from '../support/warden-run.ts';
import type { WardenFixture } from '../support/warden-run.ts';

const MINUTES_MAX = 30;
/** The start of an agent is not what is measured. */
const SETTLE_MS = 3_000;
/** So near that each is looked at about seven times a second, with two cores. */
const CLOSE_CPU_MS = 300;
const CLOSE: readonly BudgetPlan[] = FAR_FROM_BOUNDS.map((plan) =>
  plan.budget === 'cpu' ? { budget: 'cpu', limitMs: CLOSE_CPU_MS, action: 'kill' } : plan,
);

const { values } = parseArgs({
  options: {
    agents: { type: 'string', default: '1,100,500' },
    containers: { type: 'string', default: '100' },
    seconds: { type: 'string', default: '20' },
  },
});
const sizes = values.agents.split(',').map(Number);
const containersMax = Number(values.containers);
const seconds = Number(values.seconds);

const stop = stopAfter(MINUTES_MAX);
const engine = openBenchEngine(lab.dockerSocket);
const enginePid = Number(readFileSync(lab.enginePidFile, 'utf8'));
const rows: string[][] = [];
const containers: string[] = [];
process.stdout.write(`before: ${await describeMachine()}\n`);
try {
  for (const size of sizes) {
    await supervise(size, 'Ringfence, far from every bound', FAR_FROM_BOUNDS);
    await supervise(size, `Ringfence, ${CLOSE_CPU_MS} ms of CPU time from its end`, CLOSE);
    await followStats(Math.min(size, containersMax));
  }
} finally {
  await engine.removeAll();
  process.stdout.write(`share of one core over ${seconds} s, in percent\n\n`);
  const header = ['agents', 'who looks', 'itself', 'others for it', 'together', 'samples per agent and second'];
  process.stdout.write(`${markdown(header, rows)}\n`);
}

async function supervise(size: number, label: string, budgets: readonly BudgetPlan[]): Promise<void> {
  const fixture = await startFixture();
  const options = { count: size, hierarchies: 'all', script: 'exec sleep 86400', budgets } as const;
  const crowd = await startCrowd(fixture, options);
  try {
    await delay(SETTLE_MS);
    const readings = readingsOf(fixture);
    const told = await share([fixture.warden.pid], () => [process.pid]);
    rows.push([String(size), label, ...told.cells, `at least ${(readings() / size / told.seconds).toFixed(1)} told`]);
    if (budgets !== FAR_FROM_BOUNDS) return;
    await look(size, 'pidusage', 'pidusage, first processes alone', crowd.pids);
    await look(size, 'systeminformation', 'systeminformation `processes()`', crowd.pids);
  } finally {
    await crowd.release();
    await stopFixture(fixture);
  }
}

/** What the warden tells of an agent that does nothing is less than it looks. */
function readingsOf(fixture: WardenFixture): () => number {
  const before = fixture.reports.length;
  return () => fixture.reports.length - before;
}

async function followStats(wanted: number): Promise<void> {
  await inTurns(Math.max(0, wanted - containers.length), async () => {
    stop.throwIfAborted();
    containers.push((await engine.start({ command: ['sleep', '86400'] })).id);
  });
  await delay(SETTLE_MS);
  await look(wanted, 'stats', '`docker stats` streams', containers.slice(0, wanted), enginePids);
}

async function look(
  size: number,
  kind: 'stats' | 'pidusage' | 'systeminformation',
  label: string,
  subjects: readonly (string | number)[],
  helpers: () => readonly number[] = () => [],
): Promise<void> {
  stop.throwIfAborted();
  const file = join(import.meta.dirname, 'sampling-rival.ts');
  const rival = spawn(process.execPath, [file, kind, lab.dockerSocket], { stdio: ['pipe', 'pipe', 'inherit'] });
  let samples = 0;
  rival.stdout.on('data', (chunk: Buffer) => {
    for (const line of chunk.toString('utf8').split('\n')) samples += Number(line);
  });
  try {
    rival.stdin.write(`${JSON.stringify(subjects)}\n`);
    await delay(SETTLE_MS);
    const before = samples;
    const told = await share([rival.pid ?? 0], helpers);
    rows.push([String(size), label, ...told.cells, ((samples - before) / size / told.seconds).toFixed(2)]);
  } finally {
    rival.kill();
    await once(rival, 'exit');
  }
}

/** The engine, its containerd, and the shim of each container, which answers for its counters. */
function enginePids(): readonly number[] {
  return [enginePid, ...descendantsOf(enginePid), ...pidsNamed('containerd-shim')];
}

/** Of these processes, and of what works for them. */
async function share(
  own: readonly number[],
  helpers: () => readonly number[],
): Promise<{ readonly cells: readonly string[]; readonly seconds: number }> {
  const total = (pids: readonly number[]): number => pids.reduce((sum, pid) => sum + cpuMsOf(pid), 0);
  const ofOthers = helpers();
  const before = [total(own), total(ofOthers)] as const;
  const startedAt = performance.now();
  for (let waited = 0; waited < seconds; waited += 1) {
    await delay(1_000);
    stop.throwIfAborted();
  }
  const spanMs = performance.now() - startedAt;
  const percent = (now: number, then: number): number => ((now - then) / spanMs) * 100;
  const [itself, others] = [percent(total(own), before[0]), percent(total(ofOthers), before[1])];
  return { cells: [itself, others, itself + others].map((value) => value.toFixed(2)), seconds: spanMs / 1000 };
}
