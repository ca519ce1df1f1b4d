import { readFileSync } from 'node:fs';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { closeDescriptor, openPidfd, signalPidfd, SystemCallError } from '../kernel/libc.ts';
import { isMember } from '../meter/processes.ts';

/** A descriptor of the run's first process: it means that process for ever, whatever becomes of its number. */
export type FirstProcess = {
  /** Readable when the process has ended. */
  readonly fd: number;
  /** Does nothing when it is gone already. */
  signal(signal: number): void;
  close(): void;
};

/** Null when the process is gone, or its number belongs to another by now. */
export function openFirstProcess(pid: number, parentPaths: CgroupPaths): FirstProcess | null {
  const fd = ifAlive(() => openPidfd(pid));
  if (fd === null) return null;
  // Only what is checked after the opening is about the process that the descriptor means.
  if (!isMember(pid, parentPaths) || isZombie(pid)) {
    closeDescriptor(fd);
    return null;
  }
  let open = true;
  return {
    fd,
    signal: (signal) => {
      if (open) ifAlive(() => signalPidfd(fd, signal));
    },
    close: () => {
      if (open) closeDescriptor(fd);
      open = false;
    },
  };
}

function ifAlive<T>(call: () => T): T | null {
  try {
    return call();
  } catch (error) {
    if (error instanceof SystemCallError && error.code === 'ESRCH') return null;
    throw error;
  }
}

function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z');
  } catch {
    return true;
  }
}
