import type { DeadAlert, OutboxDepth, OutboxListing, SinkState, WaitingAlert } from '../core/ports/alert.ts';
import type { SinkLanes, Waiting } from './lanes.ts';
import { oldestMsOf, waitingFor } from './lanes.ts';
import type { Buried, Spooled } from './spool.ts';

/** What `alerts ls` and the metrics are made of. */
const LISTED_MAX = 1_000;

export type OutboxContents = {
  readonly sinks: readonly SinkLanes[];
  readonly carried: ReadonlyMap<string, readonly Spooled[]>;
  /** What waits for sinks that are not configured. */
  readonly orphans: readonly Spooled[];
  readonly nowMs: number;
};

export function depthOf(contents: OutboxContents, dead: number): OutboxDepth {
  const { nowMs, sinks, carried } = contents;
  const times = sinks.map((sink) => ({
    sink: sink.name,
    queued: waitingFor(sink, carried).map(({ spooled }) => spooled.queuedAtMs),
  }));
  const all = [...times.flatMap(({ queued }) => queued), ...contents.orphans.map((orphan) => orphan.queuedAtMs)];
  return {
    waiting: all.length,
    dead,
    disabled: sinks.filter((sink) => sink.disabled).map((sink) => sink.name),
    oldestMs: oldestMsOf(all, nowMs),
    bySink: times.map(({ sink, queued }) => ({ sink, waiting: queued.length, oldestMs: oldestMsOf(queued, nowMs) })),
  };
}

export function listingOf(contents: OutboxContents, buried: readonly Buried[]): OutboxListing {
  const { nowMs, sinks, carried, orphans } = contents;
  const waiting = sinks.flatMap((sink) => waitingFor(sink, carried).map((each) => waitingAlert(each, { sink, nowMs })));
  const unclaimed = orphans.map((spooled) =>
    waitingAlert({ spooled, lane: null, folded: false }, { sink: null, nowMs }),
  );
  const oldestFirst = [...waiting, ...unclaimed].toSorted((left, right) => (left.queuedAt < right.queuedAt ? -1 : 1));
  return {
    sinks: [...sinks.map((sink) => sinkState(sink, contents)), ...unknownSinks(orphans, nowMs)],
    waiting: oldestFirst.slice(0, LISTED_MAX),
    dead: buried.slice(0, LISTED_MAX).map(deadAlert),
  };
}

function sinkState(sink: SinkLanes, { carried, nowMs }: OutboxContents): SinkState {
  const queued = waitingFor(sink, carried).map(({ spooled }) => spooled.queuedAtMs);
  const { lastError } = sink;
  const beat = sink.heartbeat?.state ?? null;
  return {
    name: sink.name,
    kind: sink.deliverer.kind,
    disabled: sink.disabled,
    waiting: queued.length,
    oldestMs: oldestMsOf(queued, nowMs),
    pausedForMs: sink.pausedUntilMs > nowMs ? sink.pausedUntilMs - nowMs : null,
    lastDeliveredAt: momentOf(sink.lastDeliveredMs),
    lastError: lastError === null ? null : { at: isoOf(lastError.atMs), message: lastError.message },
    heartbeat: beat === null ? null : { lastOkAt: momentOf(beat.lastOkMs), error: beat.error },
  };
}

function unknownSinks(orphans: readonly Spooled[], nowMs: number): readonly SinkState[] {
  const names = new Set(orphans.map(({ alert }) => alert.sink));
  return [...names].map((name) => {
    const queued = orphans.filter(({ alert }) => alert.sink === name).map(({ queuedAtMs }) => queuedAtMs);
    return {
      name,
      kind: null,
      disabled: false,
      waiting: queued.length,
      oldestMs: oldestMsOf(queued, nowMs),
      pausedForMs: null,
      lastDeliveredAt: null,
      lastError: null,
      heartbeat: null,
    };
  });
}

function waitingAlert(
  { spooled, lane, folded }: Waiting,
  { sink, nowMs }: { readonly sink: SinkLanes | null; readonly nowMs: number },
): WaitingAlert {
  const first = lane !== null && lane.queue[0] === spooled;
  const dueAtMs = Math.max(lane?.nextAttemptMs ?? 0, sink?.pausedUntilMs ?? 0);
  return {
    ...namesOf(spooled),
    queuedAt: isoOf(spooled.queuedAtMs),
    attempts: first ? lane.attempts : 0,
    retryInMs: !first || lane.busy || sink?.disabled !== false ? null : Math.max(0, dueAtMs - nowMs),
    folded,
    lastError: first ? lane.lastError : null,
  };
}

function deadAlert(buried: Buried): DeadAlert {
  const { died } = buried;
  return {
    ...namesOf(buried),
    queuedAt: isoOf(buried.queuedAtMs),
    diedAt: died === null ? null : isoOf(died.atMs),
    why: died?.why ?? 'not known',
  };
}

function namesOf({ alert }: Spooled): Pick<WaitingAlert, 'id' | 'sink' | 'type' | 'subject' | 'severity'> {
  return { id: alert.id, sink: alert.sink, type: alert.type, subject: alert.subject, severity: alert.severity };
}

function momentOf(atMs: number | null): string | null {
  return atMs === null ? null : isoOf(atMs);
}

function isoOf(atMs: number): string {
  return new Date(atMs).toISOString();
}
