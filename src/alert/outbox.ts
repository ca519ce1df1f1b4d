import { randomBytes } from 'node:crypto';
import { fail, messageOf } from '../core/errors.ts';
import type {
  Alert,
  AlertDelivered,
  AlertDraft,
  AlertFailed,
  AlertOutbox,
  OutboxDepth,
  OutboxListing,
  RetrySelection,
  Sink,
  SinkTestResult,
} from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { Delivery } from './deliverer.ts';
import { countsInStorm, rulesOf, wants } from './filter.ts';
import { Heartbeat } from './heartbeat.ts';
import type { HttpOptions } from './http.ts';
import type { Lane, SinkLanes } from './lanes.ts';
import { appendTo, hurrySink, leaveLane, newLane, newSinkLanes } from './lanes.ts';
import type { OutboxContents } from './listing.ts';
import { depthOf, listingOf } from './listing.ts';
import { plainDraft } from './own-alerts.ts';
import { openSink } from './open-sink.ts';
import { HORIZON_MS, retryDelayMs } from './schedule.ts';
import type { Buried, Spooled } from './spool.ts';
import { fitsSpool, Spool } from './spool.ts';
import { digestOf } from './storm.ts';
import type { Timers } from './timers.ts';
import { REAL_TIMERS } from './timers.ts';

export type OutboxOptions = {
  readonly directory: string;
  readonly sinks: Readonly<Record<string, Sink>>;
  readonly log: Log;
  readonly onDelivered: (delivered: AlertDelivered) => void;
  /** For each failed attempt, and with `final` once more when an alert is given up. */
  readonly onFailed: (failed: AlertFailed) => void;
  /** What a heartbeat says, or null to keep silent because something is wrong. Left out: that the daemon is there. */
  readonly heartbeat?: () => AlertDraft | null;
  readonly nowMs?: () => number;
  readonly random?: () => number;
  readonly timers?: Timers;
  readonly http?: Omit<HttpOptions, 'nowMs'>;
};

/** A spool that is longer than this has a sink that nobody looks after. */
const SPOOLED_MAX = 10_000;
const IN_FLIGHT_PER_SINK_MAX = 4;
/** The longest that a timer sleeps: setTimeout overflows beyond 24 days, and a clock may be set. */
const TIMER_MS_MAX = 3_600_000;
const ID_PATTERN = /^[A-Za-z0-9_-]{1,64}$/;

/** Opens the spool, takes up what an earlier daemon left, and starts to deliver. */
export async function openOutbox(options: OutboxOptions): Promise<AlertOutbox> {
  const settings = {
    ...options,
    nowMs: options.nowMs ?? Date.now,
    random: options.random ?? Math.random,
    timers: options.timers ?? REAL_TIMERS,
  };
  const sinks = new Map<string, SinkLanes>();
  for (const [name, sink] of Object.entries(options.sinks)) {
    const rules = rulesOf(sink);
    const deliverer = openSink({ name, sink }, rules, { ...options.http, nowMs: settings.nowMs });
    sinks.set(name, newSinkLanes(name, rules, deliverer));
  }
  const { spool, left } = await Spool.open(options.directory, options.log);
  const outbox = new Outbox(spool, sinks, settings);
  outbox.resume(left);
  return outbox;
}

type Settings = OutboxOptions & Required<Pick<OutboxOptions, 'nowMs' | 'random' | 'timers'>>;

class Outbox implements AlertOutbox {
  readonly #spool: Spool;
  readonly #sinks: Map<string, SinkLanes>;
  readonly #settings: Settings;
  /** What is in the spool or on its way there: the second of two equal alerts waits for the first. */
  readonly #kept = new Map<string, Promise<void>>();
  /** What each digest, by its file, stands for. */
  readonly #carried = new Map<string, readonly Spooled[]>();
  readonly #abort = new AbortController();
  readonly #underWay = new Set<Promise<void>>();
  readonly #orphans: Spooled[] = [];
  #lastWrite: Promise<void> = Promise.resolve();
  #wakeAtMs = Infinity;
  #cancelWake: () => void = () => {};

  constructor(spool: Spool, sinks: Map<string, SinkLanes>, settings: Settings) {
    this.#spool = spool;
    this.#sinks = sinks;
    this.#settings = settings;
  }

  resume(left: readonly Spooled[]): void {
    const byFile = new Map(left.map((spooled) => [spooled.file, spooled]));
    const carried = new Set(left.flatMap((spooled) => spooled.carries));
    for (const spooled of left) {
      this.#kept.set(keyOf(spooled.alert), Promise.resolve());
      if (spooled.carries.length > 0) {
        this.#carried.set(
          spooled.file,
          spooled.carries.map((file) => byFile.get(file)).filter((each) => each !== undefined),
        );
      }
      // The storm of then is the storm of now: what was held is held again, by the times at which it came.
      if (!carried.has(spooled.file)) this.#admit(spooled);
    }
    const unknown = new Set(this.#orphans.map((orphan) => orphan.alert.sink));
    for (const sink of unknown) this.#settings.log.warn({ sink }, 'alerts wait for a sink that is not configured');
    this.#startHeartbeats();
    this.#pump();
  }

  async enqueue(alert: Alert): Promise<void> {
    const key = keyOf(alert);
    const same = this.#kept.get(key);
    if (same !== undefined) return await same;
    const sink = this.#refuseBad(alert);
    if (!wants(alert, sink.rules, sink.deliverer)) return;
    await this.#inTurn(key, async () => this.#admit(await this.#spool.write(alert, this.#settings.nowMs())));
    this.#pump();
  }

  /** One write after the other keeps the order of the calls. */
  async #inTurn(key: string, write: () => Promise<void>): Promise<void> {
    const written = this.#lastWrite.then(write);
    this.#kept.set(key, written);
    this.#lastWrite = written.catch(() => {
      this.#kept.delete(key);
    });
    await written;
  }

  depth(): OutboxDepth {
    return depthOf(this.#contents(), this.#spool.dead);
  }

  async list(): Promise<OutboxListing> {
    return listingOf(this.#contents(), await this.#spool.buried());
  }

  #contents(): OutboxContents {
    const nowMs = this.#settings.nowMs();
    return { sinks: [...this.#sinks.values()], carried: this.#carried, orphans: this.#orphans, nowMs };
  }

  async test(name: string): Promise<SinkTestResult> {
    const sink = this.#sinks.get(name);
    if (sink === undefined) throw fail('SINK_UNKNOWN', { detail: `the daemon has no sink "${name}"`, sink: name });
    const startedMs = this.#settings.nowMs();
    const id = `test_${randomBytes(8).toString('hex')}`;
    const draft = plainDraft('test', { id, nowMs: startedMs });
    const delivery = await sink.deliverer.send({ ...draft, sink: name }, this.#abort.signal);
    const ok = delivery.kind === 'delivered';
    const tookMs = Math.max(0, this.#settings.nowMs() - startedMs);
    return { sink: name, kind: sink.deliverer.kind, ok, id, message: wordsOf(delivery), tookMs };
  }

  async retry(which: RetrySelection): Promise<number> {
    let count = which.kind === 'dead' ? 0 : this.#hurry(which);
    if (which.kind !== 'waiting') {
      for (const buried of await this.#spool.buried()) {
        if (which.kind === 'id' && buried.alert.id !== which.id) continue;
        if (await this.#revive(buried)) count += 1;
      }
    }
    this.#pump();
    return count;
  }

  #hurry(which: RetrySelection): number {
    let count = 0;
    for (const sink of this.#sinks.values()) {
      const { waiting } = listingOf({ ...this.#contents(), sinks: [sink], orphans: [] }, []);
      const chosen = waiting.filter((each) => which.kind !== 'id' || each.id === which.id).length;
      if (chosen > 0) hurrySink(sink);
      count += chosen;
    }
    return count;
  }

  /** A dead alert gets three more days; one that waits again already stays where it is. */
  async #revive({ alert, file }: Buried): Promise<boolean> {
    const sink = this.#sinks.get(alert.sink);
    const key = keyOf(alert);
    if (sink === undefined || this.#kept.has(key) || this.#abort.signal.aborted) return false;
    await this.#inTurn(key, async () => {
      const spooled = await this.#spool.write(alert, this.#settings.nowMs());
      await this.#spool.exhume(file);
      appendTo(sink, spooled);
    });
    hurrySink(sink);
    return true;
  }

  async close(): Promise<void> {
    this.#abort.abort();
    this.#cancelWake();
    await Promise.all([...this.#sinks.values()].map(async (sink) => await sink.heartbeat?.stop()));
    await this.#lastWrite;
    await Promise.all(this.#underWay);
  }

  #refuseBad(alert: Alert): SinkLanes {
    const kept = { id: alert.id, sink: alert.sink };
    const sink = this.#sinks.get(alert.sink);
    if (this.#abort.signal.aborted) throw fail('ALERT_NOT_KEPT', { detail: 'the outbox is closed', ...kept });
    if (sink === undefined) throw fail('ALERT_NOT_KEPT', { detail: `there is no sink "${alert.sink}"`, ...kept });
    if (!ID_PATTERN.test(alert.id)) throw fail('ALERT_NOT_KEPT', { detail: 'the id of the alert is not one', ...kept });
    if (!ID_PATTERN.test(alert.key)) {
      throw fail('ALERT_NOT_KEPT', { detail: 'the key of the alert is not one', ...kept });
    }
    if (!fitsSpool(alert)) throw fail('ALERT_NOT_KEPT', { detail: 'the alert is too long to be sent', ...kept });
    if (this.#kept.size >= SPOOLED_MAX) {
      throw fail('ALERT_NOT_KEPT', { detail: `${SPOOLED_MAX} alerts wait already`, ...kept });
    }
    return sink;
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

  #admit(spooled: Spooled): void {
    const sink = this.#sinks.get(spooled.alert.sink);
    if (sink === undefined) {
      this.#orphans.push(spooled);
      return;
    }
    const counts = countsInStorm(spooled.alert.type, sink.deliverer.kind);
    if (!counts || sink.storm.passes(spooled, spooled.queuedAtMs)) appendTo(sink, spooled);
  }

  /** Starts whatever is due and sleeps until the next thing is. */
  #pump(): void {
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
    const dueAtMs = sink.storm.dueAtMs();
    if (dueAtMs > nowMs) return dueAtMs;
    const { held, lead } = sink.storm.take(nowMs);
    const [only] = held;
    if (held.length === 1 && only !== undefined) {
      appendTo(sink, only);
      return Infinity;
    }
    const digest = digestOf(held, { lead, nowMs });
    const written = this.#inTurn(keyOf(digest), async () => {
      const files = held.map(({ file }) => file);
      const spooled = await this.#spool.write(digest, nowMs, files);
      this.#carried.set(spooled.file, held);
      appendTo(sink, spooled);
    }).catch((error: unknown) => {
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
      this.#pump();
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
        this.#pump();
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
    const message = sink.disabled ? `${delivery.message}; the sink gets nothing more until restart` : delivery.message;
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
    for (const { alert } of [head, ...carried]) this.#kept.delete(keyOf(alert));
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
}

const AFTER_HORIZON = `given up after ${HORIZON_MS / 3_600_000} hours`;

function namesOf({ alert }: Spooled): Pick<AlertDelivered, 'id' | 'sink' | 'type' | 'subject'> {
  return { id: alert.id, sink: alert.sink, type: alert.type, subject: alert.subject };
}

function keyOf(alert: Alert): string {
  return `${alert.sink} ${alert.id}`;
}

function wordsOf(delivery: Delivery): string {
  if (delivery.kind !== 'delivered') return delivery.message;
  return delivery.status === 0 ? 'taken' : `answered ${delivery.status}`;
}
