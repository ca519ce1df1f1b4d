import type { Breach, Reason } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import { classifyNaturalEnd, isIncident, outcomeOf } from './classify.ts';
import type { RunEffect } from './events.ts';
import type { RunEnd, RunState } from './state.ts';

/** The pieces that every answer of `step` is made of, and the one way in which a run ends. */
export type Step = { readonly state: RunState; readonly effects: readonly RunEffect[] };

/** The warden confirms a kill in milliseconds; later than this the daemon acts by itself. */
export const EMPTY_MS_MAX = 5_000;

export type At = { readonly at: string };

export function same(state: RunState, effects: readonly RunEffect[] = []): Step {
  return { state, effects };
}

export function without(state: RunState, key: string): RunState {
  return { ...state, pending: state.pending.filter((pending) => pending !== key) };
}

export type EndFacts = {
  readonly reason: Reason;
  readonly rule: string | null;
  readonly detail: string;
  readonly breach: Breach | null;
};

export function endOf(facts: EndFacts, event: At): RunEnd {
  return {
    ...facts,
    alsoBreached: [],
    usageAtBreach: null,
    times: { detectedMs: null, signalledMs: null, emptyMs: null },
    at: event.at,
  };
}

export function endAndKill(before: RunState, event: At, facts: EndFacts, incidentId: string): Step {
  const end = before.end ?? { ...endOf(facts, event), usageAtBreach: before.usage };
  const state: RunState = { ...before, phase: 'ending', end };
  if (state.empty) return finishIfDone(state, event, incidentId);
  if (before.end !== null) return same(state);
  return { state, effects: [{ kind: 'kill', reason: facts.reason }, emptyDeadline(0)] };
}

export function supervisorBreach(reason: Reason, rule: string): Breach {
  return { reason, rule, measured: 0, limit: 0, unit: 'none', action: 'kill', denial: null };
}

export function emptyDeadline(graceMs: number): RunEffect {
  return { kind: 'set-deadline', name: 'empty', afterMs: graceMs + EMPTY_MS_MAX };
}

export function withEffects(effects: readonly RunEffect[], next: Step): Step {
  return { state: next.state, effects: [...effects, ...next.effects] };
}

/**
 * Kill, then record, then alert, then release: reached when no process is left, no acquisition is under way, and
 * either the supervisor ended the run or the engine told the exit code.
 */
export function finishIfDone(state: RunState, event: At, incidentId: string): Step {
  if (!state.empty || state.pending.length > 0 || state.outcome !== null) return same(state);
  if (state.end === null && state.exit === null) return same(state);
  const end = state.end ?? classifyNaturalEnd(state, event.at);
  const opensIncident = isIncident(end.reason) && end.breach !== null;
  const withEnd: RunState = {
    ...state,
    end,
    phase: 'cleaning',
    usage: state.startedAt === null ? USAGE_NONE : state.usage,
  };
  const outcome = outcomeOf(withEnd, end, { endedAt: event.at, incidentId: opensIncident ? incidentId : null });
  const record: RunEffect = {
    kind: 'record',
    draft: { kind: 'run.ended', runId: state.runId, profile: state.spec.name, outcome },
  };
  const opening: readonly RunEffect[] = opensIncident ? [{ kind: 'open-incident' }] : [];
  return {
    state: { ...withEnd, outcome },
    effects: [...unrecordedDenials(withEnd), ...opening, record, { kind: 'tear-down' }],
  };
}

/** Refused attempts that no record has counted: the warden tells only so many, and this daemon writes only so many. */
function unrecordedDenials({ runId, spec, usage, denialRecords }: RunState): readonly RunEffect[] {
  const { unrecorded, onRecord } = denialRecords;
  const suppressed = Math.max(unrecorded, usage.denials - onRecord);
  if (suppressed === 0) return [];
  return [{ kind: 'record', draft: { kind: 'egress.suppressed', runId, profile: spec.name, suppressed } }];
}
