import type { Lateness } from '../core/ports/warden.ts';

/** Upper bounds of how late a look was, ascending; whatever was later is counted in none of them. */
export const LATENESS_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000] as const;

/** How late the looks were, counted up between two reports: one message, however many looks. */
export type LatenessTally = {
  note(lateMs: number): void;
  /** What was counted since the last time, or null when nothing was or it is too early. */
  take(nowMs: number): Lateness | null;
};

const TOLD_EVERY_MS = 5_000;

export function createLatenessTally(): LatenessTally {
  let counts = LATENESS_MS.map(() => 0);
  let count = 0;
  let sumMs = 0;
  let toldAtMs = Number.NEGATIVE_INFINITY;
  return {
    note: (lateMs) => {
      count += 1;
      sumMs += lateMs;
      const place = LATENESS_MS.findIndex((atMost) => lateMs <= atMost);
      if (place !== -1) counts[place] = (counts[place] ?? 0) + 1;
    },
    take: (nowMs) => {
      if (count === 0 || nowMs - toldAtMs < TOLD_EVERY_MS) return null;
      const told = { counts, count, sumMs };
      counts = LATENESS_MS.map(() => 0);
      [count, sumMs, toldAtMs] = [0, 0, nowMs];
      return told;
    },
  };
}
