import { writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';

const FIRST = -20;
const BEHIND = 10;

/**
 * The processor before everybody else. Forty containers that die at once wake as many shims and the engine, and whoever
 * still has to kill the others would wait its turn among them. The second way is for a session of one's own, which
 * counts as one among all others (sched(7), autogroup), however nice it is. What is not allowed is left: the packaged
 * unit forbids both, and asks systemd for the same.
 */
export function comeFirst(): void {
  ask(() => setPriority(FIRST));
  ask(() => writeFileSync('/proc/self/autogroup', String(FIRST)));
}

/** Whoever else wants the processor has it first. A courtesy, which the packaged unit forbids too. */
export function comeBehind(): void {
  ask(() => setPriority(BEHIND));
}

function ask(priority: () => void): void {
  try {
    priority();
  } catch {
    // It works without.
  }
}
