import { assertNever } from '../core/assert.ts';
import { LAUNCH_MS_MAX } from '../core/ports/warden.ts';
import { isIncident, wasAsked } from './classify.ts';
import type { Step } from './ending.ts';
import type { At, EndFacts } from './ending.ts';
import {
  emptyDeadline,
  endAndKill,
  endOf,
  finishIfDone,
  same,
  supervisorBreach,
  withEffects,
  without,
} from './ending.ts';
import type { EffectFailure, EventOf, RunEffect, RunEvent, Stamp } from './events.ts';
import { onBreached, onDenied, onWarned } from './observed.ts';
import type { Preparation, RunEnd, RunState } from './state.ts';
import {
  onChange,
  onChangeDeadline,
  onChangeFailed,
  onFenceChanged,
  onHeld,
  onHoldFailed,
  onResume,
  onResumed,
  onWatchChanged,
} from './change.ts';
import { containerIdOf, preparationsOf } from './state.ts';

/** How long the engine may take to tell an exit code after the last process is gone. */
export const EXIT_MS_MAX = 2_000;

/** The whole behaviour of a run. Pure: the same state and event give the same answer. */
export function step(state: RunState, event: RunEvent, incidentId: string): Step {
  if (state.phase === 'over') return same(state);
  const answered = answeredBy(event);
  if (answered !== null && !state.pending.includes(answered)) return same(state);
  switch (event.kind) {
    case 'launch':
      return onLaunch(state);
    case 'adopt':
      return onAdopt(state, event);
    case 'adopted':
      return onAdopted(state, event, incidentId);
    case 'prepared':
      return onPrepared(state, event.preparation, event, incidentId);
    case 'container-created':
      return onContainerCreated(state, event, incidentId);
    case 'container-started':
      return onContainerStarted(state, event);
    case 'verified':
      return onVerified(state, event, incidentId);
    case 'mismatched':
      return onMismatched(state, event, incidentId);
    case 'effect-failed':
      return onEffectFailed(state, event, incidentId);
    case 'sampled':
      return same({ ...state, usage: state.empty ? state.usage : event.usage });
    case 'denied':
      return onDenied(state, event);
    case 'warned':
      return onWarned(state, event);
    case 'breached':
      return onBreached(state, event);
    case 'emptied':
      return onEmptied(state, event, incidentId);
    case 'undead':
      return finishIfDone({ ...state, empty: true, survivors: event.pids.length }, event, incidentId);
    case 'died':
      return onDied(state, event, incidentId);
    case 'end-requested':
      return onEndRequested(state, event, incidentId);
    case 'change':
      return onChange(state, event);
    case 'fence-changed':
      return onFenceChanged(state, event, incidentId);
    case 'watch-changed':
      return onWatchChanged(state, event, incidentId);
    case 'held':
      return onHeld(state, event);
    case 'resumed':
      return onResumed(state);
    case 'resume':
      return onResume(state);
    case 'network-slowed':
      return finishIfDone(without(state, 'slow-network'), event, incidentId);
    case 'more-granted':
      return finishIfDone(without(state, 'grant-more'), event, incidentId);
    case 'torn-down':
      return onTornDown(state, event);
    case 'deadline':
      return onDeadline(state, event, incidentId);
    default:
      return assertNever(event);
  }
}

const ANSWERED_ONCE: readonly RunEffect['kind'][] = [
  'adopt',
  'create-container',
  'start-container',
  'read-back',
  'change-fence',
  'change-watch',
  'slow-network',
  'grant-more',
];

/** The acquisition that an event answers; an answer to nothing that was asked changes nothing. */
function answeredBy(event: RunEvent): string | null {
  switch (event.kind) {
    case 'prepared':
      return prepareKey(event.preparation);
    case 'adopted':
      return 'adopt';
    case 'container-created':
      return 'create-container';
    case 'container-started':
      return 'start-container';
    case 'verified':
    case 'mismatched':
      return 'read-back';
    case 'fence-changed':
      return 'change-fence';
    case 'watch-changed':
      return 'change-watch';
    case 'network-slowed':
      return 'slow-network';
    case 'more-granted':
      return 'grant-more';
    case 'effect-failed': {
      const { preparation } = event.failure;
      if (event.effect === 'prepare') return preparation === undefined ? null : prepareKey(preparation);
      return ANSWERED_ONCE.includes(event.effect) ? event.effect : null;
    }
    default:
      return null;
  }
}

function onLaunch(state: RunState): Step {
  if (state.phase !== 'waiting' || state.end !== null) return same(state);
  const first: readonly Preparation[] = ['cgroup', 'network', 'fence', 'secrets'];
  return {
    state: { ...state, phase: 'preparing', pending: first.map(prepareKey) },
    effects: [
      { kind: 'set-deadline', name: 'launch', afterMs: LAUNCH_MS_MAX },
      ...first.map((preparation): RunEffect => ({ kind: 'prepare', preparation })),
    ],
  };
}

/** Everything of the run exists already; it is taken over as it is, and then read back like a launch. */
function onAdopt(before: RunState, event: EventOf<'adopt'>): Step {
  if (before.phase !== 'waiting' || before.end !== null) return same(before);
  const { containerId, pid, startedAt, startedAtMs } = event;
  const state: RunState = {
    ...before,
    phase: 'preparing',
    prepared: preparationsOf(before.spec),
    container: { kind: 'started', containerId, pid },
    startedAt,
    startedAtMs,
    clockAt: clockAtOf(event, startedAtMs),
    pending: ['adopt'],
  };
  return {
    state,
    effects: [
      { kind: 'set-deadline', name: 'launch', afterMs: LAUNCH_MS_MAX },
      { kind: 'adopt', containerId, pid, startedAtMs },
    ],
  };
}

function onAdopted(before: RunState, event: EventOf<'adopted'>, incidentId: string): Step {
  const containerId = containerIdOf(before);
  const state = without(before, 'adopt');
  const draft = { kind: 'run.adopted' as const, runId: state.runId, profile: state.spec.name, containerId };
  const adopted: RunEffect = { kind: 'record', draft };
  if (state.end !== null || state.empty || containerId === null) {
    return withEffects([adopted], finishIfDone(state, event, incidentId));
  }
  return {
    state: { ...state, pending: [...state.pending, 'read-back'] },
    effects: [adopted, { kind: 'read-back', containerId }],
  };
}

/** A moment of the monotonic clock as UTC, by an event that knows both. */
function clockAtOf({ at, atMs }: Stamp, sinceBootMs: number): string {
  return new Date(Date.parse(at) - (atMs - sinceBootMs)).toISOString();
}

function prepareKey(preparation: Preparation): string {
  return `prepare ${preparation}`;
}

const SHAPE_NEEDS: readonly Preparation[] = ['network', 'fence'];

function onPrepared(before: RunState, preparation: Preparation, event: At, incidentId: string): Step {
  const cleared = without(before, prepareKey(preparation));
  const state = { ...cleared, prepared: [...cleared.prepared, preparation] };
  if (state.end !== null) return finishIfDone(state, event, incidentId);
  if (preparation === 'cgroup') {
    const pending = [...state.pending, prepareKey('meter')];
    return { state: { ...state, pending }, effects: [{ kind: 'prepare', preparation: 'meter' }] };
  }
  const wanted = preparationsOf(state.spec);
  // A rate is held on the bridge, by the grant of the fence, so both are there first.
  const isReady = SHAPE_NEEDS.includes(preparation) && SHAPE_NEEDS.every((each) => state.prepared.includes(each));
  if (isReady && wanted.includes('shape')) {
    const pending = [...state.pending, prepareKey('shape')];
    return { state: { ...state, pending }, effects: [{ kind: 'prepare', preparation: 'shape' }] };
  }
  if (!wanted.every((each) => state.prepared.includes(each))) return same(state);
  return {
    state: { ...state, container: { kind: 'creating' }, pending: [...state.pending, 'create-container'] },
    effects: [{ kind: 'create-container' }],
  };
}

function onContainerCreated(before: RunState, event: EventOf<'container-created'>, incidentId: string): Step {
  const { containerId } = event;
  const state = without({ ...before, container: { kind: 'created', containerId } }, 'create-container');
  if (state.end !== null) return finishIfDone({ ...state, empty: true }, event, incidentId);
  return {
    state: { ...state, container: { kind: 'starting', containerId }, pending: [...state.pending, 'start-container'] },
    effects: [{ kind: 'start-container', containerId }],
  };
}

function onContainerStarted(before: RunState, event: EventOf<'container-started'>): Step {
  const containerId = containerIdOf(before);
  if (containerId === null) return same(before);
  const state: RunState = {
    ...without(before, 'start-container'),
    container: { kind: 'started', containerId, pid: event.pid },
    startedAt: event.startedAt,
    startedAtMs: event.startedAtMs ?? event.atMs,
    clockAt: clockAtOf(event, event.startedAtMs ?? event.atMs),
  };
  const started: RunEffect = {
    kind: 'record',
    draft: {
      kind: 'run.started',
      runId: state.runId,
      profile: state.spec.name,
      containerId,
      imageDigest: state.imageDigest,
      pid: event.pid,
      startedAtMs: state.startedAtMs,
    },
  };
  // Whoever said that nothing runs said so before there was anything: what was started after all is ended and counted.
  if (state.end !== null && state.empty)
    return { state: { ...state, empty: false }, effects: [started, { kind: 'force-kill' }] };
  // An end that was decided while the engine was starting the container could not reach its processes yet.
  if (state.end !== null)
    return { state, effects: [started, { kind: 'kill', reason: state.end.reason }, emptyDeadline(0)] };
  return {
    state: { ...state, pending: [...state.pending, 'read-back'] },
    effects: [started, { kind: 'read-back', containerId }],
  };
}

function onVerified(before: RunState, event: EventOf<'verified'>, incidentId: string): Step {
  const state = without({ ...before, bounds: event.bounds }, 'read-back');
  const record: RunEffect = {
    kind: 'record',
    draft: {
      kind: 'run.verified',
      runId: state.runId,
      profile: state.spec.name,
      bounds: event.bounds,
      note: event.note,
    },
  };
  const running: RunState = state.end === null ? { ...state, phase: 'running' } : state;
  return withEffects([record], finishIfDone(running, event, incidentId));
}

function onMismatched(before: RunState, event: EventOf<'mismatched'>, incidentId: string): Step {
  const [first] = event.mismatches;
  const rule = first?.path ?? 'limits';
  const list = event.mismatches.map((each) => `${each.path}: wanted ${each.wanted}, got ${each.got}`).join('; ');
  return endAndKill(
    without(before, 'read-back'),
    event,
    {
      reason: 'enforcement.mismatch',
      rule,
      detail: `what was read back after launch is not what the profile says: ${list}`,
      breach: supervisorBreach('enforcement.mismatch', rule),
    },
    incidentId,
  );
}

function onEffectFailed(before: RunState, event: EventOf<'effect-failed'>, incidentId: string): Step {
  const { failure } = event;
  switch (event.effect) {
    case 'prepare':
    case 'create-container':
    case 'start-container': {
      // After one failed acquisition the others may still be under way; each of them answers by itself.
      const started = event.effect === 'start-container';
      const state = without(forgetPending(before, event), event.effect);
      const ended =
        state.end === null ? { ...state, phase: 'ending' as const, end: endOf(failedLaunch(failure), event) } : state;
      const exited: RunState =
        failure.exitCode === null ? ended : { ...ended, exit: { exitCode: failure.exitCode, oomKilledFlag: false } };
      // The engine may have started the container although its reply was lost, so the processes are ended as well.
      if (started && failure.exitCode === null) return { state: exited, effects: [{ kind: 'force-kill' }] };
      return finishIfDone({ ...exited, empty: true }, event, incidentId);
    }
    case 'adopt': {
      const detail = `the run could not be taken over from the daemon before: ${failure.message}`;
      const breach = supervisorBreach('enforcement.lost', 'supervisor');
      const end = before.end ?? endOf({ reason: 'enforcement.lost', rule: 'supervisor', detail, breach }, event);
      return { state: { ...without(before, 'adopt'), phase: 'ending', end }, effects: [{ kind: 'force-kill' }] };
    }
    case 'read-back': {
      const state = without(before, 'read-back');
      const detail = `the limits could not be read back after launch, so they do not count as in force: ${failure.message}`;
      return endAndKill(
        state,
        event,
        {
          reason: 'enforcement.mismatch',
          rule: 'limits',
          detail,
          breach: supervisorBreach('enforcement.mismatch', 'limits'),
        },
        incidentId,
      );
    }
    case 'change-fence':
    case 'change-watch':
      return onChangeFailed(before, event, incidentId);
    case 'slow-network':
    case 'grant-more':
      return onHoldFailed(before, event, incidentId);
    case 'kill':
    case 'stop':
      return { state: before, effects: [{ kind: 'force-kill' }] };
    case 'inspect-exit':
      return finishIfDone({ ...before, exit: before.exit ?? UNKNOWN_EXIT }, event, incidentId);
    case 'force-kill':
      return { state: before, effects: [emptyDeadline(0)] };
    case 'record':
    case 'open-incident':
    case 'notify-held':
    case 'answer-change':
    case 'tear-down':
    case 'set-deadline':
    case 'settle':
      return same(before);
    default:
      return assertNever(event.effect);
  }
}

const UNKNOWN_EXIT = { exitCode: null, oomKilledFlag: false };

function forgetPending(state: RunState, event: EventOf<'effect-failed'>): RunState {
  const preparation = event.failure.preparation;
  return preparation === undefined ? state : without(state, prepareKey(preparation));
}

function failedLaunch(failure: EffectFailure): EndFacts {
  if (failure.exitCode !== null) return { reason: 'exited', rule: null, detail: failure.message, breach: null };
  const engine = failure.code.startsWith('ENGINE') || failure.code === 'INTERNAL';
  return { reason: engine ? 'engine.failed' : 'refused', rule: null, detail: failure.message, breach: null };
}

function onEmptied(before: RunState, event: EventOf<'emptied'>, incidentId: string): Step {
  // A forced kill answers even when nothing was left to kill: the run may have waited for just that.
  if (before.empty) return finishIfDone(before, event, incidentId);
  const end = before.end === null ? null : { ...before.end, times: mergedTimes(before.end.times, event.times) };
  // A warden that found the run over has not seen how long it went on.
  const wallMs = Math.max(event.usage.wallMs, end?.usageAtBreach?.wallMs ?? 0);
  const state: RunState = { ...before, empty: true, usage: { ...event.usage, wallMs }, end };
  const exitIsOfInterest = state.end === null || (wasAsked(state.end) && containerIdOf(state) !== null);
  if (exitIsOfInterest && state.exit === null) {
    return { state, effects: [{ kind: 'set-deadline', name: 'exit', afterMs: EXIT_MS_MAX }] };
  }
  return finishIfDone(state, event, incidentId);
}

function mergedTimes(first: RunEnd['times'], second: RunEnd['times']): RunEnd['times'] {
  return {
    detectedMs: first.detectedMs ?? second.detectedMs,
    signalledMs: first.signalledMs ?? second.signalledMs,
    emptyMs: first.emptyMs ?? second.emptyMs,
  };
}

function onDied(before: RunState, event: EventOf<'died'>, incidentId: string): Step {
  const exit = before.exit ?? { exitCode: event.exitCode, oomKilledFlag: event.oomKilledFlag };
  const state = { ...before, exit };
  if (!state.empty) return { state, effects: [emptyDeadline(0)] };
  return finishIfDone(state, event, incidentId);
}

function onEndRequested(before: RunState, event: EventOf<'end-requested'>, incidentId: string): Step {
  if (before.end !== null) {
    // A second, harder request ends the grace of the first; the reason stays the first one.
    const harder = event.how === 'kill' && before.phase === 'ending' && !before.empty;
    return same(before, harder ? [{ kind: 'kill', reason: before.end.reason }] : []);
  }
  const end = endOf(
    {
      reason: event.reason,
      rule: event.rule,
      detail: event.detail,
      breach: isIncident(event.reason) ? supervisorBreach(event.reason, event.rule ?? 'supervisor') : null,
    },
    event,
  );
  const state: RunState = { ...before, phase: 'ending', end };
  switch (state.container.kind) {
    case 'none':
    case 'creating':
    case 'created':
      return finishIfDone({ ...state, empty: true }, event, incidentId);
    case 'starting':
    case 'started': {
      const graceMs = event.how === 'stop' ? before.spec.graceMs : 0;
      const effect: RunEffect =
        event.how === 'stop' ? { kind: 'stop', reason: event.reason, graceMs } : { kind: 'kill', reason: event.reason };
      return { state, effects: [effect, emptyDeadline(graceMs)] };
    }
    default:
      return assertNever(state.container);
  }
}

function onTornDown(state: RunState, event: EventOf<'torn-down'>): Step {
  const { outcome } = state;
  if (state.phase !== 'cleaning' || outcome === null) return same(state);
  const draft = {
    kind: 'run.cleaned' as const,
    runId: state.runId,
    profile: state.spec.name,
    failures: event.failures,
  };
  return {
    state: { ...state, phase: 'over' },
    effects: [
      { kind: 'record', draft },
      { kind: 'settle', outcome },
    ],
  };
}

function onDeadline(state: RunState, event: EventOf<'deadline'>, incidentId: string): Step {
  switch (event.name) {
    case 'launch': {
      if (state.phase === 'running' || state.pending.length === 0 || state.outcome !== null) return same(state);
      const detail = `the launch did not finish within ${LAUNCH_MS_MAX / 1000} s; waiting for: ${state.pending.join(', ')}`;
      const end = state.end ?? endOf({ reason: 'engine.failed', rule: null, detail, breach: null }, event);
      return { state: { ...state, phase: 'ending', end, pending: [] }, effects: [{ kind: 'force-kill' }] };
    }
    case 'empty':
      return same(state, state.empty || state.phase === 'cleaning' ? [] : [{ kind: 'force-kill' }]);
    case 'exit': {
      const containerId = containerIdOf(state);
      if (state.exit !== null || state.phase === 'cleaning') return same(state);
      if (containerId === null) return finishIfDone({ ...state, exit: UNKNOWN_EXIT }, event, incidentId);
      return { state, effects: [{ kind: 'inspect-exit', containerId }] };
    }
    case 'change':
      return onChangeDeadline(state, event, incidentId);
    default:
      return assertNever(event.name);
  }
}
