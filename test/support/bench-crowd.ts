import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { BudgetPlan } from '../../src/core/ports/warden.ts';
import { launch, makeRun, untilReport } from './warden-run.ts';
import type { FixtureRun, Hierarchies, WardenFixture } from './warden-run.ts';

/** Agents that are there: a cgroup and a process each, supervised by a warden like any run. */
export type Crowd = {
  readonly pids: readonly number[];
  release(): Promise<void>;
};

export type CrowdOptions = {
  readonly count: number;
  readonly hierarchies: Hierarchies;
  readonly script: string;
  readonly budgets: readonly BudgetPlan[];
};

/** More at once would only wait for processors. */
const AT_ONCE = 16;

export const FAR_FROM_BOUNDS: readonly BudgetPlan[] = [
  { budget: 'wall', limitMs: 3_600_000, action: 'kill' },
  { budget: 'cpu', limitMs: 1_200_000, action: 'kill' },
  { budget: 'egress', limitBytes: 1024 ** 3, action: 'kill' },
  { budget: 'denials', count: 20, windowMs: 60_000, action: 'kill' },
];

export async function startCrowd(fixture: WardenFixture, options: CrowdOptions): Promise<Crowd> {
  const runs: FixtureRun[] = [];
  const pids: number[] = [];
  const release = async (): Promise<void> => {
    for (const run of runs) fixture.warden.send({ kind: 'kill', runId: run.runId, reason: 'killed' });
    await inTurns(runs.length, async (index) => {
      const run = runs[index];
      if (run === undefined) return;
      await untilReport(fixture, 'emptied', run.runId).catch(() => undefined);
      await run.release();
      fixture.warden.send({ kind: 'unwatch', runId: run.runId });
    });
  };
  try {
    await inTurns(options.count, async () => {
      const run = await makeRun(options.hierarchies);
      runs.push(run);
      const { script, budgets } = options;
      const child = await launch(fixture, run, { script, plan: { budgets, address: addressOf(runs.length) } });
      pids.push(child.pid);
    });
  } catch (error) {
    await release();
    throw error;
  }
  return { pids, release };
}

/** `count` pieces of work, some at a time. */
export async function inTurns(count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      next += 1;
      await work(next - 1);
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, worker));
}

/** Runs differ by address, as they do behind the fence. */
function addressOf(number: number): string {
  return `198.18.${Math.floor(number / 250)}.${1 + (number % 250)}`;
}

/**
 * CPU time of a process in milliseconds, as the scheduler counts it to the nanosecond, and of the children that it has
 * waited for; 0 once it is gone.
 */
export function cpuMsOf(pid: number): number {
  let ns = 0;
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      ns += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
    }
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const [user, system] = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .slice(13, 15)
      .map(Number);
    return ns / 1e6 + ((user ?? 0) + (system ?? 0)) * MS_PER_TICK;
  } catch {
    return ns / 1e6;
  }
}

/** USER_HZ is 100 on every architecture that containers run on. */
const MS_PER_TICK = 10;

/** Of this network namespace, so that other labs do not count. */
export function pidsNamed(name: string): readonly number[] {
  const here = readlinkSync('/proc/self/ns/net');
  const isMeant = (pid: string): boolean => {
    try {
      return readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith(name) && readlinkSync(`/proc/${pid}/ns/net`) === here;
    } catch {
      return false;
    }
  };
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && isMeant(pid))
    .map(Number);
}

export function descendantsOf(pid: number): readonly number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const parent = parentOf(name);
    if (parent !== null) children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const below = (of: number): number[] => (children.get(of) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(pid);
}

function parentOf(pid: string): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    // It ended while we looked.
    return null;
  }
}
