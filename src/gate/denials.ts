import type { FenceDenial } from '../core/ports/fence.ts';
import type { Denial } from '../core/outcome.ts';
import { TokenBucket } from '../core/token-bucket.ts';

/**
 * One look-up asks for A and AAAA, resolvers repeat it, and a client tries every address that a name has: the same
 * refusal within this time is the same attempt. It is told and counted once, with nothing suppressed.
 */
const SAME_ATTEMPT_MS = 5_000;
const REPORTS_PER_SECOND_MAX = 50;
const REPORTS_BURST_MAX = 100;
const RECENT_MAX = 1_024;

/** What was refused, and where: a question to port 53, or a connection by its port. Every text is fit to show. */
export type Refused = Pick<Denial, 'destination' | 'port' | 'protocol' | 'rule' | 'explanation'> & {
  readonly kind: 'name' | 'packet';
};

type RunDenials = {
  readonly tokens: TokenBucket;
  suppressed: number;
  last: Denial | null;
  readonly recent: Map<string, number>;
};

/**
 * Refused names on their way to the warden: the first of a kind at once, repeats of one attempt never, a flood as a
 * number. `send` returns false when the pipe is full; such a report is counted into the next one.
 */
export class DenialFeed {
  readonly #send: (denial: FenceDenial) => boolean;
  readonly #now: () => number;
  readonly #utc: () => string;
  readonly #runs = new Map<string, RunDenials>();

  /** `now`: milliseconds of a clock that nobody can set, which decides; `utc`: what is written down. */
  constructor(parts: {
    readonly send: (denial: FenceDenial) => boolean;
    readonly now: () => number;
    readonly utc: () => string;
  }) {
    this.#send = parts.send;
    this.#now = parts.now;
    this.#utc = parts.utc;
  }

  report(address: string, refused: Refused): void {
    const nowMs = this.#now();
    const run = this.#runOf(address, nowMs);
    const key = `${refused.rule} ${refused.protocol}:${refused.port} ${refused.destination}`;
    const before = run.recent.get(key);
    if (before !== undefined && nowMs - before < SAME_ATTEMPT_MS) return;
    if (run.recent.size >= RECENT_MAX) run.recent.clear();
    run.recent.set(key, nowMs);
    this.#deliver(address, run, { ...refused, at: this.#utc() });
  }

  /** To be called every second or so: what a flood left unsaid is said although no further refusal follows. */
  flush(): void {
    for (const [address, run] of this.#runs) {
      if (run.suppressed === 0 || run.last === null || !run.tokens.take(this.#now())) continue;
      if (this.#send({ address, denial: run.last, suppressed: run.suppressed - 1 })) run.suppressed = 0;
    }
  }

  forget(address: string): void {
    this.#runs.delete(address);
  }

  #runOf(address: string, nowMs: number): RunDenials {
    const known = this.#runs.get(address);
    if (known !== undefined) return known;
    const fresh: RunDenials = {
      tokens: new TokenBucket({ perSecond: REPORTS_PER_SECOND_MAX, burst: REPORTS_BURST_MAX }, nowMs),
      suppressed: 0,
      last: null,
      recent: new Map(),
    };
    this.#runs.set(address, fresh);
    return fresh;
  }

  #deliver(address: string, run: RunDenials, denial: Denial): void {
    run.last = denial;
    const allowed = run.tokens.take(this.#now());
    if (allowed && this.#send({ address, denial, suppressed: run.suppressed })) run.suppressed = 0;
    else run.suppressed += 1;
  }
}
