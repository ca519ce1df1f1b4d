import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { CgroupPaths, ProcessFacts } from '../core/ports/warden.ts';
import { printable } from '../core/text.ts';
import { closeDescriptor, openPidfd, signalPidfd, SystemCallError } from '../kernel/libc.ts';
import { isForWantOfFiles, withSpareFiles } from '../kernel/spare-files.ts';
import { isGone } from './counters.ts';
import { thawTree } from './freezer.ts';

/** More processes than this are counted, never listed. */
export const PIDS_LISTED_MAX = 4_096;
const DEPTH_MAX = 4;
const EXECUTABLE_CHARS_MAX = 256;
const NAME_CHARS_MAX = 128;
/** Described even when the time is up: a machine so busy that it took it away is the one to be explained later. */
const PROCESSES_MIN = 4;
const PARENTS_MAX = 8;
const PROC_FILE_BYTES_MAX = 4_096;
/** USER_HZ: what /proc counts CPU time in, 100 on every architecture that containers run on. */
const MS_PER_TICK = 10;
const SIGKILL = 9;

export type ProcessOptions = {
  readonly processesMax: number;
  /** Looking stops here: the kill must not wait for a thousand processes to be described. */
  readonly msMax: number;
};

/** Every process of the run, in its parent cgroup and all below. v1 asks the pids hierarchy, v2 the only one. */
export function pidsOf(paths: CgroupPaths): number[] {
  return withSpareFiles(() => {
    const pids = new Set<number>();
    for (const directory of new Set([paths.pids, paths.unified])) {
      if (directory !== null) collectPids(directory, { pids, depth: 0 });
    }
    return [...pids];
  });
}

/**
 * The busiest processes of a run, most CPU time first. What vanishes meanwhile is left out. Reads nothing for which the
 * kernel takes a lock of a process's memory, so no command line: this is on the kill path.
 */
export function processesOf(paths: CgroupPaths, options: ProcessOptions): ProcessFacts[] {
  const deadline = performance.now() + options.msMax;
  const stats: ProcessStat[] = [];
  for (const pid of pidsOf(paths)) {
    if (stats.length >= PROCESSES_MIN && performance.now() > deadline) break;
    const stat = withSpareFiles(() => readStat(pid));
    if (stat !== null) stats.push(stat);
  }
  stats.sort((a, b) => b.cpuMs - a.cpuMs);
  const known = new Map(stats.map((stat) => [stat.pid, stat]));
  const facts: ProcessFacts[] = [];
  for (const stat of stats.slice(0, options.processesMax)) {
    if (facts.length >= PROCESSES_MIN && performance.now() > deadline) break;
    facts.push({
      pid: stat.pid,
      startTicks: stat.startTicks,
      executable: executableOf(stat),
      argv: [],
      argvSource: null,
      parents: parentsOf(stat, known),
      cpuMs: stat.cpuMs,
    });
  }
  return facts;
}

/**
 * SIGKILL to each process found, through a pidfd and only while it is still in the run's cgroup, so that a number that
 * was used again is never hit. The way for hosts without `cgroup.kill`; repeat until nothing is left.
 */
export function killProcesses(paths: CgroupPaths): number {
  let killed = 0;
  for (const pid of pidsOf(paths)) if (withSpareFiles(() => killMember(pid, paths))) killed += 1;
  return killed;
}

function killMember(pid: number, paths: CgroupPaths): boolean {
  let pidfd: number | null = null;
  try {
    pidfd = openPidfd(pid);
    if (!isMember(pid, paths)) return false;
    signalPidfd(pidfd, SIGKILL);
    return true;
  } catch (error) {
    if (!(error instanceof SystemCallError && error.code === 'ESRCH')) throw error;
    return false;
  } finally {
    if (pidfd !== null) closeDescriptor(pidfd);
  }
}

/** The way that needs no warden: kills the tree and each process in it. Returns what is still there; try again then. */
export function killNow(paths: CgroupPaths): readonly number[] {
  const file = paths.unified === null ? null : join(paths.unified, 'cgroup.kill');
  if (file !== null && existsSync(file)) {
    try {
      withSpareFiles(() => writeFileSync(file, '1'));
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }
  killProcesses(paths);
  withSpareFiles(() => thawTree(paths.freezer));
  return pidsOf(paths);
}

/** True while the process is in the run's parent cgroup or below it. */
export function isMember(pid: number, paths: CgroupPaths): boolean {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  } catch (error) {
    // It may be a member, and must not be spared.
    if (isForWantOfFiles(error)) throw error;
    return false;
  }
  // Mounted at a hierarchy's root, a cgroup's directory ends with its path; the run id in it makes that unmistakable.
  return text.split('\n').some((line) => {
    const path = line.slice(line.indexOf(':', line.indexOf(':') + 1) + 1);
    return path.length > 1 && [paths.pids, paths.unified].some((directory) => isBelow(path, directory));
  });
}

function isBelow(path: string, directory: string | null): boolean {
  if (directory === null) return false;
  for (let end = path.length; end > 0; end = path.lastIndexOf('/', end - 1)) {
    if (directory.endsWith(path.slice(0, end))) return true;
  }
  return false;
}

function collectPids(directory: string, into: { readonly pids: Set<number>; readonly depth: number }): void {
  let text: string;
  try {
    text = readFileSync(join(directory, 'cgroup.procs'), 'latin1');
    for (const line of text.split('\n')) {
      if (line === '' || into.pids.size >= PIDS_LISTED_MAX) continue;
      // 0 is a process of another pid namespace: the supervisor must not run in one, and cannot name it.
      if (line !== '0') into.pids.add(Number(line));
    }
    if (into.depth === DEPTH_MAX) return;
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      if (entry.isDirectory()) collectPids(join(directory, entry.name), { pids: into.pids, depth: into.depth + 1 });
    }
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

type ProcessStat = {
  readonly pid: number;
  readonly name: string;
  readonly parentPid: number;
  readonly startTicks: number;
  readonly cpuMs: number;
};

function readStat(pid: number): ProcessStat | null {
  const bytes = readBounded(`/proc/${pid}/stat`, PROC_FILE_BYTES_MAX);
  if (bytes === null) return null;
  const text = bytes.toString('latin1');
  // The name stands in parentheses and may hold anything, parentheses too: the last one closes it.
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')');
  if (open === -1 || close === -1) return null;
  const name = bytes.subarray(open + 1, close).toString('utf8');
  const fields = text.slice(close + 2).split(' ');
  const ticks = Number(fields[11] ?? 0) + Number(fields[12] ?? 0);
  return {
    pid,
    name: printable(name, NAME_CHARS_MAX),
    parentPid: Number(fields[1] ?? 0),
    startTicks: Number(fields[19] ?? 0),
    cpuMs: ticks * MS_PER_TICK,
  };
}

function executableOf(stat: ProcessStat): string {
  try {
    return printable(readlinkSync(`/proc/${stat.pid}/exe`), EXECUTABLE_CHARS_MAX);
  } catch {
    return stat.name;
  }
}

/** Only within the run: what is above its first process is the engine's. */
function parentsOf(stat: ProcessStat, known: ReadonlyMap<number, ProcessStat>): string[] {
  const parents: string[] = [];
  let parent = known.get(stat.parentPid);
  while (parent !== undefined && parents.length < PARENTS_MAX) {
    parents.push(parent.name);
    parent = known.get(parent.parentPid);
  }
  return parents;
}

function readBounded(file: string, bytesMax: number): Buffer | null {
  let fd: number | null = null;
  try {
    fd = openSync(file, 'r');
    const buffer = Buffer.alloc(bytesMax);
    return buffer.subarray(0, readSync(fd, buffer, 0, bytesMax, 0));
  } catch (error) {
    if (isForWantOfFiles(error)) throw error;
    // The process ended while we looked, or is not ours to read: evidence that is not there is left out.
    return null;
  } finally {
    if (fd !== null) closeSync(fd);
  }
}
