import type { WatchPlan } from '../core/ports/warden.ts';

/**
 * What was refused to runs that are not watched yet. A daemon that starts takes the feed first and its runs one after the
 * other; what one of them tries meanwhile counts, so it waits here, within bounds that no other run can use up.
 */
export type EarlyRefusals<Refusal> = {
  keep(owner: Owner, refusal: Refusal, nowMs: number): void;
  /** Those of this run, in order; once. */
  take(plan: Pick<WatchPlan, 'address' | 'bridge'>): readonly Refusal[];
};

export type Owner = { readonly bridge: string | null; readonly address: string };

const EARLY_MS_MAX = 60_000;
const OWNERS_MAX = 512;
const OF_ONE_MAX = 256;

/** Nothing is kept any more once a daemon has had the time to take over what it takes over. */
export function createEarlyRefusals<Refusal>(startedAtMs: number): EarlyRefusals<Refusal> {
  const byOwner = new Map<string, Refusal[]>();
  return {
    keep: ({ bridge, address }, refusal, nowMs) => {
      if (nowMs - startedAtMs > EARLY_MS_MAX) {
        byOwner.clear();
        return;
      }
      const owner = bridge ?? address;
      const kept = byOwner.get(owner) ?? [];
      if (kept.length >= OF_ONE_MAX || (kept.length === 0 && byOwner.size >= OWNERS_MAX)) return;
      kept.push(refusal);
      byOwner.set(owner, kept);
    },
    take: ({ bridge, address }) => {
      const kept = [bridge, address].flatMap((owner) => byOwner.get(owner) ?? []);
      for (const owner of [bridge, address]) byOwner.delete(owner);
      return kept;
    },
  };
}
