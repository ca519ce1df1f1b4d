import { writeFileSync } from 'node:fs';

/**
 * Whom a kernel without memory ends first (proc(5), oom_score_adj): agents and engines before the processes that can end
 * agents, and of those last the one that kills. The checker reads what agents send, so it goes before all others: it is
 * started anew, and nothing opens without it.
 */
export const OOM_SCORES = { warden: -999, daemon: -900, programs: -900, gate: -800, checker: 0, reader: 0 } as const;

/** True when the kernel has taken it. */
export function protectFromOom(score: number): boolean {
  try {
    writeFileSync('/proc/self/oom_score_adj', String(score));
    return true;
  } catch {
    // Less than it has needs CAP_SYS_RESOURCE, which a unit or a machine may keep from its root; it works without.
    return false;
  }
}
