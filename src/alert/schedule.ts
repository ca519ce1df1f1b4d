/** The first retry comes within this, each later one within twice the time of the one before. */
const BASE_MS = 2_000;
const CAP_MS = 3_600_000;
const PAUSE_MS_MIN = 250;
/** A receiver may ask for more patience than our own cap, but not for longer than a day. */
const RETRY_AFTER_MS_MAX = 86_400_000;

/** After this an alert is given up: Standard Webhooks, and most receivers, think in three days. */
export const HORIZON_MS = 72 * 3_600_000;

/**
 * How long to wait after the `attempts`-th failure: exponential with full jitter, so that a receiver that comes back is
 * not met by everybody at once, and never sooner than it asked.
 */
export function retryDelayMs(attempts: number, retryAfterMs: number | null, random: () => number): number {
  const ceiling = Math.min(CAP_MS, BASE_MS * 2 ** Math.min(attempts - 1, 30));
  const jittered = Math.max(PAUSE_MS_MIN, Math.round(random() * ceiling));
  return Math.max(jittered, Math.min(retryAfterMs ?? 0, RETRY_AFTER_MS_MAX));
}
