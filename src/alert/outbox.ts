import { randomBytes } from 'node:crypto';
import { fail } from '../core/errors.ts';
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
import { printable } from '../core/text.ts';
import type { Delivery } from './deliverer.ts';
import { DeliveryLoop } from './delivery-loop.ts';
import { rulesOf, wants } from './filter.ts';
import type { HttpOptions } from './http.ts';
import { Keeper, keyOf } from './keeper.ts';
import type { SinkLanes } from './lanes.ts';
import { hurrySink, newSinkLanes, waitingFor } from './lanes.ts';
import { depthOf, listingOf } from './listing.ts';
import { openSink } from './open-sink.ts';
import { plainDraft } from './own-alerts.ts';
import type { Buried } from './spool.ts';
import { fitsSpool, Spool } from './spool.ts';
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
  /** What every alert gets that is kept. */
  readonly stamp?: (alert: Alert) => Alert;
  readonly nowMs?: () => number;
  readonly random?: () => number;
  readonly timers?: Timers;
  readonly http?: Omit<HttpOptions, 'nowMs'>;
};

/** A spool that is longer than this has a sink that nobody looks after. */
const SPOOLED_MAX = 10_000;
const NAME_CHARS_MAX = 64;
const ID_PATTERN = /^[A-Za-z0-9_-]{1,64}$/;

/** Opens the spool, takes up what an earlier daemon left, and starts to deliver. CONFIG_INVALID for a sink that cannot work. */
export async function openOutbox(options: OutboxOptions): Promise<AlertOutbox> {
  const nowMs = options.nowMs ?? Date.now;
  const sinks = new Map<string, SinkLanes>();
  for (const [name, sink] of Object.entries(options.sinks)) {
    const rules = rulesOf(sink);
    sinks.set(name, newSinkLanes(name, rules, openSink({ name, sink }, rules, { ...options.http, nowMs })));
  }
  const { spool, left } = await Spool.open(options.directory, options.log);
  const keeper = new Keeper();
  const loop = new DeliveryLoop(
    { spool, keeper, sinks },
    {
      ...options,
      nowMs,
      heartbeat: options.heartbeat ?? null,
      random: options.random ?? Math.random,
      timers: options.timers ?? REAL_TIMERS,
    },
  );
  loop.start(left);
  const stamp = options.stamp ?? ((alert) => alert);
  return new Outbox({ spool, keeper, sinks, loop, nowMs, stamp });
}

type Parts = {
  readonly spool: Spool;
  readonly keeper: Keeper;
  readonly sinks: ReadonlyMap<string, SinkLanes>;
  readonly loop: DeliveryLoop;
  readonly nowMs: () => number;
  readonly stamp: (alert: Alert) => Alert;
};

class Outbox implements AlertOutbox {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async enqueue(alert: Alert): Promise<void> {
    const { spool, keeper, loop, nowMs, stamp } = this.#parts;
    const key = keyOf(alert);
    const same = keeper.writeOf(key);
    if (same !== undefined) return await same;
    const sink = this.#refuseBad(alert);
    if (!wants(alert, sink.rules, sink.deliverer)) return;
    await keeper.keep(key, async () => loop.admit(await spool.write(stamp(alert), nowMs())));
    loop.pump();
  }

  depth(): OutboxDepth {
    const { loop, spool } = this.#parts;
    return depthOf(loop.contents(), spool.dead);
  }

  async list(): Promise<OutboxListing> {
    const { loop, spool } = this.#parts;
    const buried = await spool.buried();
    return listingOf(loop.contents(), buried);
  }

  async test(name: string): Promise<SinkTestResult> {
    const { sinks, loop, nowMs } = this.#parts;
    const sink = sinks.get(name);
    if (sink === undefined) {
      const detail = `the daemon has no sink "${printable(name, NAME_CHARS_MAX)}"`;
      const names = [...sinks.keys()].join(', ');
      throw fail('SINK_UNKNOWN', { detail, hint: names === '' ? 'its configuration has none' : `it has ${names}` });
    }
    const startedMs = nowMs();
    const id = `test_${randomBytes(8).toString('hex')}`;
    const draft = plainDraft('test', { id, nowMs: startedMs });
    const delivery = await sink.deliverer.send({ ...draft, sink: name }, loop.signal);
    const tookMs = Math.max(0, nowMs() - startedMs);
    const ok = delivery.kind === 'delivered';
    if (ok && sink.disabled) {
      // Somebody has repaired it.
      hurrySink(sink);
      loop.pump();
    }
    return { sink: name, kind: sink.deliverer.kind, ok, id, message: wordsOf(delivery), tookMs };
  }

  async retry(which: RetrySelection): Promise<number> {
    const { spool, loop } = this.#parts;
    let count = which.kind === 'dead' ? 0 : this.#hurry(which);
    if (which.kind !== 'waiting') {
      for (const buried of await spool.buried()) {
        if (which.kind === 'id' && buried.alert.id !== which.id) continue;
        if (await this.#revive(buried)) count += 1;
      }
    }
    loop.pump();
    return count;
  }

  #hurry(which: RetrySelection): number {
    const { sinks, loop } = this.#parts;
    let count = 0;
    for (const sink of sinks.values()) {
      const waiting = waitingFor(sink, loop.contents().carried);
      const chosen = waiting.filter(({ spooled }) => which.kind !== 'id' || spooled.alert.id === which.id).length;
      if (chosen > 0) hurrySink(sink);
      count += chosen;
    }
    return count;
  }

  /** A dead alert gets three more days; one that waits again already stays where it is. */
  async #revive({ alert, file }: Buried): Promise<boolean> {
    const { spool, keeper, sinks, loop, nowMs } = this.#parts;
    const sink = sinks.get(alert.sink);
    const key = keyOf(alert);
    if (sink === undefined || keeper.writeOf(key) !== undefined || loop.signal.aborted) return false;
    await keeper.keep(key, async () => {
      const spooled = await spool.write(alert, nowMs());
      await spool.exhume(file);
      loop.admit(spooled);
    });
    hurrySink(sink);
    return true;
  }

  async close(): Promise<void> {
    await this.#parts.loop.stop();
  }

  #refuseBad(alert: Alert): SinkLanes {
    const { sinks, keeper, loop } = this.#parts;
    const sink = sinks.get(alert.sink);
    const refuse = (detail: string): Error => fail('ALERT_NOT_KEPT', { detail, id: alert.id, sink: alert.sink });
    if (loop.signal.aborted) throw refuse('the outbox is closed');
    if (sink === undefined) throw refuse(`there is no sink "${alert.sink}"`);
    if (!ID_PATTERN.test(alert.id)) throw refuse('the id of the alert is not one');
    if (!ID_PATTERN.test(alert.key)) throw refuse('the key of the alert is not one');
    if (!fitsSpool(alert)) throw refuse('the alert is too long to be sent');
    if (keeper.size >= SPOOLED_MAX) throw refuse(`${SPOOLED_MAX} alerts wait already`);
    return sink;
  }
}

function wordsOf(delivery: Delivery): string {
  if (delivery.kind !== 'delivered') return delivery.message;
  return delivery.status === 0 ? 'taken' : `answered ${delivery.status}`;
}
