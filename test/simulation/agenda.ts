/**
 * The manual clock: what is to happen, in the order of its time. While a simulation runs, the timers of the program
 * under test are entries of it too, so that thirty seconds of waiting cost nothing.
 */
export class Agenda {
  nowMs = 1_000;
  private entries: Entry[] = [];
  private serial = 0;

  at(atMs: number, run: () => void, timer = false): Entry {
    this.serial += 1;
    const entry: Entry = { atMs: Math.max(atMs, this.nowMs), order: this.serial, run, timer, cancelled: false };
    let place = this.entries.length;
    while (place > 0 && isAfter(this.entries[place - 1], entry)) place -= 1;
    this.entries.splice(place, 0, entry);
    return entry;
  }

  after(ms: number, run: () => void): Entry {
    return this.at(this.nowMs + ms, run);
  }

  get length(): number {
    return this.entries.length;
  }

  /** The timers of a process that was killed go with it. */
  dropTimers(): void {
    this.entries = this.entries.filter(({ timer }) => !timer);
  }

  /** Runs what is due until `isDone`, nothing is left, or it is too late; false in the last two cases. */
  async runUntil(isDone: () => boolean, untilMs: number): Promise<boolean> {
    while (!isDone()) {
      const entry = this.entries.shift();
      if (entry === undefined) return false;
      if (entry.cancelled) continue;
      if (entry.atMs > untilMs) {
        this.entries.unshift(entry);
        return false;
      }
      this.nowMs = entry.atMs;
      entry.run();
      await settle();
    }
    return true;
  }

  /** Puts the timers of this process under the agenda; the returned function gives them back. */
  installTimers(): () => void {
    const { setTimeout: realSet, clearTimeout: realClear } = globalThis;
    const set = (work: (...args: unknown[]) => void, ms = 0, ...args: unknown[]): Entry & Handle => {
      const entry = this.at(this.nowMs + ms, () => work(...args), true);
      return Object.assign(entry, { ref: () => entry, unref: () => entry, hasRef: () => true });
    };
    const clear = (handle: unknown): void => {
      if (typeof handle === 'object' && handle !== null && 'cancelled' in handle) handle.cancelled = true;
      else realClear(handle as NodeJS.Timeout | undefined);
    };
    Object.assign(globalThis, { setTimeout: set, clearTimeout: clear });
    return () => void Object.assign(globalThis, { setTimeout: realSet, clearTimeout: realClear });
  }
}

type Entry = {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
  readonly timer: boolean;
  cancelled: boolean;
};

type Handle = { ref(): unknown; unref(): unknown; hasRef(): boolean };

function isAfter(left: Entry | undefined, right: Entry): boolean {
  return left !== undefined && left.atMs > right.atMs;
}

/** Everything that follows from what just happened, without any time passing. */
export async function settle(): Promise<void> {
  await new Promise<void>((resolve) => {
    setImmediate(resolve);
  });
}
