/** What one run may ask of the gate. PURE: time comes in. A run over a bound is refused, never delayed. */
export const QUERIES_PER_SECOND_MAX = 100;
export const QUERIES_BURST_MAX = 300;
/** Names that an agent makes up under an allowed wildcard are a way out for data, so they are few and short in sum. */
export const WILDCARD_NAMES_PER_MINUTE_MAX = 60;
export const WILDCARD_BYTES_PER_MINUTE_MAX = 2_048;
/** Query bytes in sum: a channel of 1 kB/s into a resolver that drops most of them is nobody's way out. */
export const QUERY_BYTES_PER_MINUTE_MAX = 65_536;
export const PENDING_MAX = 32;
/** Addresses that one run can have open at a time; the kernel's set holds far more, and all runs share it. */
export const OPEN_ENTRIES_MAX = 4_096;

const MINUTE_MS = 60_000;

export class RunLimits {
  #tokens = QUERIES_BURST_MAX;
  #refilledAtMs: number;
  #minuteStartMs: number;
  #queryBytes = 0;
  #wildcardBytes = 0;
  readonly #wildcardNames = new Set<string>();
  readonly #openUntilMs = new Map<string, number>();

  constructor(nowMs: number) {
    this.#refilledAtMs = nowMs;
    this.#minuteStartMs = nowMs;
  }

  /** One more query of this size: false when the run asks faster than it may. */
  takeQuery(nowMs: number, bytes: number): boolean {
    this.#turnMinute(nowMs);
    const earned = ((nowMs - this.#refilledAtMs) / 1000) * QUERIES_PER_SECOND_MAX;
    this.#tokens = Math.min(QUERIES_BURST_MAX, this.#tokens + earned);
    this.#refilledAtMs = nowMs;
    if (this.#tokens < 1 || this.#queryBytes + bytes > QUERY_BYTES_PER_MINUTE_MAX) return false;
    this.#tokens -= 1;
    this.#queryBytes += bytes;
    return true;
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

  /** Room for these entries of the kernel's set, which live until `untilMs`: false when the run has too many open. */
  takeEntries(nowMs: number, keys: readonly string[], untilMs: number): boolean {
    if (this.#openUntilMs.size + keys.length > OPEN_ENTRIES_MAX) {
      for (const [key, openUntilMs] of this.#openUntilMs) if (openUntilMs <= nowMs) this.#openUntilMs.delete(key);
      const fresh = keys.filter((key) => !this.#openUntilMs.has(key)).length;
      if (this.#openUntilMs.size + fresh > OPEN_ENTRIES_MAX) return false;
    }
    for (const key of keys) this.#openUntilMs.set(key, untilMs);
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
