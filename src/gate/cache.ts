import type { Resolution } from './upstream.ts';

const ENTRIES_MAX = 8_192;

/** Answers by canonical name, for as long as their records live; one question upstream however many runs wait for it. */
export class NameCache {
  readonly #resolve: (name: string) => Promise<Resolution>;
  readonly #now: () => number;
  readonly #entries = new Map<string, { readonly resolution: Resolution; readonly expiresAtMs: number }>();
  readonly #waiting = new Map<string, Promise<Resolution>>();

  constructor(parts: { readonly resolve: (name: string) => Promise<Resolution>; readonly now: () => number }) {
    this.#resolve = parts.resolve;
    this.#now = parts.now;
  }

  /** What is known now, its lifetime counted down; null when it has to be asked for. */
  peek(name: string): Resolution | null {
    const entry = this.#entries.get(name);
    if (entry === undefined) return null;
    const leftSeconds = Math.ceil((entry.expiresAtMs - this.#now()) / 1000);
    if (leftSeconds > 0 && entry.resolution.kind !== 'failed') return { ...entry.resolution, ttlSeconds: leftSeconds };
    this.#entries.delete(name);
    return null;
  }

  async get(name: string): Promise<Resolution> {
    const known = this.peek(name);
    if (known !== null) return known;
    const waiting = this.#waiting.get(name);
    if (waiting !== undefined) return await waiting;
    const asked = this.#ask(name);
    this.#waiting.set(name, asked);
    try {
      return await asked;
    } finally {
      this.#waiting.delete(name);
    }
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  async #ask(name: string): Promise<Resolution> {
    const resolution = await this.#resolve(name);
    // A failure is not kept: the next question may find the resolver up again.
    if (resolution.kind === 'failed') return resolution;
    const [oldest] = this.#entries.keys();
    if (this.#entries.size >= ENTRIES_MAX && oldest !== undefined) this.#entries.delete(oldest);
    this.#entries.set(name, { resolution, expiresAtMs: this.#now() + resolution.ttlSeconds * 1000 });
    return resolution;
  }
}
