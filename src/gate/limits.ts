import { TokenBucket } from '../core/token-bucket.ts';

/** What one run may ask of the gate. PURE: time comes in. A run over a bound is refused, never delayed. */
export const QUERIES_PER_SECOND_MAX = 100;
export const QUERIES_BURST_MAX = 300;
/** Names that an agent makes up under an allowed wildcard are a way out for data, so they are few and short in sum. */
export const WILDCARD_NAMES_PER_MINUTE_MAX = 60;
export const WILDCARD_BYTES_PER_MINUTE_MAX = 2_048;
/** Query bytes in sum: a channel of 1 kB/s into a resolver that drops most of them is nobody's way out. */
export const QUERY_BYTES_PER_MINUTE_MAX = 65_536;
/** A label is where data would hide; names that people choose are shorter. */
export const WILDCARD_LABEL_CHARS_MAX = 48;
/** Connections that show a name: more than the packet rules let through. */
export const CHECKS_PER_SECOND_MAX = 200;
export const CHECKS_BURST_MAX = 600;
export const PENDING_MAX = 32;

const MINUTE_MS = 60_000;

export class RunLimits {
  readonly #queries: TokenBucket;
  readonly #checks: TokenBucket;
  #minuteStartMs: number;
  #queryBytes = 0;
  #wildcardBytes = 0;
  readonly #wildcardNames = new Set<string>();

  constructor(nowMs: number) {
    this.#queries = new TokenBucket({ perSecond: QUERIES_PER_SECOND_MAX, burst: QUERIES_BURST_MAX }, nowMs);
    this.#checks = new TokenBucket({ perSecond: CHECKS_PER_SECOND_MAX, burst: CHECKS_BURST_MAX }, nowMs);
    this.#minuteStartMs = nowMs;
  }

  /** One more query of this size: false when the run asks faster than it may. */
  takeQuery(nowMs: number, bytes: number): boolean {
    this.#turnMinute(nowMs);
    if (this.#queryBytes + bytes > QUERY_BYTES_PER_MINUTE_MAX || !this.#queries.take(nowMs)) return false;
    this.#queryBytes += bytes;
    return true;
  }

  /** One more connection that shows a name: false when there are more than the packet rules would ever let through. */
  takeCheck(nowMs: number): boolean {
    return this.#checks.take(nowMs);
  }

  /** A name under a wildcard: false when this minute has had its share of new ones. */
  takeWildcardName(nowMs: number, name: string): boolean {
    this.#turnMinute(nowMs);
    if (this.#wildcardNames.has(name)) return true;
    if (this.#wildcardNames.size >= WILDCARD_NAMES_PER_MINUTE_MAX) return false;
    if (this.#wildcardBytes + name.length > WILDCARD_BYTES_PER_MINUTE_MAX) return false;
    this.#wildcardNames.add(name);
    this.#wildcardBytes += name.length;
    return true;
  }

  #turnMinute(nowMs: number): void {
    if (nowMs - this.#minuteStartMs < MINUTE_MS) return;
    this.#minuteStartMs = nowMs;
    this.#queryBytes = 0;
    this.#wildcardBytes = 0;
    this.#wildcardNames.clear();
  }
}
