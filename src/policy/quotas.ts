import { assertNever } from '../core/assert.ts';
import type { Action, Breach, Denial, Reason } from '../core/outcome.ts';
import type { BudgetPlan } from '../core/ports/warden.ts';

/**
 * Decides whether a run has used up a budget, and how soon it must be looked at again. The answer to the second
 * question is what makes the first one good: the next look comes before the fastest growth that the hardware allows
 * could carry the run over a bound, or `NEAR_BOUND_MS` later when that is sooner than is worth looking.
 */
export type QuotaPlan = {
  readonly budgets: readonly BudgetPlan[];
  /** Fractions of a budget, ascending, each in (0, 1). */
  readonly warnAt: readonly number[];
  readonly cpusOnline: number;
  /** The rate that the kernel holds the run to, once it has been read back; null: only the hardware bounds it. */
  readonly cpuMillisMax: number | null;
  /** True when the kernel itself cuts off at budgets of bytes and connections: then sampling is only for the warnings. */
  readonly egressHeldByKernel: boolean;
};

export type QuotaReading = {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly gpuMs: number;
  readonly egressBytes: number;
  readonly ingressBytes: number;
  readonly connections: number;
  /** Budgets of which the kernel dropped a packet because they are used up. */
  readonly cutOff: readonly KernelBudget[];
  /** Refused attempts since the reading before this one, and the last of them. */
  readonly newDenials: number;
  readonly lastDenial: Denial | null;
};

/** Budgets that the kernel counts and cuts off by itself. */
export const KERNEL_BUDGETS = ['egress', 'ingress', 'connections'] as const;
export type KernelBudget = (typeof KERNEL_BUDGETS)[number];

export type QuotaWarning = {
  readonly rule: string;
  readonly measured: number;
  readonly limit: number;
  readonly unit: string;
  /** The fraction of `warnAt` that was reached; 1 when a budget whose action is `warn` is used up. */
  readonly fraction: number;
};

export type QuotaState = {
  readonly plan: QuotaPlan;
  /** Refusals that may still fall into the window, oldest first; never more than the budget allows. */
  readonly denials: readonly DenialMark[];
  /** `budget.cpu 0.8`: said once. */
  readonly warned: readonly string[];
  /** Budgets whose `throttle` or `pause` was taken: not again for the same crossing. */
  readonly held: readonly BudgetPlan['budget'][];
  /** Limits that a person raised for this run by ending a pause; they stand in for those of the plan. */
  readonly raised: readonly RaisedLimit[];
  /** The breach that ends the run. */
  readonly breach: Breach | null;
  /** Budgets whose crossing was told as what ends the run, or as one more cause. */
  readonly ended: readonly BudgetPlan['budget'][];
};

export type RaisedLimit = { readonly budget: BudgetPlan['budget']; readonly limit: number };

type DenialMark = { readonly atMs: number; readonly count: number };

export type QuotaJudgement = {
  readonly state: QuotaState;
  readonly warnings: readonly QuotaWarning[];
  /** The breach that ends the run. Set by at most one judgement of a run: the first one wins. */
  readonly breach: Breach | null;
  /** Further causes to end a run that ends: crossed at the same look or in its grace, each once, hardest first. */
  readonly also: readonly Breach[];
  /** Budgets crossed for the first time whose action holds the run back but does not end it, hardest first. */
  readonly holds: readonly Breach[];
  /** A breach that asks for `kill` came while an earlier one is still in its grace: end the grace now. */
  readonly escalate: boolean;
  readonly nextSampleMs: number;
};

export const NEAR_BOUND_MS = 10;
export const IDLE_MS = 1_000;
/** CFS hands out the quota in periods of 100 ms, so two of them can be spent back to back. */
const QUOTA_PERIOD_MS = 100;
/** 10 Gbit/s, what a container on this host could send or get at most through a veth in practice. */
const BYTES_PER_MS_MAX = 1_250_000;
/** More than any host opens through one connection tracker. */
const CONNECTIONS_PER_MS_MAX = 500;
const SEVERITY: Readonly<Record<Action, number>> = { warn: 0, throttle: 1, pause: 2, stop: 3, kill: 4 };

export function newQuotaState(plan: QuotaPlan): QuotaState {
  return { plan, denials: [], warned: [], held: [], raised: [], breach: null, ended: [] };
}

/** `nowMs` only orders denials in their window; wall time is part of the reading. */
export function judge(state: QuotaState, reading: QuotaReading, nowMs: number): QuotaJudgement {
  const denials = withinWindow(state, reading, nowMs);
  const uses = usesOf({ ...state, denials }, reading);
  const crossed = uses.filter((use) => use.crossed).toSorted((a, b) => SEVERITY[b.action] - SEVERITY[a.action]);
  const endings = crossed.filter(({ action }) => action === 'stop' || action === 'kill');
  const ending = endings[0] ?? null;
  const breach = state.breach === null && ending !== null ? breachOf(ending, reading) : null;
  const escalate = state.breach !== null && state.breach.action !== 'kill' && ending?.action === 'kill';
  const causes = endings.filter(({ budget }) => !state.ended.includes(budget));
  const ended = causes.length === 0 ? state.ended : [...state.ended, ...causes.map(({ budget }) => budget)];
  // A run that ends is not held back any more.
  const fresh = state.breach === null && breach === null ? crossed.filter((use) => isNewHold(state, use)) : [];
  const held = fresh.length === 0 ? state.held : [...state.held, ...fresh.map(({ budget }) => budget)];
  const { warnings, warned } = warningsFor(state, uses);
  return {
    state: { ...state, denials, warned, held, ended, breach: state.breach ?? breach },
    warnings,
    breach,
    also: causes.slice(breach === null ? 0 : 1).map((use) => breachOf(use, reading)),
    holds: fresh.map((use) => breachOf(use, reading)),
    escalate,
    nextSampleMs: nextSampleMs(state.plan, uses, held),
  };
}

export type QuotaUse = {
  readonly budget: BudgetPlan['budget'];
  readonly action: Action;
  readonly measured: number;
  readonly limit: number;
  readonly unit: string;
  readonly crossed: boolean;
};

function isNewHold({ held }: QuotaState, { action, budget }: QuotaUse): boolean {
  return (action === 'throttle' || action === 'pause') && !held.includes(budget);
}

/** What a run has used of each of its budgets, in the order of the plan. */
export function usesOf(
  { plan, denials, raised }: Pick<QuotaState, 'plan' | 'denials' | 'raised'>,
  reading: QuotaReading,
): readonly QuotaUse[] {
  return plan.budgets.map((budget) => {
    const limit = raised.find((raise) => raise.budget === budget.budget)?.limit;
    return useOf(limit === undefined ? budget : withLimit(budget, limit), reading, denials);
  });
}

function withLimit(plan: BudgetPlan, limit: number): BudgetPlan {
  switch (plan.budget) {
    case 'wall':
    case 'cpu':
    case 'gpu':
      return { ...plan, limitMs: limit };
    case 'egress':
    case 'ingress':
      return { ...plan, limitBytes: limit };
    case 'connections':
    case 'denials':
      return { ...plan, count: limit };
    default:
      return assertNever(plan);
  }
}

function useOf(plan: BudgetPlan, reading: QuotaReading, denials: readonly DenialMark[]): QuotaUse {
  const { budget, action } = plan;
  switch (plan.budget) {
    case 'wall':
    case 'cpu':
    case 'gpu': {
      const measured = reading[`${plan.budget}Ms`];
      return { budget, action, measured, limit: plan.limitMs, unit: 'ms', crossed: measured >= plan.limitMs };
    }
    case 'egress':
    case 'ingress': {
      const bytes = plan.budget === 'egress' ? reading.egressBytes : reading.ingressBytes;
      return kernelUse(
        { budget: plan.budget, action, measured: bytes, limit: plan.limitBytes, unit: 'bytes' },
        reading,
      );
    }
    case 'connections':
      return kernelUse(
        { budget: 'connections', action, measured: reading.connections, limit: plan.count, unit: 'connections' },
        reading,
      );
    case 'denials': {
      const measured = denials.reduce((sum, mark) => sum + mark.count, 0);
      return { budget, action, measured, limit: plan.count, unit: 'denials', crossed: measured > plan.count };
    }
    default:
      return assertNever(plan);
  }
}

/** The kernel counts at the rule that drops; our own reading may lag behind it by some packets. */
function kernelUse(
  use: Omit<QuotaUse, 'crossed'> & { readonly budget: KernelBudget },
  reading: QuotaReading,
): QuotaUse {
  const cutOff = reading.cutOff.includes(use.budget);
  const measured = cutOff ? Math.max(use.measured, use.limit) : use.measured;
  return { ...use, measured, crossed: cutOff || measured > use.limit };
}

/** The attempt itself is the breach where none is allowed: then the reason says so, and not that a count was used up. */
function breachOf(use: QuotaUse, reading: QuotaReading): Breach {
  const { limit, unit, action } = use;
  const measured = Math.round(use.measured * 10) / 10;
  const forbidden = use.budget === 'denials' && limit === 0;
  const reason: Reason = forbidden ? 'egress.forbidden' : `budget.${use.budget}`;
  const denial = use.budget === 'denials' ? reading.lastDenial : null;
  return { reason, rule: `budget.${use.budget}`, measured, limit, unit, action, denial };
}

/**
 * Exact marks, not buckets: a window that is rounded either lets one attempt too many through or kills for one too
 * few. More than `count` of them end the run, so there are never more to keep.
 */
function withinWindow(state: QuotaState, reading: QuotaReading, nowMs: number): readonly DenialMark[] {
  const budget = state.plan.budgets.find((plan) => plan.budget === 'denials');
  if (budget === undefined) return state.denials;
  const last = state.denials.at(-1);
  // A clock that is read twice may give the same value, never an earlier one; the window must not shrink if it does.
  const atMs = Math.max(nowMs, last?.atMs ?? nowMs);
  const oldestMs = budget.windowMs === null ? Number.NEGATIVE_INFINITY : atMs - budget.windowMs;
  const first = state.denials[0];
  if (reading.newDenials <= 0 && (first === undefined || first.atMs > oldestMs)) return state.denials;
  const kept = state.denials.filter((mark) => mark.atMs > oldestMs);
  if (reading.newDenials <= 0) return kept;
  const mergeable = budget.windowMs === null || last?.atMs === atMs;
  if (last !== undefined && mergeable) return [...kept.slice(0, -1), { atMs, count: last.count + reading.newDenials }];
  const marks = [...kept, { atMs, count: reading.newDenials }];
  // With the action `warn` the run goes on past its budget: what is older than the newest `count + 1` decides nothing.
  return marks.length > budget.count + 1 ? marks.slice(-(budget.count + 1)) : marks;
}

function warningsFor(
  state: QuotaState,
  uses: readonly QuotaUse[],
): { readonly warnings: readonly QuotaWarning[]; readonly warned: readonly string[] } {
  const warnings: QuotaWarning[] = [];
  let warned = state.warned;
  for (const use of uses) {
    const reached = fractionReached(state.plan.warnAt, use);
    if (reached === null) continue;
    const rule = `budget.${use.budget}`;
    const steps = [...state.plan.warnAt, 1].filter((fraction) => fraction <= reached);
    const unsaid = steps.map((fraction) => `${rule} ${fraction}`).filter((step) => !warned.includes(step));
    if (unsaid.length === 0) continue;
    warned = [...warned, ...unsaid];
    // Lower steps that were jumped over are not said any more; a lower one after a higher one neither (a window empties).
    if (!unsaid.includes(`${rule} ${reached}`)) continue;
    warnings.push({ rule, measured: use.measured, limit: use.limit, unit: use.unit, fraction: reached });
  }
  return { warnings, warned };
}

/** The highest step reached. A breach that ends the run is no warning. */
function fractionReached(warnAt: readonly number[], use: QuotaUse): number | null {
  if (use.crossed) return use.action === 'warn' ? 1 : null;
  if (use.limit === 0) return null;
  return warnAt.findLast((fraction) => use.measured >= fraction * use.limit) ?? null;
}

function nextSampleMs(plan: QuotaPlan, uses: readonly QuotaUse[], held: QuotaState['held']): number {
  let next = IDLE_MS;
  for (const use of uses) {
    // What was crossed with an action that has been taken has nothing left to be watched for.
    if (use.crossed && (use.action === 'warn' || held.includes(use.budget))) continue;
    next = Math.min(next, earliestCrossingMs(plan, use));
  }
  return next;
}

function earliestCrossingMs(plan: QuotaPlan, use: QuotaUse): number {
  const headroom = Math.max(0, use.limit - use.measured);
  switch (use.budget) {
    case 'wall':
      // Time grows at a known rate, so the look comes exactly at the bound.
      return Math.max(1, headroom);
    case 'cpu':
      return Math.max(NEAR_BOUND_MS, earliestCpuMs(plan, headroom));
    case 'connections':
      return plan.egressHeldByKernel ? IDLE_MS : Math.max(NEAR_BOUND_MS, headroom / CONNECTIONS_PER_MS_MAX);
    case 'egress':
    case 'ingress':
      return plan.egressHeldByKernel ? IDLE_MS : Math.max(NEAR_BOUND_MS, headroom / BYTES_PER_MS_MAX);
    // Told by the driver several times a second, and judged when it is told.
    case 'gpu':
    case 'denials':
      return IDLE_MS;
    default:
      return assertNever(use.budget);
  }
}

function earliestCpuMs(plan: QuotaPlan, headroomMs: number): number {
  const byHardware = headroomMs / plan.cpusOnline;
  if (plan.cpuMillisMax === null) return byHardware;
  const cores = plan.cpuMillisMax / 1000;
  const byQuota = (headroomMs - 2 * cores * QUOTA_PERIOD_MS) / cores;
  return Math.max(byHardware, byQuota);
}
