import { fail, messageOf } from '../core/errors.ts';
import type { Alert, AlertDelivered, AlertFailed, AlertOutbox, OutboxDepth, WebhookSink } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import { HORIZON_MS, retryDelayMs } from './schedule.ts';
import type { Spooled } from './spool.ts';
import { fitsSpool, Spool } from './spool.ts';
import type { Delivery, Webhook, WebhookOptions } from './webhook.ts';
import { openWebhook } from './webhook.ts';

/** Timers as the outbox needs them, so that a test can hold the clock. */
export type Timers = {
  /** Calls once after `delayMs`; the result takes it back. */
  after(delayMs: number, call: () => void): () => void;
};

export type OutboxOptions = {
  readonly directory: string;
  readonly sinks: Readonly<Record<string, WebhookSink>>;
  readonly log: Log;
  readonly onDelivered: (delivered: AlertDelivered) => void;
  /** For each failed attempt, and with `final` once more when an alert is given up. */
  readonly onFailed: (failed: AlertFailed) => void;
  readonly nowMs?: () => number;
  readonly random?: () => number;
  readonly timers?: Timers;
  readonly webhook?: Omit<WebhookOptions, 'nowMs'>;
};

/** A spool that is longer than this has a sink that nobody looks after. */
const SPOOLED_MAX = 10_000;
const IN_FLIGHT_PER_SINK_MAX = 4;
/** The longest that a timer sleeps: setTimeout overflows beyond 24 days, and a clock may be set. */
const TIMER_MS_MAX = 3_600_000;
const ID_PATTERN = /^[A-Za-z0-9_-]{1,64}$/;

const REAL_TIMERS: Timers = {
  after(delayMs, call) {
    const timer = setTimeout(call, delayMs);
    // What waits for its next attempt is on disk; it keeps no process alive.
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** Opens the spool, takes up what an earlier daemon left, and starts to deliver. */
export async function openOutbox(options: OutboxOptions): Promise<AlertOutbox> {
  const nowMs = options.nowMs ?? Date.now;
  const sinks = new Map(
    Object.entries(options.sinks).map(([name, sink]): [string, Sink] => [
      name,
      { name, webhook: openWebhook(sink, { ...options.webhook, nowMs }), lanes: new Map(), ...IDLE },
    ]),
  );
  const { spool, left } = await Spool.open(options.directory, options.log);
  const outbox = new Outbox(spool, sinks, {
    ...options,
    nowMs,
    random: options.random ?? Math.random,
    timers: options.timers ?? REAL_TIMERS,
  });
  outbox.resume(left);
  return outbox;
}

const IDLE = { inFlight: 0, pausedUntilMs: 0, disabled: false };

/** Alerts of one subject, in order: only the first is ever under way. */
type Lane = {
  readonly queue: Spooled[];
  attempts: number;
  nextAttemptMs: number;
  busy: boolean;
};

type Sink = {
  readonly name: string;
  readonly webhook: Webhook;
  readonly lanes: Map<string, Lane>;
  inFlight: number;
  /** A receiver that asked for patience is left alone by every lane. */
  pausedUntilMs: number;
  disabled: boolean;
};

type Settings = OutboxOptions & Required<Pick<OutboxOptions, 'nowMs' | 'random' | 'timers'>>;

class Outbox implements AlertOutbox {
  readonly #spool: Spool;
  readonly #sinks: Map<string, Sink>;
  readonly #settings: Settings;
  /** What is in the spool or on its way there: the second of two equal alerts waits for the first. */
  readonly #kept = new Map<string, Promise<void>>();
  readonly #abort = new AbortController();
  readonly #underWay = new Set<Promise<void>>();
  readonly #orphans: Spooled[] = [];
  #lastWrite: Promise<void> = Promise.resolve();
  #wakeAtMs = Infinity;
  #cancelWake: () => void = () => {};

  constructor(spool: Spool, sinks: Map<string, Sink>, settings: Settings) {
    this.#spool = spool;
    this.#sinks = sinks;
    this.#settings = settings;
  }

  resume(left: readonly Spooled[]): void {
    for (const spooled of left) {
      this.#kept.set(keyOf(spooled.alert), Promise.resolve());
      this.#admit(spooled);
    }
    const unknown = new Set(this.#orphans.map((orphan) => orphan.alert.sink));
    for (const sink of unknown) this.#settings.log.warn({ sink }, 'alerts wait for a sink that is not configured');
    this.#pump();
  }

  async enqueue(alert: Alert): Promise<void> {
    const key = keyOf(alert);
    const same = this.#kept.get(key);
    if (same !== undefined) return await same;
    this.#refuseBad(alert);
    // One write after the other keeps the order of the calls.
    const written = this.#lastWrite.then(async () => await this.#keep(alert));
    this.#kept.set(key, written);
    this.#lastWrite = written.catch(() => {
      this.#kept.delete(key);
    });
    await written;
    this.#pump();
  }

  async #keep(alert: Alert): Promise<void> {
    this.#admit(await this.#spool.write(alert, this.#settings.nowMs()));
  }

  depth(): OutboxDepth {
    const disabled = [...this.#sinks.values()].filter((sink) => sink.disabled).map((sink) => sink.name);
    return { waiting: this.#kept.size, dead: this.#spool.dead, disabled };
  }

  async close(): Promise<void> {
    this.#abort.abort();
    this.#cancelWake();
    await this.#lastWrite;
    await Promise.all(this.#underWay);
  }

  #refuseBad(alert: Alert): void {
    const kept = { id: alert.id, sink: alert.sink };
    if (this.#abort.signal.aborted) throw fail('ALERT_NOT_KEPT', { detail: 'the outbox is closed', ...kept });
    if (!this.#sinks.has(alert.sink)) {
      throw fail('ALERT_NOT_KEPT', { detail: `there is no sink "${alert.sink}"`, ...kept });
    }
    if (!ID_PATTERN.test(alert.id)) throw fail('ALERT_NOT_KEPT', { detail: 'the id of the alert is not one', ...kept });
    if (!fitsSpool(alert)) throw fail('ALERT_NOT_KEPT', { detail: 'the alert is too long to be sent', ...kept });
    if (this.#kept.size >= SPOOLED_MAX) {
      throw fail('ALERT_NOT_KEPT', { detail: `${SPOOLED_MAX} alerts wait already`, ...kept });
    }
  }

  #admit(spooled: Spooled): void {
    const sink = this.#sinks.get(spooled.alert.sink);
    if (sink === undefined) {
      this.#orphans.push(spooled);
      return;
    }
    const { subject } = spooled.alert;
    const lane = sink.lanes.get(subject) ?? { queue: [], attempts: 0, nextAttemptMs: 0, busy: false };
    sink.lanes.set(subject, lane);
    lane.queue.push(spooled);
  }

  /** Starts whatever is due and sleeps until the next thing is. */
  #pump(): void {
    if (this.#abort.signal.aborted) return;
    const nowMs = this.#settings.nowMs();
    let wakeAtMs = Infinity;
    for (const sink of this.#sinks.values()) {
      for (const [subject, lane] of sink.lanes) {
        const head = lane.queue[0];
        if (lane.busy) continue;
        if (head === undefined) {
          sink.lanes.delete(subject);
          continue;
        }
        const expiresAtMs = head.queuedAtMs + HORIZON_MS;
        const dueAtMs = sink.disabled ? Infinity : Math.max(lane.nextAttemptMs, sink.pausedUntilMs);
        if (nowMs >= expiresAtMs) this.#track(lane, this.#giveUp(lane, head));
        else if (dueAtMs <= nowMs && sink.inFlight < IN_FLIGHT_PER_SINK_MAX) {
          this.#track(lane, this.#attempt(sink, lane, head));
        } else if (dueAtMs > nowMs) wakeAtMs = Math.min(wakeAtMs, dueAtMs, expiresAtMs);
        // A lane that only waits for a free place is looked at when an attempt ends.
      }
    }
    for (const orphan of this.#orphans) wakeAtMs = Math.min(wakeAtMs, orphan.queuedAtMs + HORIZON_MS);
    if (wakeAtMs <= nowMs) this.#buryOrphans(nowMs);
    this.#sleepUntil(wakeAtMs, nowMs);
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
    const tracked = work
      .catch((error: unknown) => {
        this.#settings.log.error({ error: messageOf(error) }, 'the spool of alerts failed');
      })
      .finally(() => {
        lane.busy = false;
        this.#underWay.delete(tracked);
        this.#pump();
      });
    this.#underWay.add(tracked);
  }

  async #attempt(sink: Sink, lane: Lane, head: Spooled): Promise<void> {
    sink.inFlight += 1;
    let delivery: Delivery;
    try {
      delivery = await sink.webhook.send(head.alert, this.#abort.signal);
    } finally {
      sink.inFlight -= 1;
    }
    if (delivery.kind === 'delivered') {
      // From here on the receiver has it: if the file stays, it is sent again after a restart, under the same id.
      const attempts = lane.attempts + 1;
      this.#leave(lane, head);
      const sinceQueuedMs = Math.max(0, this.#settings.nowMs() - head.queuedAtMs);
      try {
        await this.#spool.remove(head);
      } finally {
        this.#settings.onDelivered({ ...namesOf(head), attempts, status: delivery.status, sinceQueuedMs });
      }
      return;
    }
    if (this.#abort.signal.aborted) return;
    lane.attempts += 1;
    if (delivery.kind === 'gone') sink.disabled = true;
    const retryAfterMs = delivery.kind === 'failed' ? delivery.retryAfterMs : null;
    const delayMs = retryDelayMs(lane.attempts, retryAfterMs, this.#settings.random);
    const nowMs = this.#settings.nowMs();
    lane.nextAttemptMs = nowMs + delayMs;
    if (retryAfterMs !== null) sink.pausedUntilMs = Math.max(sink.pausedUntilMs, lane.nextAttemptMs);
    const message = sink.disabled ? `${delivery.message}; the sink gets nothing more until restart` : delivery.message;
    const retryInMs = sink.disabled ? null : delayMs;
    this.#settings.onFailed({ ...namesOf(head), attempts: lane.attempts, message, final: false, retryInMs });
  }

  async #giveUp(lane: Lane, head: Spooled): Promise<void> {
    const attempts = lane.attempts;
    this.#leave(lane, head);
    await this.#spool.bury(head);
    const message = `given up after ${HORIZON_MS / 3_600_000} hours`;
    this.#settings.log.error({ id: head.alert.id, sink: head.alert.sink }, 'an alert was given up');
    this.#settings.onFailed({ ...namesOf(head), attempts, message, final: true, retryInMs: null });
  }

  #leave(lane: Lane, head: Spooled): void {
    lane.queue.shift();
    lane.attempts = 0;
    lane.nextAttemptMs = 0;
    this.#kept.delete(keyOf(head.alert));
  }

  #buryOrphans(nowMs: number): void {
    for (const orphan of this.#orphans.splice(0)) {
      if (nowMs < orphan.queuedAtMs + HORIZON_MS) {
        this.#orphans.push(orphan);
        continue;
      }
      const lane = { queue: [orphan], attempts: 0, nextAttemptMs: 0, busy: true };
      this.#track(lane, this.#giveUp(lane, orphan));
    }
  }
}

function namesOf({ alert }: Spooled): Pick<AlertDelivered, 'id' | 'sink' | 'type' | 'subject'> {
  return { id: alert.id, sink: alert.sink, type: alert.type, subject: alert.subject };
}

function keyOf(alert: Alert): string {
  return `${alert.sink} ${alert.id}`;
}
