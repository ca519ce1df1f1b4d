import type { Breach, EndTimes } from '../core/outcome.ts';
import { earned } from '../core/token-bucket.ts';
import type { Step } from './ending.ts';
import { emptyDeadline, endOf, same } from './ending.ts';
import type { EventOf, RunEffect } from './events.ts';
import type { RunEnd, RunState } from './state.ts';
import { DENIALS_RECORDED_BURST, LAST_DENIALS_MAX } from './state.ts';

/** What the warden saw a run do: refused attempts, budgets that are nearly used up, and what ends it. */

/** Beyond the burst: an agent that is refused all day is told of all day, and cannot fill a disk with it. */
const DENIAL_RECORDS = { perSecond: 0.2, burst: DENIALS_RECORDED_BURST };

export function onDenied(before: RunState, event: EventOf<'denied'>): Step {
  const { unrecorded, onRecord } = before.denialRecords;
  const attempts = 1 + event.suppressed;
  const tokens = earned(before.denialRecords, DENIAL_RECORDS, event.atMs);
  const state = {
    ...before,
    denialsTotal: before.denialsTotal + attempts,
    lastDenials: [...before.lastDenials, event.denial].slice(-LAST_DENIALS_MAX),
  };
  const at = { atMs: event.atMs, unrecorded: unrecorded + attempts };
  if (tokens < 1) return same({ ...state, denialRecords: { ...at, tokens, onRecord } });
  const draft = {
    kind: 'egress.denied' as const,
    runId: state.runId,
    profile: state.spec.name,
    denial: event.denial,
    suppressed: at.unrecorded - 1,
  };
  const denialRecords = { ...at, tokens: tokens - 1, unrecorded: 0, onRecord: onRecord + at.unrecorded };
  return { state: { ...state, denialRecords }, effects: [{ kind: 'record', draft }] };
}

export function onWarned(state: RunState, event: EventOf<'warned'>): Step {
  const { rule, measured, limit, unit, fraction } = event;
  const draft = {
    kind: 'budget.warned' as const,
    runId: state.runId,
    profile: state.spec.name,
    rule,
    measured,
    limit,
    unit,
    fraction,
  };
  return { state, effects: [{ kind: 'record', draft }] };
}

export function onBreached(before: RunState, event: EventOf<'breached'>): Step {
  const { breach, usage, times } = event;
  const known = before.end === null ? [] : [before.end.breach, ...before.end.alsoBreached];
  if (before.end !== null && known.some((each) => each?.rule === breach.rule)) return toldAgain(before, times);
  const draft = { kind: 'breach' as const, runId: before.runId, profile: before.spec.name, breach, usage };
  const record: RunEffect = { kind: 'record', draft };
  if (before.end !== null) {
    const end =
      before.end.breach === null ? before.end : { ...before.end, alsoBreached: [...before.end.alsoBreached, breach] };
    return { state: { ...before, end }, effects: [record] };
  }
  const end: RunEnd = {
    ...endOf({ reason: breach.reason, rule: breach.rule, detail: breachDetail(breach), breach }, event),
    usageAtBreach: usage,
    times,
  };
  const graceMs = breach.action === 'stop' ? before.spec.graceMs : 0;
  return { state: { ...before, phase: 'ending', end, usage }, effects: [record, emptyDeadline(graceMs)] };
}

/** After a crash of the daemon both the record and the warden tell of it, and only the warden knows when. */
function toldAgain(before: RunState, times: EndTimes): Step {
  const { end } = before;
  if (end === null || end.times.detectedMs !== null || times.detectedMs === null) return same(before);
  return same({ ...before, end: { ...end, times: { ...times, emptyMs: end.times.emptyMs ?? times.emptyMs } } });
}

/** One sentence of fact; `report/` says it better for people. */
function breachDetail(breach: Breach): string {
  if (breach.denial !== null)
    return `${breach.denial.destination}${breach.denial.port === null ? '' : `:${breach.denial.port}`} was refused by ${breach.denial.rule}, and ${breach.rule} allows ${breach.limit}`;
  if (breach.rule === 'network') return 'the container was given a network that is not its own';
  return `${breach.rule} was crossed: ${breach.measured} of ${breach.limit} ${breach.unit}`;
}
