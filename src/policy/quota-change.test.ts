import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BudgetPlan } from '../core/ports/warden.ts';
import { changeQuota, grantMore, isThrottled, pausedBudgets, rewrittenBudgets } from './quota-change.ts';
import { judge, newQuotaState } from './quotas.ts';
import type { QuotaReading, QuotaState } from './quotas.ts';

const NOTHING: QuotaReading = {
  wallMs: 0,
  cpuMs: 0,
  gpuMs: 0,
  egressBytes: 0,
  ingressBytes: 0,
  connections: 0,
  cutOff: [],
  newDenials: 0,
  lastDenial: null,
};
const WALL: BudgetPlan = { budget: 'wall', limitMs: 60_000, action: 'kill' };
const CPU: BudgetPlan = { budget: 'cpu', limitMs: 10_000, action: 'kill' };
const PAUSE: BudgetPlan = { ...CPU, action: 'pause' };
const SLOW: BudgetPlan = { ...CPU, action: 'throttle' };
const WARN_AT = [0.5, 0.8];

function stateOf(budgets: readonly BudgetPlan[]): QuotaState {
  const plan = { budgets, warnAt: WARN_AT, cpusOnline: 2, cpuMillisMax: null, egressHeldByKernel: true };
  return newQuotaState(plan);
}

function judged(state: QuotaState, reading: Partial<QuotaReading>, nowMs = 0) {
  return judge(state, { ...NOTHING, ...reading }, nowMs);
}

function change(state: QuotaState, budgets: readonly BudgetPlan[], reading: Partial<QuotaReading>, denialsTotal = 0) {
  const facts = { reading: { ...NOTHING, ...reading }, nowMs: 5_000, denialsTotal };
  return changeQuota(state, { budgets, warnAt: WARN_AT }, facts);
}

describe('changeQuota', () => {
  it.each([
    ['above what is used', 9_001, null],
    ['at what is used', 9_000, 'budget.cpu'],
    ['below what is used', 100, 'budget.cpu'],
  ] as const)('lets the next judgement decide on a bound %s', (_, limitMs, reason) => {
    const before = judged(stateOf([CPU]), { cpuMs: 9_000 }).state;
    const after = judged(change(before, [{ ...CPU, limitMs }], { cpuMs: 9_000 }), { cpuMs: 9_000 });
    expect(after.breach?.reason ?? null).toBe(reason);
  });

  it('says a warning again only when it had become untrue', () => {
    const before = judged(stateOf([CPU]), { cpuMs: 8_500 }).state;
    const wider = change(before, [{ ...CPU, limitMs: 14_000 }], { cpuMs: 8_500 });
    const same = judged(wider, { cpuMs: 8_500 }).warnings;
    const later = judged(wider, { cpuMs: 12_000 }).warnings;
    expect([same, later.map(({ fraction }) => fraction)]).toEqual([[], [0.8]]);
  });

  it('counts refusals on, in their window and without one', () => {
    const window: BudgetPlan = { budget: 'denials', count: 5, windowMs: 1_000, action: 'kill' };
    const before = judged(stateOf([window]), { newDenials: 3 }, 4_500).state;
    const breachAfter = (plan: BudgetPlan, newDenials: number): boolean =>
      judged(change(before, [plan], {}, 3), { newDenials }, 5_000).breach !== null;
    const whole: BudgetPlan = { ...window, windowMs: null };
    expect([
      breachAfter({ ...window, count: 4 }, 1),
      breachAfter({ ...window, count: 4 }, 2),
      breachAfter({ ...whole, count: 3 }, 0),
      breachAfter({ ...whole, count: 2 }, 0),
      breachAfter(window, 2),
      breachAfter(window, 3),
    ]).toEqual([false, true, false, true, false, true]);
  });

  it('holds a run back again only for a budget that is written anew', () => {
    const before = judged(stateOf([SLOW]), { cpuMs: 10_000 }).state;
    const again = (budgets: readonly BudgetPlan[]): number =>
      judged(change(before, budgets, { cpuMs: 10_000 }), { cpuMs: 10_000 }).holds.length;
    expect([again([SLOW, WALL]), again([{ ...SLOW, limitMs: 9_000 }]), again([{ ...SLOW, limitMs: 11_000 }])]).toEqual([
      0, 1, 0,
    ]);
  });

  it('drops what a person added when the budget itself is written anew, and keeps it otherwise', () => {
    const paused = judged(stateOf([PAUSE]), { cpuMs: 10_000 }).state;
    const granted = grantMore(paused, { ...NOTHING, cpuMs: 10_000 });
    const holds = (budgets: readonly BudgetPlan[]): number =>
      judged(change(granted, budgets, { cpuMs: 12_000 }), { cpuMs: 12_000 }).holds.length;
    expect([holds([PAUSE, WALL]), holds([{ ...PAUSE, limitMs: 9_999 }])]).toEqual([0, 1]);
  });

  it('does not end a run for the second time that ends already', () => {
    const ending = judged(stateOf([{ ...CPU, action: 'stop' }]), { cpuMs: 10_000 }).state;
    const after = judged(change(ending, [{ ...CPU, action: 'stop', limitMs: 1 }], { cpuMs: 10_000 }), {
      cpuMs: 10_000,
    });
    expect([after.breach, after.escalate]).toEqual([null, false]);
  });
});

it('names the budgets that are new, gone or other', () => {
  const state = stateOf([CPU, WALL]);
  expect([
    rewrittenBudgets(state, [WALL, CPU]),
    rewrittenBudgets(state, [WALL, SLOW]),
    rewrittenBudgets(state, [CPU]),
    rewrittenBudgets(state, [CPU, WALL, { budget: 'connections', count: 1, action: 'kill' }]),
  ]).toEqual([[], ['cpu', 'cpu'], ['wall'], ['connections']]);
});

describe('a pause', () => {
  it('is asked for once, ended by a person, and asked for again only when as much again is used up', () => {
    const first = judged(stateOf([PAUSE]), { cpuMs: 10_004 });
    const still = judged(first.state, { cpuMs: 10_005 });
    const granted = grantMore(still.state, { ...NOTHING, cpuMs: 10_005 });
    const before = judged(granted, { cpuMs: 20_004 });
    const after = judged(before.state, { cpuMs: 20_005 });
    expect([first.breach, still.holds, before.holds]).toEqual([null, [], []]);
    expect(first.holds).toMatchObject([{ reason: 'budget.cpu', action: 'pause', measured: 10_004, limit: 10_000 }]);
    expect(after.holds).toMatchObject([{ limit: 20_005, measured: 20_005 }]);
    expect([pausedBudgets(first.state), pausedBudgets(granted)]).toEqual([['cpu'], []]);
  });

  it('for refused attempts begins to count anew', () => {
    const plan: BudgetPlan = { budget: 'denials', count: 1, windowMs: null, action: 'pause' };
    const first = judged(stateOf([plan]), { newDenials: 2 });
    const granted = grantMore(first.state, NOTHING);
    const second = judged(granted, { newDenials: 1 });
    const third = judged(second.state, { newDenials: 1 });
    expect([first, second, third].map(({ holds }) => holds.length)).toEqual([1, 0, 1]);
  });

  it('gives nothing more to a budget that did not pause', () => {
    const state = judged(stateOf([PAUSE, WALL]), { cpuMs: 10_000, wallMs: 59_999 }).state;
    const granted = grantMore(state, { ...NOTHING, cpuMs: 10_000, wallMs: 59_999 });
    expect(judged(granted, { cpuMs: 10_000, wallMs: 60_000 }).breach?.reason).toBe('budget.wall');
  });
});

describe('a throttle', () => {
  it('is taken once, and a harder budget ends the run all the same', () => {
    const first = judged(stateOf([SLOW, WALL]), { cpuMs: 10_000 });
    const second = judged(first.state, { cpuMs: 11_000 });
    const third = judged(second.state, { cpuMs: 12_000, wallMs: 60_000 });
    expect([first.holds.length, first.breach, second.holds, second.breach]).toEqual([1, null, [], null]);
    expect(third.breach).toMatchObject({ reason: 'budget.wall', action: 'kill' });
  });

  it('is not taken in the moment in which the run is ended', () => {
    const both = judged(stateOf([SLOW, WALL]), { cpuMs: 10_000, wallMs: 60_000 });
    expect([both.holds, both.breach?.reason]).toEqual([[], 'budget.wall']);
  });

  it('is over when no such budget is used up any more', () => {
    const state = judged(stateOf([SLOW]), { cpuMs: 10_000 }).state;
    const reading = { ...NOTHING, cpuMs: 10_000 };
    const wider = change(state, [{ ...SLOW, limitMs: 10_001 }], reading);
    expect([isThrottled(state, reading), isThrottled(wider, reading)]).toEqual([true, false]);
  });
});

describe('for all readings', () => {
  const action = fc.constantFrom('warn', 'throttle', 'pause', 'stop', 'kill' as const);
  const budgets = fc.tuple(
    fc.record({ budget: fc.constant('cpu' as const), limitMs: fc.integer({ min: 1, max: 900 }), action }),
    fc.record({ budget: fc.constant('ingress' as const), limitBytes: fc.integer({ min: 0, max: 900 }), action }),
    fc.record({
      budget: fc.constant('denials' as const),
      count: fc.integer({ min: 0, max: 9 }),
      windowMs: fc.option(fc.integer({ min: 1, max: 500 })),
      action,
    }),
  );
  const steps = fc.array(
    fc.record({ cpuMs: fc.nat({ max: 200 }), ingressBytes: fc.nat({ max: 200 }), newDenials: fc.nat({ max: 3 }) }),
    { minLength: 1, maxLength: 30 },
  );

  it('a change to the same bounds changes nothing', () => {
    fc.assert(
      fc.property(budgets, steps, (plans, increments) => {
        let plain = stateOf(plans);
        let changed = plain;
        let reading = NOTHING;
        let denialsTotal = 0;
        increments.forEach((more, index) => {
          const { cpuMs, ingressBytes } = reading;
          reading = {
            ...NOTHING,
            cpuMs: cpuMs + more.cpuMs,
            ingressBytes: ingressBytes + more.ingressBytes,
            newDenials: more.newDenials,
          };
          denialsTotal += more.newDenials;
          const [one, other] = [judge(plain, reading, index * 100), judge(changed, reading, index * 100)];
          plain = one.state;
          const facts = { reading: { ...reading, newDenials: 0 }, nowMs: index * 100, denialsTotal };
          changed = changeQuota(other.state, { budgets: plans, warnAt: WARN_AT }, facts);
          expect([other.breach, other.holds, other.escalate]).toEqual([one.breach, one.holds, one.escalate]);
        });
      }),
    );
  });

  it('what a person lets go on is not held back again before it does anything', () => {
    fc.assert(
      fc.property(budgets, steps, (plans, increments) => {
        let state = stateOf(plans);
        let reading = NOTHING;
        increments.forEach((more, index) => {
          reading = { ...reading, cpuMs: reading.cpuMs + more.cpuMs, newDenials: more.newDenials };
          const judgement = judge(state, reading, index * 100);
          reading = { ...reading, newDenials: 0 };
          state = grantMore(judgement.state, reading);
          const next = judge(state, reading, index * 100);
          expect([next.holds, pausedBudgets(next.state)]).toEqual([[], []]);
          state = next.state;
        });
      }),
    );
  });
});
