import { expect, test } from 'vitest';
import type { BudgetPlan } from '../core/ports/warden.ts';
import { judge, newQuotaState, type QuotaReading } from './quotas.ts';

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
const CPU: BudgetPlan = { budget: 'cpu', limitMs: 1_000, action: 'stop' };
const WALL: BudgetPlan = { budget: 'wall', limitMs: 5_000, action: 'kill' };
const begin = (...budgets: readonly BudgetPlan[]) =>
  newQuotaState({ budgets, warnAt: [], cpusOnline: 2, cpuMillisMax: null, egressHeldByKernel: true });

test('two budgets crossed at one look are the breach, the hardest, and one more cause', () => {
  const { breach, also, state } = judge(begin(CPU, WALL), { ...NOTHING, wallMs: 5_000, cpuMs: 1_000 }, 0);
  expect([breach?.rule, also.map(({ rule }) => rule)]).toEqual(['budget.wall', ['budget.cpu']]);
  expect(judge(state, { ...NOTHING, wallMs: 5_010, cpuMs: 1_010 }, 10).also).toEqual([]);
});

test('what is crossed in the grace of a run that ends is told once', () => {
  const first = judge(begin(CPU, WALL), { ...NOTHING, cpuMs: 1_000 }, 0);
  const same = judge(first.state, { ...NOTHING, cpuMs: 1_200 }, 10);
  const second = judge(same.state, { ...NOTHING, cpuMs: 1_300, wallMs: 5_001 }, 20);
  const third = judge(second.state, { ...NOTHING, cpuMs: 1_400, wallMs: 5_100 }, 30);
  expect([first, same, second, third].map(({ breach, also }) => [breach?.rule, also.map(({ rule }) => rule)])).toEqual([
    ['budget.cpu', []],
    [undefined, []],
    [undefined, ['budget.wall']],
    [undefined, []],
  ]);
});

test('what only warns or holds back is no cause of an end', () => {
  const paused: BudgetPlan = { ...CPU, action: 'pause' };
  const { breach, also } = judge(begin(paused, WALL), { ...NOTHING, wallMs: 5_000, cpuMs: 1_000 }, 0);
  expect([breach?.rule, also]).toEqual(['budget.wall', []]);
});
