import { assertNever } from '../core/assert.ts';
import type { BudgetPlan } from '../core/ports/warden.ts';
import { usesOf } from './quotas.ts';
import type { QuotaPlan, QuotaReading, QuotaState, RaisedLimit } from './quotas.ts';

/** What becomes of the budgets of a run that lives: other ones by a changed profile, more of one by a person's word. */
export type QuotaFacts = {
  readonly reading: QuotaReading;
  readonly nowMs: number;
  /** Refused attempts of the whole run. */
  readonly denialsTotal: number;
};

/**
 * Puts other budgets in the place of those of the plan. What was used and refused counts on, so the next judgement of a
 * bound that is crossed already is a breach. A budget that stays as it was keeps what was done about it; one that is
 * written anew stands as it is written, without what a person had added to it.
 */
export function changeQuota(
  state: QuotaState,
  bounds: Pick<QuotaPlan, 'budgets' | 'warnAt'>,
  facts: QuotaFacts,
): QuotaState {
  const rewritten = rewrittenBudgets(state, bounds.budgets);
  const isKept = (budget: BudgetPlan['budget']): boolean => !rewritten.includes(budget);
  const changed: QuotaState = {
    ...state,
    plan: { ...state.plan, budgets: bounds.budgets, warnAt: bounds.warnAt },
    denials: isKept('denials') ? state.denials : denialsFor(state, bounds.budgets, facts),
    held: state.held.filter(isKept),
    raised: state.raised.filter(({ budget }) => isKept(budget)),
  };
  return { ...changed, warned: stillSaid(changed, facts.reading) };
}

/**
 * Ends the pauses: each budget that paused the run is granted once more, beginning at what is used now. Wall time goes
 * on while a run stands still, so an amount that began at the old limit could be used up before the first instruction.
 */
export function grantMore(state: QuotaState, reading: QuotaReading): QuotaState {
  const uses = usesOf(state, reading);
  const paused = pausedBudgets(state);
  const isPaused = (budget: BudgetPlan['budget']): boolean => paused.includes(budget);
  const raises = state.plan.budgets.flatMap((plan): readonly RaisedLimit[] => {
    const use = uses.find(({ budget }) => budget === plan.budget);
    if (use === undefined || plan.budget === 'denials' || !isPaused(plan.budget)) return [];
    return [{ budget: plan.budget, limit: Math.max(use.limit, use.measured) + amountOf(plan) }];
  });
  const granted: QuotaState = {
    ...state,
    // Whoever ends the pause has seen these attempts: from now on they are counted anew.
    denials: isPaused('denials') ? [] : state.denials,
    held: state.held.filter((budget) => !isPaused(budget)),
    raised: [...state.raised.filter(({ budget }) => !isPaused(budget)), ...raises],
  };
  return { ...granted, warned: stillSaid(granted, reading) };
}

/** The budgets that are new, gone, or not what they were. */
export function rewrittenBudgets(
  { plan }: QuotaState,
  budgets: readonly BudgetPlan[],
): readonly BudgetPlan['budget'][] {
  const unmatched = (some: readonly BudgetPlan[], others: readonly BudgetPlan[]): readonly BudgetPlan[] =>
    some.filter((one) => !others.some((other) => isSame(one, other)));
  return [...unmatched(plan.budgets, budgets), ...unmatched(budgets, plan.budgets)].map(({ budget }) => budget);
}

/** The budgets on whose account the run stands still. */
export function pausedBudgets({ plan, held }: QuotaState): readonly BudgetPlan['budget'][] {
  return plan.budgets
    .filter(({ budget, action }) => action === 'pause' && held.includes(budget))
    .map(({ budget }) => budget);
}

/** Whether a budget that says `throttle` is used up: while one is, the run stays slow. */
export function isThrottled(state: QuotaState, reading: QuotaReading): boolean {
  return usesOf(state, reading).some(({ action, crossed }) => action === 'throttle' && crossed);
}

/** Of a whole run the number is known; when the earlier ones fell into a window that is new, only as far as it was kept. */
function denialsFor(state: QuotaState, budgets: readonly BudgetPlan[], facts: QuotaFacts): QuotaState['denials'] {
  const plan = budgets.find(({ budget }) => budget === 'denials');
  if (plan?.budget !== 'denials') return [];
  if (plan.windowMs !== null) return state.denials;
  return facts.denialsTotal === 0 ? [] : [{ atMs: facts.nowMs, count: facts.denialsTotal }];
}

/** A warning that the new limits make untrue is said again when it becomes true. */
function stillSaid(state: QuotaState, reading: QuotaReading): readonly string[] {
  const holds = usesOf(state, reading).flatMap(({ budget, measured, limit, crossed }) => {
    const reached = state.plan.warnAt.filter((fraction) => limit > 0 && measured >= fraction * limit);
    return [...reached, ...(crossed ? [1] : [])].map((fraction) => `budget.${budget} ${fraction}`);
  });
  return state.warned.filter((said) => holds.includes(said));
}

function isSame(one: BudgetPlan, other: BudgetPlan): boolean {
  const windows = [one, other].map((plan) => (plan.budget === 'denials' ? plan.windowMs : null));
  return (
    one.budget === other.budget &&
    one.action === other.action &&
    amountOf(one) === amountOf(other) &&
    windows[0] === windows[1]
  );
}

function amountOf(plan: BudgetPlan): number {
  switch (plan.budget) {
    case 'wall':
    case 'cpu':
    case 'gpu':
      return plan.limitMs;
    case 'egress':
    case 'ingress':
      return plan.limitBytes;
    case 'connections':
    case 'denials':
      return plan.count;
    default:
      return assertNever(plan);
  }
}
