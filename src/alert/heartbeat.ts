import { messageOf } from '../core/errors.ts';
import type { AlertDraft } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { Deliverer } from './deliverer.ts';
import type { Timers } from './timers.ts';

export type HeartbeatOptions = {
  readonly sink: string;
  readonly deliverer: Deliverer;
  readonly intervalMs: number;
  /** What the signal says; null keeps silent, because something is wrong that silence should tell. */
  readonly make: () => AlertDraft | null;
  /** A sink that is disabled or wants patience hears no heartbeat either. */
  readonly open: () => boolean;
  readonly log: Log;
  readonly timers: Timers;
  readonly nowMs: () => number;
};

/**
 * A signal to a dead-man monitor: its absence is the alarm, so it is never kept and never tried again. The first comes
 * after one interval: a daemon that dies soon after each start must not look alive.
 */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #abort = new AbortController();
  #cancel: () => void = () => {};
  #underWay: Promise<void> = Promise.resolve();
  #busy = false;
  #lastOkMs: number | null = null;
  #error: string | null = null;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#schedule();
  }

  get state(): { readonly lastOkMs: number | null; readonly error: string | null } {
    return { lastOkMs: this.#lastOkMs, error: this.#error };
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    this.#cancel();
    await this.#underWay;
  }

  #schedule(): void {
    const { timers, intervalMs } = this.#options;
    this.#cancel = timers.after(intervalMs, () => {
      this.#schedule();
      // A receiver slower than the interval misses beats; they do not pile up.
      if (this.#busy) return;
      this.#busy = true;
      this.#underWay = this.#beat()
        .catch((error: unknown) => this.#missed(messageOf(error)))
        .finally(() => {
          this.#busy = false;
        });
    });
  }

  async #beat(): Promise<void> {
    const { deliverer, make, open, log, sink, nowMs } = this.#options;
    const draft = open() ? make() : null;
    if (draft === null) return;
    const delivery = await deliverer.send({ ...draft, sink }, this.#abort.signal);
    if (this.#abort.signal.aborted) return;
    if (delivery.kind === 'delivered') {
      if (this.#error !== null) log.info({ sink }, 'heartbeats arrive again');
      this.#lastOkMs = nowMs();
      this.#error = null;
      return;
    }
    this.#missed(delivery.message);
  }

  #missed(message: string): void {
    const { log, sink } = this.#options;
    if (this.#error === null) log.warn({ sink, error: message }, 'heartbeats do not arrive');
    this.#error = message;
  }
}
