import { readFileSync } from 'node:fs';

/**
 * Whose a process is: its cgroup names the run, in the shape of either cgroup driver. The driver lists a process for a
 * while after it has ended, when nothing can be read of it any more; so what was read stays for as long as it is listed.
 */
export type Owner = { readonly startTicks: number; readonly runId: string | null };

export type Owners = {
  of(pid: number): Owner;
  isKnown(pid: number): boolean;
  /** Forgets what is not among these. */
  keep(pids: ReadonlySet<number>): void;
};

const RUN_IN_CGROUP = /\/ringfence(?:\/|\.slice\/ringfence-)(r[0-9a-z]{12})(?:\.slice)?(?:\/|$)/;

export function createOwners(procFolder = '/proc'): Owners {
  const known = new Map<number, Owner>();
  return {
    of: (pid) => {
      const before = known.get(pid);
      const startTicks = startTicksOf(read(`${procFolder}/${pid}/stat`));
      if (before !== undefined && (startTicks === null || startTicks === before.startTicks)) return before;
      const owner = { startTicks: startTicks ?? 0, runId: runIdOf(read(`${procFolder}/${pid}/cgroup`) ?? '') };
      known.set(pid, owner);
      return owner;
    },
    isKnown: (pid) => known.has(pid) || read(`${procFolder}/${pid}/stat`) !== null,
    keep: (pids) => {
      for (const pid of known.keys()) if (!pids.has(pid)) known.delete(pid);
    },
  };
}

/** The run that a process with this `/proc/PID/cgroup` belongs to. */
export function runIdOf(cgroups: string): string | null {
  for (const line of cgroups.split('\n')) {
    const match = RUN_IN_CGROUP.exec(line);
    if (match !== null) return match[1] ?? null;
  }
  return null;
}

/** Field 22. The name before it is the process's own choice, with spaces and brackets as it likes. */
export function startTicksOf(stat: string | null): number | null {
  if (stat === null) return null;
  const ticks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  return Number.isSafeInteger(ticks) ? ticks : null;
}

function read(path: string): string | null {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return null;
  }
}
