import { NEAR_BOUND_MS } from '../policy/quotas.ts';

const SHARED_MS = 50;
/** From here on, a look that comes a whole `SHARED_MS` early is no waste. */
const URGENT_MS = 4 * SHARED_MS;

/**
 * Looks fall on common moments, a little early rather than late: one waking serves many runs, and polling the
 * descriptors of hundreds of runs is what a waking costs. Only what is due sooner than anything is sampled, the end of
 * a wall time, has a moment of its own.
 */
export function sharedMoment(now: number, afterMs: number): number {
  const dueAtMs = now + afterMs;
  if (afterMs < NEAR_BOUND_MS) return dueAtMs;
  const sharedMs = afterMs < URGENT_MS ? NEAR_BOUND_MS : SHARED_MS;
  return Math.floor(dueAtMs / sharedMs) * sharedMs;
}
