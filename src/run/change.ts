import type { Breach } from '../core/outcome.ts';
import { staysSlowed } from './adjust.ts';
import { boundsAfterChange } from './bounds.ts';
import type { At, EndFacts, Step } from './ending.ts';
import { endAndKill, finishIfDone, same, supervisorBreach, withEffects, without } from './ending.ts';
import type { ChangeRefusal, EventOf, RunEffect } from './events.ts';
import type { Spec } from '../profile/spec.ts';
import type { RunState } from './state.ts';

/**
 * A profile that changes while its run lives, and a run that is held without being ended.
 *
 *   change ──▶ change-fence ──fence-changed──▶ change-watch ──watch-changed──▶ the new spec is the spec
 *                   └──── failed, or too late ──────┴──▶ the run is ended: half a change is no boundary
 *
 * The fence is first, since it is what a tightening is about. A run that ends meanwhile waits for these answers before it
 * releases anything.
 */

/** Fence and warden answer in milliseconds; a run that is silenced half way must not stay so. */
export const CHANGE_MS_MAX = 20_000;

const CHANGE_EFFECTS = ['change-fence', 'change-watch'];

export function onChange(state: RunState, event: EventOf<'change'>): Step {
  const refuse = (refusal: ChangeRefusal): Step => same(state, [{ kind: 'answer-change', refusal }]);
  if (state.phase === 'ending' || state.phase === 'cleaning' || state.end !== null || state.empty)
    return refuse({ code: 'RUN_OVER', detail: `run ${state.runId} is ending` });
  if (state.phase !== 'running')
    return refuse({ code: 'RUN_NOT_RUNNING', detail: `run ${state.runId} is still being launched` });
  if (state.changingTo !== null)
    return refuse({ code: 'RUN_NOT_RUNNING', detail: `run ${state.runId} is being changed already` });
  return {
    state: { ...state, changingTo: event.spec, pending: [...state.pending, 'change-fence'] },
    effects: [
      { kind: 'set-deadline', name: 'change', afterMs: CHANGE_MS_MAX },
      { kind: 'change-fence', to: event.spec, draft: event.draft, slowed: stillSlow(state, event.spec) !== null },
    ],
  };
}

export function onFenceChanged(before: RunState, event: At, incidentId: string): Step {
  const state = without(before, 'change-fence');
  const to = state.changingTo;
  if (to === null || state.end !== null || state.empty) return abandoned(state, event, incidentId);
  return {
    state: { ...state, pending: [...state.pending, 'change-watch'] },
    effects: [{ kind: 'change-watch', to }],
  };
}

export function onWatchChanged(before: RunState, event: At, incidentId: string): Step {
  const state = without(before, 'change-watch');
  const spec = state.changingTo;
  if (spec === null) return abandoned(state, event, incidentId);
  // In force for both, so it is the profile of the run even where the first thing it did was to end the run.
  const slowedBy = stillSlow(state, spec);
  const held = state.held?.action === 'throttle' ? slowedBy : state.held;
  const changed = { ...state, spec, bounds: boundsAfterChange(spec, state.bounds), changingTo: null, slowedBy, held };
  return withEffects([{ kind: 'answer-change', refusal: null }], finishIfDone(changed, event, incidentId));
}

/** Nothing was changed when not even the record of it could be written; after that, half a change ends the run. */
export function onChangeFailed(before: RunState, event: EventOf<'effect-failed'>, incidentId: string): Step {
  const { failure } = event;
  const state = without(before, event.effect);
  if (failure.code === 'LEDGER_UNWRITABLE' && state.end === null && !state.empty) {
    const refusal = { code: 'LEDGER_UNWRITABLE', detail: failure.message } as const;
    return same({ ...state, changingTo: null }, [{ kind: 'answer-change', refusal }]);
  }
  return lost(state, event, { incidentId, why: failure.message });
}

export function onChangeDeadline(before: RunState, event: At, incidentId: string): Step {
  const waits = before.pending.filter((each) => CHANGE_EFFECTS.includes(each));
  if (waits.length === 0) return same(before);
  const state = { ...before, pending: before.pending.filter((each) => !CHANGE_EFFECTS.includes(each)) };
  const why = `${waits.join(' and ')} did not answer within ${CHANGE_MS_MAX / 1000} s`;
  return lost(state, event, { incidentId, why });
}

export function onHeld(before: RunState, event: EventOf<'held'>): Step {
  const { breach, usage } = event;
  if (before.end !== null || before.empty) return same(before);
  const record: RunEffect = {
    kind: 'record',
    draft: { kind: 'run.held', runId: before.runId, profile: before.spec.name, breach, usage },
  };
  const news: readonly RunEffect[] = isNews(before, breach) ? [record, { kind: 'notify-held', breach }] : [record];
  if (breach.action !== 'throttle') {
    const pausedBy = [...new Set([...before.pausedBy, breach.rule])];
    return { state: { ...before, held: breach, pausedBy, usage }, effects: news };
  }
  const held = before.held?.action === 'pause' ? before.held : breach;
  const state = { ...before, held, slowedBy: breach, usage };
  if (before.slowedBy !== null) return { state, effects: news };
  const slowing = { ...state, pending: [...state.pending, 'slow-network'] };
  return { state: slowing, effects: [...news, { kind: 'slow-network' }] };
}

/** The warden sees the end of a pause; what it was told by is on record as a command. */
export function onResumed(before: RunState): Step {
  if (before.held?.action !== 'pause') return same(before);
  const draft = { kind: 'run.resumed' as const, runId: before.runId, profile: before.spec.name };
  return { state: { ...before, held: before.slowedBy, pausedBy: [] }, effects: [{ kind: 'record', draft }] };
}

export function onResume(before: RunState): Step {
  const paused = before.held?.action === 'pause' && before.phase === 'running';
  if (!paused || before.end !== null || before.pending.includes('grant-more')) return same(before);
  return {
    state: { ...before, pending: [...before.pending, 'grant-more'] },
    effects: [{ kind: 'grant-more', rules: before.pausedBy }],
  };
}

/** A fence that does not do as it is told holds nothing any more. */
export function onHoldFailed(before: RunState, event: EventOf<'effect-failed'>, incidentId: string): Step {
  const state = without(before, event.effect);
  if (state.end !== null || state.empty) return finishIfDone(state, event, incidentId);
  const what = event.effect === 'grant-more' ? 'let go on after a pause' : 'slowed down';
  const detail = `the run could not be ${what}: ${event.failure.message}`;
  const breach = supervisorBreach('enforcement.lost', 'egress');
  return endAndKill(state, event, { reason: 'enforcement.lost', rule: 'egress', detail, breach }, incidentId);
}

function stillSlow({ slowedBy }: RunState, spec: Spec): Breach | null {
  return slowedBy !== null && staysSlowed(slowedBy, spec) ? slowedBy : null;
}

/** People are told once for each thing that holds a run, however often the warden says it. */
function isNews({ held, slowedBy }: RunState, breach: Breach): boolean {
  const known = breach.action === 'throttle' ? slowedBy : held;
  return known === null || known.rule !== breach.rule || known.action !== breach.action;
}

/** The run is ending by itself, so it is not changed any more; what was changed goes with it. */
function abandoned(state: RunState, event: At, incidentId: string): Step {
  const refusal = { code: 'RUN_OVER', detail: `run ${state.runId} ended while it was being changed` } as const;
  const ended = { ...state, changingTo: null };
  return withEffects([{ kind: 'answer-change', refusal }], finishIfDone(ended, event, incidentId));
}

function lost(
  state: RunState,
  event: At,
  { incidentId, why }: { readonly incidentId: string; readonly why: string },
): Step {
  if (state.end !== null || state.empty) return abandoned(state, event, incidentId);
  const end: EndFacts = {
    reason: 'enforcement.lost',
    rule: 'reload',
    detail: `the run could not be held to its changed profile: ${why}`,
    breach: supervisorBreach('enforcement.lost', 'reload'),
  };
  const refusal = { code: 'RUN_OVER', detail: `run ${state.runId} was ended: ${end.detail}` } as const;
  return withEffects(
    [{ kind: 'answer-change', refusal }],
    endAndKill({ ...state, changingTo: null }, event, end, incidentId),
  );
}
