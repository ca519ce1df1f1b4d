const SHARED_MS = 50;

/**
 * Looks that are not urgent fall on common moments, a little early rather than late: one waking serves many runs, and
 * polling the descriptors of hundreds of runs is what a waking costs.
 */
export function sharedMoment(now: number, afterMs: number): number {
  const dueAtMs = now + afterMs;
  return afterMs < 4 * SHARED_MS ? dueAtMs : Math.floor(dueAtMs / SHARED_MS) * SHARED_MS;
}
