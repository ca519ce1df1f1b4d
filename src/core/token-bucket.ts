export type Rate = { readonly perSecond: number; readonly burst: number };

/** Tokens at `nowMs`, of `tokens` at `atMs`: earned with time, up to the burst. */
export function earned(
  { tokens, atMs }: { readonly tokens: number; readonly atMs: number },
  rate: Rate,
  nowMs: number,
): number {
  return Math.min(rate.burst, tokens + (Math.max(0, nowMs - atMs) / 1000) * rate.perSecond);
}

/** Earns tokens with time, up to a burst. */
export class TokenBucket {
  readonly #rate: Rate;
  #tokens: number;
  #refilledAtMs: number;

  constructor(rate: Rate, nowMs: number) {
    this.#rate = rate;
    this.#tokens = rate.burst;
    this.#refilledAtMs = nowMs;
  }

  take(nowMs: number): boolean {
    this.#tokens = earned({ tokens: this.#tokens, atMs: this.#refilledAtMs }, this.#rate, nowMs);
    this.#refilledAtMs = nowMs;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}
