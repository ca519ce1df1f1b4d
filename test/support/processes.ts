import { readdirSync, readFileSync } from 'node:fs';
import { expect } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import { pidsOf } from '../../src/meter/processes.ts';
import { until } from './until.ts';

const DEAD_MS_MAX = 60_000;

/** Programs of ours besides the daemon, by the end of the path that starts them. */
export type OurProgram = 'warden/process' | 'warden/dead-man-process' | 'gate/process' | 'checker/process';

/** Ids of the processes whose command line holds all of these. */
export function processesWith(...parts: readonly string[]): readonly number[] {
  return numbers().filter((pid) => isProcess(pid, ...parts));
}

export function isProcess(pid: number, ...parts: readonly string[]): boolean {
  const line = read(`/proc/${pid}/cmdline`);
  return line !== '' && parts.every((part) => line.includes(part));
}

/** The one process of this program that this one started. */
export function childOf(parent: number, program: OurProgram): number {
  const isChild = new RegExp(`^PPid:\\t${parent}$`, 'm');
  const found = processesWith(`/${program}.`).filter((pid) => isChild.test(read(`/proc/${pid}/status`)));
  expect(found).toHaveLength(1);
  return found[0] ?? 0;
}

/** What runs of a run, by the kernel: a daemon may not be able to answer. */
export function pidsOfRun(run: RunDetail): readonly number[] {
  const path = run.cgroups.find((each) => each.includes('/pids/')) ?? run.cgroups[0] ?? '';
  return pidsOf({ cpu: path, cpuacct: path, memory: path, pids: path, freezer: null, unified: null });
}

export const isAlive = (run: RunDetail): boolean => pidsOfRun(run).length > 0;

export async function untilDead(run: RunDetail, { deadlineMs } = { deadlineMs: DEAD_MS_MAX }): Promise<void> {
  await until(`nothing of ${run.runId} (${run.profile}) runs`, () => !isAlive(run), { deadlineMs });
}

function numbers(): readonly number[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number);
}

/** Empty for one that is gone. */
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
