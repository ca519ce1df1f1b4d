import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { assertNever } from '../core/assert.ts';
import type { Denial } from '../core/outcome.ts';
import type { BudgetPlan } from '../core/ports/warden.ts';
import { IDLE_MS, judge, NEAR_BOUND_MS, newQuotaState } from './quotas.ts';
import type { QuotaPlan, QuotaReading, QuotaState } from './quotas.ts';

const DENIAL: Denial = {
  kind: 'packet',
  at: '2026-01-01T00:00:00.000Z',
  destination: '198.51.100.7',
  port: 22,
  protocol: 'tcp',
  rule: 'egress',
  explanation: 'no rule of the profile allows this destination',
};
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

function planOf(budgets: readonly BudgetPlan[], more: Partial<QuotaPlan> = {}): QuotaPlan {
  return { budgets, warnAt: [0.5, 0.8], cpusOnline: 2, cpuMillisMax: null, egressHeldByKernel: false, ...more };
}

function judgeOnce(budgets: readonly BudgetPlan[], reading: Partial<QuotaReading>) {
  return judge(newQuotaState(planOf(budgets)), { ...NOTHING, ...reading }, 0);
}

const WALL: BudgetPlan = { budget: 'wall', limitMs: 60_000, action: 'kill' };
const CPU: BudgetPlan = { budget: 'cpu', limitMs: 20_000, action: 'kill' };
const EGRESS: BudgetPlan = { budget: 'egress', limitBytes: 1_000, action: 'kill' };
const INGRESS: BudgetPlan = { budget: 'ingress', limitBytes: 1_000, action: 'kill' };
const CONNECTIONS: BudgetPlan = { budget: 'connections', count: 5, action: 'kill' };
const DENIALS: BudgetPlan = { budget: 'denials', count: 2, windowMs: 1_000, action: 'kill' };
const NO_DENIALS: BudgetPlan = { budget: 'denials', count: 0, windowMs: null, action: 'kill' };

describe('judge', () => {
  it.each([
    ['wall just before its limit', [WALL], { wallMs: 59_999 }, null],
    ['wall at its limit', [WALL], { wallMs: 60_000 }, { reason: 'budget.wall', measured: 60_000, unit: 'ms' }],
    ['CPU time just before its limit', [CPU], { cpuMs: 19_999.9 }, null],
    ['CPU time at its limit', [CPU], { cpuMs: 20_000 }, { reason: 'budget.cpu', measured: 20_000, unit: 'ms' }],
    ['egress that is exactly used up', [EGRESS], { egressBytes: 1_000 }, null],
    ['egress of one byte more', [EGRESS], { egressBytes: 1_001 }, { reason: 'budget.egress', measured: 1_001 }],
    [
      'egress that the kernel cut off',
      [EGRESS],
      { cutOff: ['egress'] as const },
      { reason: 'budget.egress', measured: 1_000 },
    ],
    ['ingress that is exactly used up', [INGRESS], { ingressBytes: 1_000 }, null],
    ['ingress of one byte more', [INGRESS], { ingressBytes: 1_001 }, { reason: 'budget.ingress', measured: 1_001 }],
    [
      'ingress that the kernel cut off before our counters show it',
      [INGRESS],
      { ingressBytes: 990, cutOff: ['ingress'] as const },
      { reason: 'budget.ingress', measured: 1_000, limit: 1_000, unit: 'bytes' },
    ],
    ['as many connections as allowed', [CONNECTIONS], { connections: 5 }, null],
    [
      'one connection more than allowed',
      [CONNECTIONS],
      { connections: 6 },
      { reason: 'budget.connections', measured: 6, limit: 5, unit: 'connections' },
    ],
    [
      'a connection that the kernel refused',
      [CONNECTIONS],
      { connections: 5, cutOff: ['connections'] as const },
      { reason: 'budget.connections', measured: 5 },
    ],
    ['a cut-off of another budget', [EGRESS, CONNECTIONS], { cutOff: ['ingress'] as const }, null],
    ['as many denials as allowed', [DENIALS], { newDenials: 2 }, null],
    ['one denial more than allowed', [DENIALS], { newDenials: 3 }, { reason: 'budget.denials', measured: 3 }],
    ['no denial where none is allowed', [NO_DENIALS], {}, null],
    [
      'the first denial where none is allowed',
      [NO_DENIALS],
      { newDenials: 1, lastDenial: DENIAL },
      { reason: 'egress.forbidden', rule: 'budget.denials', measured: 1, limit: 0, denial: DENIAL },
    ],
    ['a use without any budget', [], { wallMs: 1e12, cpuMs: 1e12, egressBytes: 1e15, newDenials: 1e6 }, null],
  ] as const)('judges %s', (_, budgets, reading, expected) => {
    const { breach } = judgeOnce(budgets, reading);
    if (expected === null) expect(breach).toBeNull();
    else expect(breach).toMatchObject({ action: 'kill', ...expected });
  });

  it('reports the harshest of several breaches that come at once, and no other later', () => {
    const stop: BudgetPlan = { ...WALL, action: 'stop' };
    const reading = { ...NOTHING, wallMs: 99_999, cpuMs: 99_999 };
    const first = judge(newQuotaState(planOf([stop, CPU])), reading, 0);
    const second = judge(first.state, { ...reading, egressBytes: 9e9 }, 1);
    expect([first.breach?.rule, second.breach, second.escalate]).toEqual(['budget.cpu', null, false]);
  });

  it('ends the grace of a stop when a budget that kills is crossed too', () => {
    const first = judge(newQuotaState(planOf([{ ...WALL, action: 'stop' }, CPU])), { ...NOTHING, wallMs: 60_000 }, 0);
    const same = judge(first.state, { ...NOTHING, wallMs: 60_001 }, 1);
    const harder = judge(same.state, { ...NOTHING, wallMs: 60_002, cpuMs: 20_000 }, 2);
    expect([first.breach?.action, first.escalate, same.escalate, harder.escalate, harder.breach]).toEqual([
      'stop',
      false,
      false,
      true,
      null,
    ]);
  });

  it('warns once at each fraction, and skips the fractions that were jumped over', () => {
    const said: (readonly [string, number])[] = [];
    let state: QuotaState = newQuotaState(planOf([CPU, EGRESS]));
    for (const cpuMs of [9_999, 10_000, 12_000, 10_000, 16_000, 17_000]) {
      const judgement = judge(state, { ...NOTHING, cpuMs, egressBytes: cpuMs > 12_000 ? 900 : 0 }, 0);
      state = judgement.state;
      said.push(...judgement.warnings.map((warning) => [warning.rule, warning.fraction] as const));
    }
    expect(said).toEqual([
      ['budget.cpu', 0.5],
      ['budget.cpu', 0.8],
      ['budget.egress', 0.8],
    ]);
  });

  it('warns once and never ends a run whose budget says `warn`', () => {
    const warnOnly: BudgetPlan = { ...CPU, action: 'warn' };
    const first = judge(newQuotaState(planOf([warnOnly])), { ...NOTHING, cpuMs: 30_000 }, 0);
    const second = judge(first.state, { ...NOTHING, cpuMs: 40_000 }, 1);
    expect([first.breach, first.warnings, second.breach, second.warnings, second.nextSampleMs]).toEqual([
      null,
      [{ rule: 'budget.cpu', measured: 30_000, limit: 20_000, unit: 'ms', fraction: 1 }],
      null,
      [],
      IDLE_MS,
    ]);
  });

  it('forgets denials that left the window, to the millisecond', () => {
    const breachAt = (times: readonly number[]): number | null => {
      let state = newQuotaState(planOf([DENIALS]));
      for (const atMs of times) {
        const judgement = judge(state, { ...NOTHING, newDenials: 1, lastDenial: DENIAL }, atMs);
        state = judgement.state;
        if (judgement.breach !== null) return atMs;
      }
      return null;
    };
    expect([breachAt([0, 500, 999]), breachAt([0, 500, 1_000]), breachAt([0, 500, 1_000, 1_499])]).toEqual([
      999,
      null,
      1_499,
    ]);
  });

  it.each([
    ['an idle run', [CPU], { cpuMs: 0 }, {}, IDLE_MS],
    ['wall time near its end', [WALL], { wallMs: 59_700 }, {}, 300],
    ['CPU time that two cores could use up in 400 ms', [CPU], { cpuMs: 19_200 }, {}, 400],
    ['the same under a limit of half a core', [CPU], { cpuMs: 19_200 }, { cpuMillisMax: 500 }, IDLE_MS],
    ['CPU time at the bound', [CPU], { cpuMs: 19_999 }, {}, NEAR_BOUND_MS],
    ['egress that the kernel holds', [EGRESS], { egressBytes: 999 }, { egressHeldByKernel: true }, IDLE_MS],
    ['egress that nothing else holds', [EGRESS], { egressBytes: 999 }, {}, NEAR_BOUND_MS],
    ['connections that the kernel holds', [CONNECTIONS], { connections: 5 }, { egressHeldByKernel: true }, IDLE_MS],
    ['connections that nothing else holds', [CONNECTIONS], { connections: 5 }, {}, NEAR_BOUND_MS],
    ['a budget that has slowed the run down', [{ ...CPU, action: 'throttle' }], { cpuMs: 30_000 }, {}, IDLE_MS],
  ] as const)('looks again in time at %s', (_, budgets, reading, more, expected) => {
    const state = newQuotaState(planOf(budgets, more));
    expect(judge(state, { ...NOTHING, ...reading }, 0).nextSampleMs).toBe(expected);
  });
});

describe('judge, for all readings', () => {
  const action = fc.constantFrom('warn', 'throttle', 'pause', 'stop', 'kill' as const);
  const budgets = fc.tuple(
    fc.record({ budget: fc.constant('wall' as const), limitMs: fc.integer({ min: 1, max: 5_000 }), action }),
    fc.record({ budget: fc.constant('cpu' as const), limitMs: fc.integer({ min: 1, max: 5_000 }), action }),
    fc.record({ budget: fc.constant('egress' as const), limitBytes: fc.integer({ min: 0, max: 5_000 }), action }),
    fc.record({ budget: fc.constant('ingress' as const), limitBytes: fc.integer({ min: 0, max: 5_000 }), action }),
    fc.record({ budget: fc.constant('connections' as const), count: fc.integer({ min: 0, max: 200 }), action }),
    fc.record({ budget: fc.constant('gpu' as const), limitMs: fc.integer({ min: 1, max: 5_000 }), action }),
    fc.record({
      budget: fc.constant('denials' as const),
      count: fc.integer({ min: 0, max: 20 }),
      windowMs: fc.option(fc.integer({ min: 1, max: 2_000 })),
      action,
    }),
  );
  const increments = fc.array(
    fc.record({
      wallMs: fc.integer({ min: 0, max: 500 }),
      cpuMs: fc.integer({ min: 0, max: 500 }),
      egressBytes: fc.integer({ min: 0, max: 500 }),
      ingressBytes: fc.integer({ min: 0, max: 500 }),
      gpuMs: fc.double({ min: 0, max: 500, noNaN: true }),
      connections: fc.integer({ min: 0, max: 20 }),
      newDenials: fc.integer({ min: 0, max: 4 }),
    }),
    { maxLength: 60 },
  );

  it('breaches at most once, and exactly at the first reading that crosses a bound', () => {
    fc.assert(
      fc.property(budgets, increments, (plans, steps) => {
        let state = newQuotaState(planOf(plans));
        let total: Total = NO_USE;
        const denialTimes: number[] = [];
        const held = new Set<string>();
        let breaches = 0;
        for (const step of steps) {
          total = sumOf(total, step);
          const nowMs = total.wallMs;
          for (let index = 0; index < step.newDenials; index += 1) denialTimes.push(nowMs);
          const reading = { ...NOTHING, ...total, newDenials: step.newDenials };
          const crossed = plans.filter((plan) => isEnding(plan) && isCrossed(plan, total, { denialTimes, nowMs }));
          const judgement = judge(state, reading, nowMs);
          state = judgement.state;
          if (breaches === 0) expect(judgement.breach !== null).toBe(crossed.length > 0);
          else expect(judgement.breach).toBeNull();
          if (judgement.breach !== null) {
            breaches += 1;
            expect(isEnding(judgement.breach)).toBe(true);
          }
          for (const hold of judgement.holds) {
            expect(held.has(hold.rule) || isEnding(hold) || breaches > 0).toBe(false);
            held.add(hold.rule);
          }
          const denials = plans[6];
          expect(state.denials.length).toBeLessThanOrEqual(denials.count + 1);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('is monotone: who uses more is not judged milder, nor looked at later', () => {
    const use = fc.record({
      wallMs: fc.integer({ min: 0, max: 6_000 }),
      cpuMs: fc.integer({ min: 0, max: 6_000 }),
      egressBytes: fc.integer({ min: 0, max: 6_000 }),
      ingressBytes: fc.integer({ min: 0, max: 6_000 }),
      gpuMs: fc.double({ min: 0, max: 5_000, noNaN: true }),
      connections: fc.integer({ min: 0, max: 250 }),
    });
    fc.assert(
      fc.property(budgets, use, use, (plans, less, more) => {
        const enforced = plans.map((plan) => ({ ...plan, action: 'kill' as const }));
        const mild = judgeOnce(enforced, less);
        const hard = judgeOnce(enforced, sumOf(less, more));
        expect(mild.breach !== null && hard.breach === null).toBe(false);
        expect(hard.nextSampleMs).toBeLessThanOrEqual(mild.nextSampleMs);
      }),
    );
  });

  it('lets no burst escape: whatever the cores do between two looks, the overshoot is that of the last few ms', () => {
    const bursts = fc.array(
      fc.record({ ms: fc.integer({ min: 1, max: 300 }), cores: fc.integer({ min: 0, max: 8 }) }),
      {
        minLength: 1,
        maxLength: 200,
      },
    );
    fc.assert(
      fc.property(bursts, fc.integer({ min: 50, max: 20_000 }), (pattern, limitMs) => {
        const cpusOnline = 8;
        let state = newQuotaState(planOf([{ budget: 'cpu', limitMs, action: 'kill' }], { cpusOnline }));
        let cpuMs = 0;
        let lookAtMs = 0;
        let nowMs = 0;
        for (const { ms, cores } of pattern) {
          for (let tick = 0; tick < ms; tick += 1) {
            nowMs += 1;
            cpuMs += cores;
            if (nowMs < lookAtMs) continue;
            const judgement = judge(state, { ...NOTHING, cpuMs, wallMs: nowMs }, nowMs);
            state = judgement.state;
            lookAtMs = nowMs + judgement.nextSampleMs;
            if (judgement.breach === null) continue;
            expect(cpuMs - limitMs).toBeLessThanOrEqual((NEAR_BOUND_MS + 1) * cpusOnline);
            return;
          }
        }
        // Never caught: then the bound was not crossed for longer than the shortest look.
        expect(cpuMs - limitMs).toBeLessThanOrEqual((NEAR_BOUND_MS + 1) * cpusOnline);
      }),
    );
  });
});

type Total = Pick<QuotaReading, 'wallMs' | 'cpuMs' | 'gpuMs' | 'egressBytes' | 'ingressBytes' | 'connections'>;
const NO_USE: Total = { wallMs: 0, cpuMs: 0, gpuMs: 0, egressBytes: 0, ingressBytes: 0, connections: 0 };

function sumOf(before: Total, more: Total): Total {
  return {
    wallMs: before.wallMs + more.wallMs,
    cpuMs: before.cpuMs + more.cpuMs,
    gpuMs: before.gpuMs + more.gpuMs,
    egressBytes: before.egressBytes + more.egressBytes,
    ingressBytes: before.ingressBytes + more.ingressBytes,
    connections: before.connections + more.connections,
  };
}

function isEnding({ action }: { readonly action: string }): boolean {
  return action === 'stop' || action === 'kill';
}

function isCrossed(
  plan: BudgetPlan,
  total: Total,
  denials: { readonly denialTimes: readonly number[]; readonly nowMs: number },
): boolean {
  switch (plan.budget) {
    case 'wall':
      return total.wallMs >= plan.limitMs;
    case 'cpu':
      return total.cpuMs >= plan.limitMs;
    case 'gpu':
      return total.gpuMs >= plan.limitMs;
    case 'egress':
      return total.egressBytes > plan.limitBytes;
    case 'ingress':
      return total.ingressBytes > plan.limitBytes;
    case 'connections':
      return total.connections > plan.count;
    case 'denials': {
      const { windowMs } = plan;
      const recent = denials.denialTimes.filter((atMs) => windowMs === null || atMs > denials.nowMs - windowMs);
      return recent.length > plan.count;
    }
    default:
      return assertNever(plan);
  }
}
