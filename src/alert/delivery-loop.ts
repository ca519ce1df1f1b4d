import { messageOf } from '../core/errors.ts';
import type { AlertDelivered, AlertDraft, AlertFailed } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { Delivery } from './deliverer.ts';
import { countsInStorm } from './filter.ts';
import { Heartbeat } from './heartbeat.ts';
import type { Keeper } from './keeper.ts';
import { keyOf } from './keeper.ts';
import type { Lane, SinkLanes } from './lanes.ts';
import { appendTo, leaveLane, newLane } from './lanes.ts';
import type { OutboxContents } from './listing.ts';
import { plainDraft } from './own-alerts.ts';
import { HORIZON_MS, retryDelayMs } from './schedule.ts';
import type { Spool, Spooled } from './spool.ts';
import { digestOf } from './storm.ts';
import type { Timers } from './timers.ts';

export type DeliveryLoopOptions = {
  readonly log: Log;
  readonly onDelivered: (delivered: AlertDelivered) => void;
  /** For each failed attempt, and with `final` once more when an alert is given up. */
  readonly onFailed: (failed: AlertFailed) => void;
  readonly heartbeat: (() => AlertDraft | null) | null;
  readonly nowMs: () => number;
  readonly random: () => number;
  readonly timers: Timers;
};

const IN_FLIGHT_PER_SINK_MAX = 4;
/** The longest that a timer sleeps: setTimeout overflows beyond 24 days, and a clock may be set. */
const TIMER_MS_MAX = 3_600_000;
const GONE = 'the sink gets nothing more until `ringfence alerts retry` or a restart';
const AFTER_HORIZON = `given up after ${HORIZON_MS / 3_600_000} hours`;

/**
 * Brings what is in the spool to its sinks: a lane for each agent and sink, of which only the first alert is ever under way; a
 * storm for each sink, which holds alerts back and makes one digest of them; attempts, pauses, and the end of patience.
 */
export class DeliveryLoop {
  readonly #spool: Spool;
  readonly #keeper: Keeper;
  readonly #sinks: ReadonlyMap<string, SinkLanes>;
  readonly #settings: DeliveryLoopOptions;
  /** What each digest, by its file, stands for. */
  readonly #carried = new Map<string, readonly Spooled[]>();
  readonly #abort = new AbortController();
  readonly #underWay = new Set<Promise<void>>();
  readonly #orphans: Spooled[] = [];
  #wakeAtMs = Infinity;
  #cancelWake: () => void = () => {};

  constructor(
    parts: { readonly spool: Spool; readonly keeper: Keeper; readonly sinks: ReadonlyMap<string, SinkLanes> },
    settings: DeliveryLoopOptions,
  ) {
    this.#spool = parts.spool;
    this.#keeper = parts.keeper;
    this.#sinks = parts.sinks;
    this.#settings = settings;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Takes up what an earlier daemon left, and begins. */
  start(left: readonly Spooled[]): void {
    const byFile = new Map(left.map((spooled) => [spooled.file, spooled]));
    const carried = new Set(left.flatMap((spooled) => spooled.carries));
    for (const spooled of left) {
      this.#keeper.adopt(keyOf(spooled.alert));
      if (spooled.carries.length > 0) {
        this.#carried.set(
          spooled.file,
          spooled.carries.map((file) => byFile.get(file)).filter((each) => each !== undefined),
        );
      }
      // The storm of then is the storm of now: what was held is held again, by the times at which it came.
      if (!carried.has(spooled.file)) this.admit(spooled);
    }
    const unknown = new Set(this.#orphans.map((orphan) => orphan.alert.sink));
    for (const sink of unknown) this.#settings.log.warn({ sink }, 'alerts wait for a sink that is not configured');
    this.#startHeartbeats();
    this.pump();
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    this.#cancelWake();
    await Promise.all([...this.#sinks.values()].map(async (sink) => await sink.heartbeat?.stop()));
    await this.#keeper.settled();
    await Promise.all(this.#underWay);
  }

  contents(): OutboxContents {
    const nowMs = this.#settings.nowMs();
    return { sinks: [...this.#sinks.values()], carried: this.#carried, orphans: this.#orphans, nowMs };
  }

  admit(spooled: Spooled): void {
    const sink = this.#sinks.get(spooled.alert.sink);
    if (sink === undefined) {
      this.#orphans.push(spooled);
      return;
    }
    const counts = countsInStorm(spooled.alert.type, sink.deliverer.kind);
    if (!counts || sink.storm.passes(spooled, spooled.queuedAtMs)) appendTo(sink, spooled);
  }

  /** Starts whatever is due and sleeps until the next thing is. */
  pump(): void {
    if (this.#abort.signal.aborted) return;
    const nowMs = this.#settings.nowMs();
    let wakeAtMs = Infinity;
    for (const sink of this.#sinks.values()) {
      wakeAtMs = Math.min(wakeAtMs, this.#pumpStorm(sink, nowMs), this.#pumpLanes(sink, nowMs));
    }
    for (const orphan of this.#orphans) wakeAtMs = Math.min(wakeAtMs, orphan.queuedAtMs + HORIZON_MS);
    if (wakeAtMs <= nowMs) this.#buryOrphans(nowMs);
    this.#sleepUntil(wakeAtMs, nowMs);
  }

  #pumpLanes(sink: SinkLanes, nowMs: number): number {
    let wakeAtMs = Infinity;
    for (const [subject, lane] of sink.lanes) {
      const head = lane.queue[0];
      if (lane.busy) continue;
      if (head === undefined) {
        sink.lanes.delete(subject);
        continue;
      }
      const expiresAtMs = head.queuedAtMs + HORIZON_MS;
      const dueAtMs = sink.disabled ? Infinity : Math.max(lane.nextAttemptMs, sink.pausedUntilMs);
      if (nowMs >= expiresAtMs) this.#track(lane, this.#giveUp(lane, head, AFTER_HORIZON));
      else if (dueAtMs <= nowMs && sink.inFlight < IN_FLIGHT_PER_SINK_MAX) {
        this.#track(lane, this.#attempt(sink, lane, head));
      } else if (dueAtMs > nowMs) wakeAtMs = Math.min(wakeAtMs, dueAtMs, expiresAtMs);
      // A lane that only waits for a free place is looked at when an attempt ends.
    }
    return wakeAtMs;
  }

  #pumpStorm(sink: SinkLanes, nowMs: number): number {
    const dueAtMs = sink.storm.dueAtMs(nowMs);
    if (dueAtMs > nowMs) return dueAtMs;
    const { held, lead } = sink.storm.take(nowMs);
    const [only] = held;
    if (held.length === 1 && only !== undefined) {
      appendTo(sink, only);
      return Infinity;
    }
    const digest = digestOf(held, { lead, nowMs });
    const written = this.#keeper
      .keep(keyOf(digest), async () => {
        const files = held.map(({ file }) => file);
        const spooled = await this.#spool.write(digest, nowMs, files);
        this.#carried.set(spooled.file, held);
        appendTo(sink, spooled);
      })
      .catch((error: unknown) => {
        // No room for a digest: what it stands for is on disk, and is counted again when the window ends.
        sink.storm.restore(held);
        this.#settings.log.error({ error: messageOf(error), sink: sink.name }, 'a digest could not be kept');
      });
    this.#follow(written);
    return Infinity;
  }

  #sleepUntil(wakeAtMs: number, nowMs: number): void {
    if (wakeAtMs === this.#wakeAtMs) return;
    this.#cancelWake();
    this.#wakeAtMs = wakeAtMs;
    this.#cancelWake = () => {};
    if (wakeAtMs === Infinity) return;
    const delayMs = Math.min(Math.max(0, wakeAtMs - nowMs), TIMER_MS_MAX);
    this.#cancelWake = this.#settings.timers.after(delayMs, () => {
      this.#wakeAtMs = Infinity;
      this.pump();
    });
  }

  #track(lane: Lane, work: Promise<void>): void {
    lane.busy = true;
    this.#follow(
      work.finally(() => {
        lane.busy = false;
      }),
    );
  }

  #follow(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => {
        this.#settings.log.error({ error: messageOf(error) }, 'the spool of alerts failed');
      })
      .finally(() => {
        this.#underWay.delete(tracked);
        this.pump();
      });
    this.#underWay.add(tracked);
  }

  async #attempt(sink: SinkLanes, lane: Lane, head: Spooled): Promise<void> {
    sink.inFlight += 1;
    let delivery: Delivery;
    try {
      delivery = await sink.deliverer.send(head.alert, this.#abort.signal);
    } finally {
      sink.inFlight -= 1;
    }
    if (delivery.kind === 'delivered') return await this.#delivered(sink, lane, { head, status: delivery.status });
    if (this.#abort.signal.aborted) return;
    lane.attempts += 1;
    const nowMs = this.#settings.nowMs();
    sink.lastError = { atMs: nowMs, message: delivery.message };
    if (delivery.kind === 'rejected') return await this.#giveUp(lane, head, delivery.message);
    if (delivery.kind === 'gone') sink.disabled = true;
    const retryAfterMs = delivery.kind === 'failed' ? delivery.retryAfterMs : null;
    const delayMs = retryDelayMs(lane.attempts, retryAfterMs, this.#settings.random);
    lane.nextAttemptMs = nowMs + delayMs;
    lane.lastError = delivery.message;
    if (retryAfterMs !== null) sink.pausedUntilMs = Math.max(sink.pausedUntilMs, lane.nextAttemptMs);
    const message = sink.disabled ? `${delivery.message}; ${GONE}` : delivery.message;
    const retryInMs = sink.disabled ? null : delayMs;
    this.#settings.onFailed({ ...namesOf(head), attempts: lane.attempts, message, final: false, retryInMs });
  }

  /** From here on the receiver has it: if a file stays, it is sent again after a restart, under the same id. */
  async #delivered(
    sink: SinkLanes,
    lane: Lane,
    { head, status }: { readonly head: Spooled; readonly status: number },
  ): Promise<void> {
    const attempts = lane.attempts + 1;
    const nowMs = this.#settings.nowMs();
    sink.lastDeliveredMs = nowMs;
    const carried = this.#leave(lane, head);
    const tell = (spooled: Spooled, digest: string | null): void => {
      const sinceQueuedMs = Math.max(0, nowMs - spooled.queuedAtMs);
      this.#settings.onDelivered({ ...namesOf(spooled), attempts, status, sinceQueuedMs, digest });
    };
    try {
      // The digest goes last: as long as it is there, it is known what it carried.
      for (const spooled of carried) await this.#spool.remove(spooled);
      await this.#spool.remove(head);
    } finally {
      tell(head, null);
      for (const spooled of carried) tell(spooled, head.alert.id);
    }
  }

  async #giveUp(lane: Lane, head: Spooled, why: string): Promise<void> {
    const attempts = lane.attempts;
    const carried = this.#leave(lane, head);
    const died = { atMs: this.#settings.nowMs(), why };
    this.#settings.log.error({ id: head.alert.id, sink: head.alert.sink, why }, 'an alert was given up');
    for (const spooled of [...carried, head]) {
      await this.#spool.bury(spooled, died);
      this.#settings.onFailed({ ...namesOf(spooled), attempts, message: why, final: true, retryInMs: null });
    }
  }

  /** What the digest at the head stood for, if it is one. */
  #leave(lane: Lane, head: Spooled): readonly Spooled[] {
    leaveLane(lane);
    const carried = this.#carried.get(head.file) ?? [];
    this.#carried.delete(head.file);
    for (const { alert } of [head, ...carried]) this.#keeper.forget(keyOf(alert));
    return carried;
  }

  #buryOrphans(nowMs: number): void {
    for (const orphan of this.#orphans.splice(0)) {
      if (nowMs < orphan.queuedAtMs + HORIZON_MS) {
        this.#orphans.push(orphan);
        continue;
      }
      const lane = { ...newLane(), queue: [orphan] };
      this.#track(lane, this.#giveUp(lane, orphan, AFTER_HORIZON));
    }
  }

  #startHeartbeats(): void {
    const { log, timers, nowMs } = this.#settings;
    const make = this.#settings.heartbeat ?? (() => plainDraft('heartbeat', { id: `beat_${nowMs()}`, nowMs: nowMs() }));
    for (const sink of this.#sinks.values()) {
      const intervalMs = sink.rules.heartbeatMs;
      if (intervalMs === null) continue;
      const open = (): boolean => !sink.disabled && sink.pausedUntilMs <= nowMs();
      const { name, deliverer } = sink;
      sink.heartbeat = new Heartbeat({ sink: name, deliverer, intervalMs, make, open, log, timers, nowMs });
    }
  }
}

function namesOf({ alert }: Spooled): Pick<AlertDelivered, 'id' | 'sink' | 'type' | 'subject'> {
  return { id: alert.id, sink: alert.sink, type: alert.type, subject: alert.subject };
}
