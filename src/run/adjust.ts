import type { Breach } from '../core/outcome.ts';
import { BUDGETS } from '../core/outcome.ts';
import type { FenceCounters, FenceGrant } from '../core/ports/fence.ts';
import type { Spec } from '../profile/spec.ts';
import { boundsOf } from './bounds.ts';

/**
 * What a throttle and the end of a pause make of the grant of a run: less of the network, or once more of a budget that
 * the kernel has cut off. A changed profile begins without either, but for a throttle that it would take again. PURE.
 */
export type Adjustment = { readonly slowed: boolean; readonly budgets: Partial<Pick<FenceGrant, BudgetKey>> };

export const UNADJUSTED: Adjustment = { slowed: false, budgets: {} };

type BudgetKey = 'egressBytesMax' | 'ingressBytesMax' | 'connectionsMax';

/** What a throttled run keeps of its rate; a profile without one gets one. */
const SLOWED_SHARE = 0.25;
const SLOWED_BITS_MIN = 64_000;
const SLOWED_BITS_DEFAULT = 1_000_000;

const COUNTED = [
  { key: 'egressBytesMax', budget: 'egress', counter: 'egressBytes' },
  { key: 'ingressBytesMax', budget: 'ingress', counter: 'ingressBytes' },
  { key: 'connectionsMax', budget: 'connections', counter: 'connections' },
] as const;

export function adjusted(grant: FenceGrant, { slowed, budgets }: Adjustment): FenceGrant {
  const rate = grant.bandwidthBitsPerSecond;
  const slow = rate === null ? SLOWED_BITS_DEFAULT : Math.max(SLOWED_BITS_MIN, Math.floor(rate * SLOWED_SHARE));
  return { ...grant, ...budgets, bandwidthBitsPerSecond: slowed ? slow : rate };
}

/**
 * Each budget that paused the run begins anew at its end. What the kernel has let through can be a packet less than the
 * budget that it has cut off, so the rules say which are used up, not the counters.
 */
export function grantedOnceMore(
  grant: FenceGrant,
  {
    spec,
    counters,
    rules,
  }: { readonly spec: Spec; readonly counters: FenceCounters; readonly rules: readonly string[] },
): Adjustment['budgets'] {
  const more: { [Key in BudgetKey]?: number } = {};
  for (const { key, budget, counter } of COUNTED) {
    const max = grant[key];
    const once = boundOf(spec, `budget.${budget}`);
    if (max === null || once === null || !rules.includes(`budget.${budget}`)) continue;
    more[key] = Math.max(counters[counter], max) + once;
  }
  return more;
}

/** Would the changed profile slow the run down for the same? */
export function staysSlowed(breach: Breach, spec: Spec): boolean {
  const budget = BUDGETS.find((name) => breach.rule === `budget.${name}`);
  if (budget === undefined || spec.on[budget] !== 'throttle') return false;
  const bound = boundOf(spec, `budget.${budget}`);
  return bound !== null && bound <= breach.measured;
}

function boundOf(spec: Spec, path: string): number | null {
  return boundsOf(spec).find((bound) => bound.path === path)?.value ?? null;
}
