import type { Breach, Outcome, Reason } from '../core/outcome.ts';
import type { RunEnd, RunState } from './state.ts';

/** Endings that are an incident: something was crossed or lost, and the supervisor acted. */
const INCIDENT_REASONS: ReadonlySet<Reason> = new Set<Reason>([
  'oom',
  'budget.wall',
  'budget.cpu',
  'budget.gpu',
  'budget.egress',
  'budget.ingress',
  'budget.connections',
  'budget.denials',
  'limit.pids',
  'limit.disk',
  'limit.gpu',
  'egress.forbidden',
  'enforcement.mismatch',
  'enforcement.lost',
  'supervisor.lost',
]);

export function isIncident(reason: Reason): boolean {
  return INCIDENT_REASONS.has(reason);
}

/**
 * Why a run that nobody ended is over, from the kernel's counters: Docker's own flag is set without an OOM kill of the
 * agent and missing after some.
 */
export function classifyNaturalEnd(state: RunState, at: string): RunEnd {
  const exitCode = state.exit?.exitCode ?? null;
  const base = { alsoBreached: [], usageAtBreach: state.usage, times: NO_TIMES, at };
  const { limits } = state.spec;
  if (state.usage.oomKills > 0 && (limits.onOom === 'agent' ? exitCode !== 0 : exitCode === EXIT_SIGKILL)) {
    const breach = kernelBreach('oom', 'limits.memory', state.usage.memoryBytesPeak, limits.memoryBytesMax, 'bytes');
    const detail = `the kernel ended a process of the agent because it needed more than limits.memory (${limits.memoryBytesMax} bytes)`;
    return { ...base, reason: 'oom', rule: 'limits.memory', detail, breach };
  }
  if (state.usage.pidsRefusals > 0 && exitCode !== 0) {
    const breach = kernelBreach('limit.pids', 'limits.pids', state.usage.pidsPeak, limits.pidsMax, 'processes');
    const detail = `the kernel refused ${state.usage.pidsRefusals} new processes or threads above limits.pids (${limits.pidsMax}), and the agent gave up`;
    return { ...base, reason: 'limit.pids', rule: 'limits.pids', detail, breach };
  }
  const [full] = state.usage.diskFull;
  if (full !== undefined && exitCode !== 0) {
    const sizeBytes = sizeOfRule(state, full);
    const breach = kernelBreach('limit.disk', full, sizeBytes, sizeBytes, 'bytes');
    const detail = `there was no room left in what ${full} bounds (${sizeBytes} bytes), and the agent gave up with exit code ${exitCode ?? 'unknown'}`;
    return { ...base, reason: 'limit.disk', rule: full, detail, breach };
  }
  const ended =
    exitCode === null ? 'the agent ended; its exit code is not known' : `the agent exited with code ${exitCode}`;
  const { oomKills } = state.usage;
  const detail =
    oomKills === 0 ? ended : `${ended}; on the way the kernel ended ${oomKills} of its processes for memory`;
  return { ...base, reason: 'exited', rule: null, detail, breach: null };
}

function sizeOfRule({ spec }: RunState, rule: string): number {
  const index = /^mounts\[(\d+)\]\.size$/.exec(rule)?.[1];
  return (index === undefined ? null : spec.mounts[Number(index)]?.sizeBytesMax) ?? spec.limits.diskBytesMax;
}

/** 128 and the number of SIGKILL: with `onOom: process` only this says that it was the first process that was picked. */
const EXIT_SIGKILL = 137;

const NO_TIMES = { detectedMs: null, signalledMs: null, emptyMs: null };

function kernelBreach(reason: Reason, rule: string, measured: number, limit: number, unit: string): Breach {
  return { reason, rule, measured, limit, unit, action: 'kill', denial: null };
}

/** The Outcome of a run whose end, usage and exit are known. */
export function outcomeOf(
  state: RunState,
  end: RunEnd,
  options: { endedAt: string; incidentId: string | null },
): Outcome {
  const { detectedMs, signalledMs, emptyMs } = end.times;
  return {
    runId: state.runId,
    profile: state.spec.name,
    profileDigest: state.spec.profileDigest,
    imageDigest: state.imageDigest,
    reason: end.reason,
    rule: end.rule,
    detail: end.detail,
    exitCode: state.exit?.exitCode ?? null,
    signal: signalOf(state, end),
    startedAt: state.startedAt,
    endedAt: options.endedAt,
    usage: state.usage,
    limits: state.bounds,
    rungs: Object.fromEntries(state.bounds.map((bound) => [bound.path, bound.rung])),
    detectedAt: momentOf(state, detectedMs),
    killedAt: momentOf(state, signalledMs),
    latencyMs:
      detectedMs === null || emptyMs === null ? null : Math.max(0, Math.round((emptyMs - detectedMs) * 10) / 10),
    incidentId: options.incidentId,
  };
}

/** The run was asked to end, not killed, as far as anybody decided: its own exit code tells how that went. */
export function wasAsked(end: RunEnd): boolean {
  return end.reason === 'stopped' || end.breach?.action === 'stop';
}

/** What it took to end the run. One that was asked got SIGTERM, and SIGKILL only if its first process died of that. */
export function signalOf({ exit }: RunState, end: RunEnd): string | null {
  if (end.times.signalledMs === null) return null;
  const exitCode = exit?.exitCode ?? EXIT_OF_SIGKILL;
  return wasAsked(end) && exitCode !== EXIT_OF_SIGKILL ? 'SIGTERM' : 'SIGKILL';
}

const EXIT_OF_SIGKILL = 137;

/** Milliseconds of the run's monotonic clock as UTC. */
export function momentOf(state: RunState, sinceStartMs: number | null): string | null {
  const clockAt = state.clockAt ?? state.startedAt;
  if (sinceStartMs === null || clockAt === null) return null;
  return new Date(Date.parse(clockAt) + sinceStartMs).toISOString();
}
