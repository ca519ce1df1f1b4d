import type { Alert } from '../core/ports/alert.ts';

/** Which alerts are in the spool or on their way there. The second of two equal ones waits for the first. */
export class Keeper {
  readonly #kept = new Map<string, Promise<void>>();
  #lastWrite: Promise<void> = Promise.resolve();

  get size(): number {
    return this.#kept.size;
  }

  /** The write that keeps this one, when there is one. */
  writeOf(key: string): Promise<void> | undefined {
    return this.#kept.get(key);
  }

  /** It is in the spool already. */
  adopt(key: string): void {
    this.#kept.set(key, Promise.resolve());
  }

  forget(key: string): void {
    this.#kept.delete(key);
  }

  /** One write after the other keeps the order of the calls. */
  async keep(key: string, write: () => Promise<void>): Promise<void> {
    const written = this.#lastWrite.then(write);
    this.#kept.set(key, written);
    this.#lastWrite = written.catch(() => {
      this.#kept.delete(key);
    });
    await written;
  }

  async settled(): Promise<void> {
    await this.#lastWrite;
  }
}

export function keyOf(alert: Alert): string {
  return `${alert.sink} ${alert.id}`;
}
