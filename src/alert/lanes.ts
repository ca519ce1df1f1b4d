import type { SinkRules } from '../core/ports/alert.ts';
import type { Deliverer } from './deliverer.ts';
import type { Heartbeat } from './heartbeat.ts';
import type { Spooled } from './spool.ts';
import { Storm } from './storm.ts';

/** Alerts of one subject, in order: only the first is ever under way. */
export type Lane = {
  readonly queue: Spooled[];
  attempts: number;
  nextAttemptMs: number;
  busy: boolean;
  lastError: string | null;
};

/** A configured sink with everything that waits for it. */
export type SinkLanes = {
  readonly name: string;
  readonly rules: SinkRules;
  readonly deliverer: Deliverer;
  readonly lanes: Map<string, Lane>;
  readonly storm: Storm;
  heartbeat: Heartbeat | null;
  inFlight: number;
  /** A receiver that asked for patience is left alone by every lane. */
  pausedUntilMs: number;
  disabled: boolean;
  lastDeliveredMs: number | null;
  lastError: { readonly atMs: number; readonly message: string } | null;
};

export function newSinkLanes(name: string, rules: SinkRules, deliverer: Deliverer): SinkLanes {
  return {
    name,
    rules,
    deliverer,
    lanes: new Map(),
    storm: new Storm(rules),
    heartbeat: null,
    inFlight: 0,
    pausedUntilMs: 0,
    disabled: false,
    lastDeliveredMs: null,
    lastError: null,
  };
}

export function newLane(): Lane {
  return { queue: [], attempts: 0, nextAttemptMs: 0, busy: false, lastError: null };
}

export function appendTo(sink: SinkLanes, spooled: Spooled): void {
  const { subject } = spooled.alert;
  const lane = sink.lanes.get(subject) ?? newLane();
  sink.lanes.set(subject, lane);
  lane.queue.push(spooled);
}

/** The lane's first alert has left it. */
export function leaveLane(lane: Lane): void {
  lane.queue.shift();
  lane.attempts = 0;
  lane.nextAttemptMs = 0;
  lane.lastError = null;
}

/** Everything goes to its sink at once, whatever the sink asked for before. */
export function hurrySink(sink: SinkLanes): void {
  sink.disabled = false;
  sink.pausedUntilMs = 0;
  sink.storm.hurry();
  for (const lane of sink.lanes.values()) lane.nextAttemptMs = 0;
}

export type Waiting = {
  readonly spooled: Spooled;
  readonly lane: Lane | null;
  readonly folded: boolean;
};

/** All that waits for a sink; `carried` are the alerts that a digest stands for. */
export function waitingFor(sink: SinkLanes, carried: ReadonlyMap<string, readonly Spooled[]>): readonly Waiting[] {
  const waiting: Waiting[] = [];
  for (const lane of sink.lanes.values()) {
    for (const spooled of lane.queue) {
      waiting.push({ spooled, lane, folded: false });
      for (const each of carried.get(spooled.file) ?? []) waiting.push({ spooled: each, lane: null, folded: true });
    }
  }
  for (const spooled of sink.storm.held) waiting.push({ spooled, lane: null, folded: true });
  return waiting;
}

export function oldestMsOf(queuedAtMs: readonly number[], nowMs: number): number | null {
  if (queuedAtMs.length === 0) return null;
  return Math.max(0, nowMs - queuedAtMs.reduce((oldest, each) => Math.min(oldest, each)));
}
