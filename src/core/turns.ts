/** Work for one key goes one after the other, in the order in which it came; a failure ends only its own turn. */
export class Turns {
  readonly #last = new Map<string, Promise<unknown>>();

  take<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#last.get(key) ?? Promise.resolve();
    const turn = before.then(work, work);
    this.#last.set(key, turn);
    const done = (): void => {
      if (this.#last.get(key) === turn) this.#last.delete(key);
    };
    turn.then(done, done);
    return turn;
  }
}

/**
 * Gathers what comes while the work before is under way, and does it together: ending hundreds of runs at once reads
 * each set a few times, not hundreds of times. Whoever is in a batch that fails hears of it.
 */
export class Batch<T> {
  readonly #work: (items: readonly T[]) => Promise<void>;
  #waiting: { readonly item: T; readonly settled: PromiseWithResolvers<void> }[] = [];
  #busy = false;

  constructor(work: (items: readonly T[]) => Promise<void>) {
    this.#work = work;
  }

  async add(item: T): Promise<void> {
    const settled = Promise.withResolvers<void>();
    this.#waiting.push({ item, settled });
    // Nobody waits for the batches of others: each hears of its own, and the loop itself cannot fail.
    if (!this.#busy) void this.#drain();
    await settled.promise;
  }

  async #drain(): Promise<void> {
    this.#busy = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        await this.#work(batch.map(({ item }) => item));
        for (const { settled } of batch) settled.resolve();
      } catch (error) {
        for (const { settled } of batch) settled.reject(error);
      }
    }
    this.#busy = false;
  }
}
