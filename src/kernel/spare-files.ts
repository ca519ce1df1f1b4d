import { closeSync, openSync } from 'node:fs';

/**
 * Descriptors that a process keeps for what must not fail: whoever has none left can start nothing new, but can still
 * look at what it holds, and kill it. Enough for a file and a pidfd at a time, and a few more.
 */
const SPARES = 6;
const kept: number[] = [];

/** To be called once, early, by a process that kills. */
export function keepSpareFiles(): void {
  try {
    while (kept.length < SPARES) kept.push(openSync('/dev/null', 'r'));
  } catch {
    // As many as there are.
  }
}

/** Does the work; when it fails for want of a descriptor, once more with the spare ones. So it must bear repetition. */
export function withSpareFiles<Result>(work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    if (kept.length === 0 || !isForWantOfFiles(error)) throw error;
  }
  for (const fd of kept.splice(0)) closeSync(fd);
  try {
    return work();
  } finally {
    keepSpareFiles();
  }
}

/** Of Node.js or of a system call of ours. */
export function isForWantOfFiles(error: unknown): boolean {
  const { code } = error as { readonly code?: unknown };
  return code === 'EMFILE' || code === 'ENFILE';
}
