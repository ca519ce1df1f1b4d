import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { printable } from '../core/text.ts';
import { pidsOf } from './processes.ts';

/**
 * Reads the command lines of processes. The kernel gives them only under a lock of the process's memory, and through
 * pages that the process may have put where nobody answers: a read may take as long as the process likes. So this runs
 * in a process of its own that does nothing else, and says before each read what it is about to read.
 */
const ARGV_BYTES_MAX = 4_096;
const ARGV_COUNT_MAX = 32;
const ARGUMENT_CHARS_MAX = 256;
/** Of one run at each look: the new ones first, then those that were read longest ago. */
const READS_MAX = 32;
/** A host full of runs is read in turns, not at once. */
const LOOK_MS_MAX = 50;

/** The time of its start, in ticks since boot, tells a process from a later one of the same number. */
export type ProcessKey = { readonly pid: number; readonly startTicks: number };

export type LookRequest = {
  readonly runs: readonly {
    readonly runId: string;
    readonly paths: CgroupPaths;
    /** Not to be read again. */
    readonly skip: readonly ProcessKey[];
  }[];
};

export type LookReport =
  | ({ readonly kind: 'reading'; readonly runId: string } & ProcessKey)
  | ({ readonly kind: 'read'; readonly runId: string; readonly argv: readonly string[] } & ProcessKey)
  | { readonly kind: 'looked' };

type Known = { readonly startTicks: number; text: string; readAtLook: number };

export function createLooker(tell: (report: LookReport) => void): (request: LookRequest) => void {
  const runs = new Map<string, Map<number, Known>>();
  let look = 0;
  let first = 0;
  return ({ runs: wanted }) => {
    look += 1;
    const ids = new Set(wanted.map(({ runId }) => runId));
    for (const runId of runs.keys()) if (!ids.has(runId)) runs.delete(runId);
    const endsAtMs = performance.now() + LOOK_MS_MAX;
    for (let turn = 0; turn < wanted.length && performance.now() < endsAtMs; turn += 1) {
      const run = wanted[(first + turn) % wanted.length];
      if (run === undefined) continue;
      const known = runs.get(run.runId) ?? new Map<number, Known>();
      runs.set(run.runId, known);
      lookAtRun(run, { known, look, tell });
    }
    first += 1;
    tell({ kind: 'looked' });
  };
}

type Look = {
  readonly known: Map<number, Known>;
  readonly look: number;
  readonly tell: (report: LookReport) => void;
};

function lookAtRun({ runId, paths, skip }: LookRequest['runs'][number], { known, look, tell }: Look): void {
  const pids = pidsOf(paths);
  const alive = new Set(pids);
  for (const pid of known.keys()) if (!alive.has(pid)) known.delete(pid);
  const oldestFirst = pids.toSorted((a, b) => (known.get(a)?.readAtLook ?? 0) - (known.get(b)?.readAtLook ?? 0));
  for (const pid of oldestFirst.slice(0, READS_MAX)) {
    const startTicks = startTicksOf(pid);
    if (startTicks === null || skip.some((each) => each.pid === pid && each.startTicks === startTicks)) continue;
    tell({ kind: 'reading', runId, pid, startTicks });
    const bytes = readCommandLine(pid);
    // Between the two the number may have become another process's.
    if (bytes === null || startTicksOf(pid) !== startTicks) continue;
    const text = bytes.toString('latin1');
    const before = known.get(pid);
    known.set(pid, { startTicks, text, readAtLook: look });
    if (before?.startTicks === startTicks && before.text === text) continue;
    tell({ kind: 'read', runId, pid, startTicks, argv: argvOf(bytes) });
  }
}

/** Field 22 of /proc/PID/stat, which takes no lock of the process's memory; null when the process is gone. */
function startTicksOf(pid: number): number | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const ticks = Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[19]);
    return Number.isFinite(ticks) ? ticks : null;
  } catch {
    return null;
  }
}

/** Its beginning: an agent may write a megabyte there, and change it while it is read. */
function readCommandLine(pid: number): Buffer | null {
  let fd: number | null = null;
  try {
    fd = openSync(`/proc/${pid}/cmdline`, 'r');
    const buffer = Buffer.alloc(ARGV_BYTES_MAX);
    return buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, 0));
  } catch {
    return null;
  } finally {
    if (fd !== null) closeSync(fd);
  }
}

export function argvOf(bytes: Buffer): readonly string[] {
  if (bytes.length === 0) return [];
  const whole = bytes.toString('utf8').replace(/\0$/, '');
  const words = whole.split('\0', ARGV_COUNT_MAX + 1);
  const argv = words.slice(0, ARGV_COUNT_MAX).map((argument) => printable(argument, ARGUMENT_CHARS_MAX));
  // A word of its own: the last one must still end where it was cut, or the start of a secret in it would not be found.
  return words.length > ARGV_COUNT_MAX || bytes.length === ARGV_BYTES_MAX ? [...argv, '…'] : argv;
}
