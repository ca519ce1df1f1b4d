import type { Breach } from '../core/outcome.ts';
import type { GpuTold, WatchBounds } from '../core/ports/warden.ts';
import { changeQuota, grantMore, isThrottled, pausedBudgets, rewrittenBudgets } from '../policy/quota-change.ts';
import { judge, newQuotaState } from '../policy/quotas.ts';
import type { QuotaJudgement, QuotaReading } from '../policy/quotas.ts';
import { lostDaemonBreach, oomBreach } from './breaches.ts';
import type { Gauge } from './gauge.ts';
import { createGpuWatch } from './gpu-watch.ts';
import type { RunNote } from './note.ts';
import type { Refusals } from './refusals.ts';

/** The bounds of one run, and what its use and its refusals mean under them. */
export type Judge = {
  readonly bounds: WatchBounds;
  /** Judges what was read last. What it says is said once. */
  judge(at: JudgeTime): Omit<QuotaJudgement, 'state'>;
  /** Other bounds; `throttled`: a budget that slows the run down is used up under them too. */
  change(bounds: WatchBounds, at: JudgeTime): { readonly throttled: boolean };
  /** Grants the budgets that paused the run once more. */
  grantMore(at: JudgeTime): void;
  /** The limit of the container is known. */
  setCpuMillisMax(cpuMillisMax: number | null): void;
  noteGpu(told: GpuTold, nowMs: number): void;
  /** For the warden of the next daemon. */
  note(): Omit<RunNote, 'denialsTotal'>;
};

export type JudgeTime = {
  readonly nowMs: number;
  readonly wallMs: number;
  /** How long the daemon has been gone, or null while it is there. */
  readonly daemonLostForMs: number | null;
};

export function createJudge(options: {
  readonly bounds: WatchBounds;
  readonly gauge: Gauge;
  readonly refusals: Refusals;
  readonly cpusOnline: number;
  readonly egressHeldByKernel: boolean;
  /** What the warden before knew of the run. */
  readonly before: RunNote | null;
}): Judge {
  const { before, gauge, refusals, cpusOnline, egressHeldByKernel } = options;
  let { bounds } = options;
  const { budgets, warnAt } = bounds;
  let quota = newQuotaState({ budgets, warnAt, cpusOnline, egressHeldByKernel, cpuMillisMax: null });
  if (before !== null) {
    const { denials, warned, raised } = before;
    quota = { ...quota, denials, warned, raised };
  }
  let oomKillsPassed = before?.oomKillsPassed ?? 0;
  const gpu = createGpuWatch(bounds.gpu);

  const readingAt = ({ wallMs }: JudgeTime): QuotaReading => {
    const { egressBytes, ingressBytes, connections } = gauge.usage;
    const gpuMs = gauge.usage.gpuMs ?? 0;
    return { wallMs, cpuMs: gauge.reading.cpuMs, gpuMs, egressBytes, ingressBytes, connections, ...refusals.unjudged };
  };
  const otherBreach = ({ daemonLostForMs, nowMs }: JudgeTime): Breach | null => {
    const { onOom, killWithoutDaemonAfterMs } = bounds;
    const { oomKills, memoryBytesPeak } = gauge.reading;
    const { memoryBytesMax } = gauge;
    return (
      oomBreach({ onOom, oomKills: oomKills - oomKillsPassed, memoryBytesPeak, memoryBytesMax }) ??
      gpu.breach(nowMs) ??
      lostDaemonBreach(daemonLostForMs, killWithoutDaemonAfterMs)
    );
  };

  return {
    get bounds() {
      return bounds;
    },
    judge: (at) => {
      const { state, ...judgement } = judge(quota, readingAt(at), at.nowMs);
      quota = state;
      refusals.judged();
      return { ...judgement, breach: judgement.breach ?? otherBreach(at) };
    },
    change: (next, at) => {
      if (next.onOom === 'agent' && bounds.onOom === 'process') oomKillsPassed = gauge.reading.oomKills;
      refusals.forgetCutOff(rewrittenBudgets(quota, next.budgets));
      const reading = readingAt(at);
      quota = changeQuota(quota, next, { reading, nowMs: at.nowMs, denialsTotal: refusals.total });
      bounds = next;
      gpu.change(next.gpu);
      return { throttled: isThrottled(quota, reading) };
    },
    grantMore: (at) => {
      refusals.forgetCutOff(pausedBudgets(quota));
      quota = grantMore(quota, readingAt(at));
    },
    noteGpu: (told, nowMs) => {
      gpu.note(told, nowMs);
      const { busyMs, memoryBytes } = told;
      if (busyMs !== null) gauge.noteGpu({ busyMs, memoryBytes });
    },
    note: () => {
      const { denials, warned, raised } = quota;
      return { denials, warned, raised, oomKillsPassed };
    },
    setCpuMillisMax: (cpuMillisMax) => {
      quota = { ...quota, plan: { ...quota.plan, cpuMillisMax } };
    },
  };
}
