import type { Bound, Breach, Denial, EndTimes, Outcome, Reason, Usage } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { Spec } from '../profile/spec.ts';

/**
 * The life of one run.
 *
 *   waiting ──launch──▶ preparing ──verified──▶ running ──end──▶ ending ──empty, recorded──▶ cleaning ──▶ over
 *      │                    │                                      ▲
 *      └──────── stop ──────┴── failed, breached, stopped ─────────┘
 *
 * `waiting`   admitted; an attached launch waits for its caller.
 * `preparing` cgroup, network, fence, meter and secrets are made side by side, then the container, then the read-back.
 * `running`   every limit was read back from the kernel and the container.
 * `ending`    the first reason is set and never replaced; processes are being ended or counted out.
 * `cleaning`  the outcome is recorded and reported; what was acquired is being released.
 * `over`      nothing of the run is left.
 *
 * Only `step` moves a run. Time and ids arrive inside events, so that a recorded sequence of events replays exactly.
 */
export type RunPhase = 'waiting' | 'preparing' | 'running' | 'ending' | 'cleaning' | 'over';

/** What must exist before the container is made. */
export const PREPARATIONS = ['cgroup', 'network', 'fence', 'shape', 'meter', 'secrets'] as const;
export type Preparation = (typeof PREPARATIONS)[number];

export type RunState = {
  readonly runId: string;
  readonly spec: Spec;
  readonly imageDigest: string | null;
  readonly phase: RunPhase;
  readonly prepared: readonly Preparation[];
  /** Effects that acquire something and have not answered yet: nothing is released before they have. */
  readonly pending: readonly string[];
  readonly container: ContainerState;
  readonly startedAt: string | null;
  /** Where the clock of the run begins, in milliseconds since boot and in UTC; a little before `startedAt`. */
  readonly startedAtMs: number | null;
  readonly clockAt: string | null;
  readonly bounds: readonly Bound[];
  /** The profile that the run is being held to, while fence and warden have not both taken it over. */
  readonly changingTo: Spec | null;
  /** The breach for which the run is slowed down or stands still; a pause is said before a throttle. */
  readonly held: Breach | null;
  readonly slowedBy: Breach | null;
  /** The rules that paused the run since it last went on. */
  readonly pausedBy: readonly string[];
  readonly usage: Usage;
  /** Oldest first, at most LAST_DENIALS_MAX. */
  readonly lastDenials: readonly Denial[];
  readonly denialsTotal: number;
  readonly denialRecords: DenialRecords;
  readonly end: RunEnd | null;
  readonly exit: RunExit | null;
  /** The processes of the run are gone: the warden saw the empty cgroup, or there never were any. */
  readonly empty: boolean;
  readonly survivors: number;
  readonly outcome: Outcome | null;
};

export type ContainerState =
  | { readonly kind: 'none' }
  | { readonly kind: 'creating' }
  | { readonly kind: 'created'; readonly containerId: string }
  | { readonly kind: 'starting'; readonly containerId: string }
  | { readonly kind: 'started'; readonly containerId: string; readonly pid: number | null };

/** Why the run ends. Set once. */
export type RunEnd = {
  readonly reason: Reason;
  readonly rule: string | null;
  readonly detail: string;
  readonly breach: Breach | null;
  readonly alsoBreached: readonly Breach[];
  readonly usageAtBreach: Usage | null;
  readonly times: EndTimes;
  readonly at: string;
};

export type RunExit = { readonly exitCode: number | null; readonly oomKilledFlag: boolean };

export const LAST_DENIALS_MAX = 20;

/** Which refused attempts get a record each: `tokens` as of `atMs`. */
export type DenialRecords = {
  readonly tokens: number;
  readonly atMs: number;
  /** Told since the last record, and not in one. */
  readonly unrecorded: number;
  /** In a record, by themselves or in the count of one; what earlier daemons recorded included. */
  readonly onRecord: number;
};

/** Refused attempts of one run that get a record each as they come; after them there is one record in a while. */
export const DENIALS_RECORDED_BURST = 256;

export function initialState(options: {
  readonly runId: string;
  readonly spec: Spec;
  readonly imageDigest: string | null;
  readonly denialsOnRecord?: number;
}): RunState {
  const { denialsOnRecord = 0, ...given } = options;
  return {
    ...given,
    phase: 'waiting',
    prepared: [],
    pending: [],
    container: { kind: 'none' },
    startedAt: null,
    startedAtMs: null,
    clockAt: null,
    bounds: [],
    changingTo: null,
    held: null,
    slowedBy: null,
    pausedBy: [],
    usage: USAGE_NONE,
    lastDenials: [],
    denialsTotal: 0,
    denialRecords: { tokens: DENIALS_RECORDED_BURST, atMs: 0, unrecorded: 0, onRecord: denialsOnRecord },
    end: null,
    exit: null,
    empty: false,
    survivors: 0,
    outcome: null,
  };
}

/** What must exist before the container of this run is made: without a rate to hold there is nothing to shape. */
export function preparationsOf(spec: Spec): readonly Preparation[] {
  return PREPARATIONS.filter((each) => each !== 'shape' || spec.limits.bandwidthBitsPerSecond !== null);
}

/** The engine's name for the container, once there is one. */
export function containerIdOf(state: RunState): string | null {
  return 'containerId' in state.container ? state.container.containerId : null;
}
