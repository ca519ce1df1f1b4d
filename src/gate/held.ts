import type { ApprovalLifetime } from '../core/approval.ts';
import type { NameRequest, Standing } from './verdict.ts';

/**
 * Names of one run that wait for a person, and what was decided about the others.
 *
 *   undecided ──wait──▶ pending ──decide──▶ approved ──time over──▶ undecided
 *                          │                    │
 *                          └─────decide─────▶ denied
 *
 * A pending name is asked about once. Questions for it are held together: all of them end when the first of them has
 * waited long enough, and the next one begins a new hold of the same request.
 */
export type HeldNamesParts = {
  readonly holdMs: number;
  /** Monotonic: a step of the wall clock must not lengthen an approval. */
  readonly now: () => number;
  readonly onAsked: (request: NameRequest) => void;
};

/** Under a wildcard the agent chooses the names, so it could bury the person who is asked. */
export const PENDING_NAMES_MAX = 16;
/** More than this wait for nothing else: they hear `not yet` at once. */
export const HELD_QUESTIONS_MAX = 64;
/** Beyond this the oldest decision is forgotten, and its name is asked about again. */
const DECISIONS_MAX = 1_024;
/** A time-out of 0 in the kernel means for ever, so an approval is over a second before it could be rounded to it. */
const APPROVAL_REST_MS_MIN = 1_000;

type Pending = { hold: Hold | null };
type Hold = { readonly endsAtMs: number; readonly over: PromiseWithResolvers<void> };

export class HeldNames {
  readonly #parts: HeldNamesParts;
  readonly #pending = new Map<string, Pending>();
  readonly #decided = new Map<string, Exclude<Standing, { kind: 'undecided' }>>();
  #questions = 0;

  constructor(parts: HeldNamesParts) {
    this.#parts = parts;
  }

  standing(name: string): Standing {
    const decided = this.#decided.get(name);
    if (decided === undefined) return { kind: 'undecided' };
    return decided.kind === 'approved' && this.#isOver(decided.untilMs) ? { kind: 'undecided' } : decided;
  }

  /** Resolves when something was decided, when the hold is over, or at once when there is no patience for more. */
  async wait(request: NameRequest): Promise<'look-again' | 'too-many'> {
    const known = this.#pending.get(request.name);
    if (known === undefined && this.#pending.size >= PENDING_NAMES_MAX) return 'too-many';
    const pending: Pending = known ?? { hold: null };
    if (known === undefined) {
      this.#pending.set(request.name, pending);
      this.#parts.onAsked(request);
    }
    if (this.#parts.holdMs === 0 || this.#questions >= HELD_QUESTIONS_MAX) return 'look-again';
    pending.hold ??= {
      endsAtMs: this.#parts.now() + this.#parts.holdMs,
      over: Promise.withResolvers<void>(),
    };
    this.#questions += 1;
    try {
      await pending.hold.over.promise;
    } finally {
      this.#questions -= 1;
    }
    return 'look-again';
  }

  decide(request: NameRequest, lifetime: ApprovalLifetime | null): void {
    const { name, ports } = request;
    // Set anew, so that the order of the map is the order of the decisions.
    this.#decided.delete(name);
    const [oldest] = this.#decided.keys();
    if (this.#decided.size >= DECISIONS_MAX && oldest !== undefined) this.#decided.delete(oldest);
    this.#decided.set(
      name,
      lifetime === null ? { kind: 'denied' } : { kind: 'approved', ports, untilMs: this.#parts.now() + lifetime.forMs },
    );
    this.#settle(name);
  }

  /** To be called a few times a second: ends the holds that are over and returns the names whose approval is. */
  sweep(): readonly string[] {
    for (const pending of this.#pending.values()) {
      if (pending.hold === null || pending.hold.endsAtMs > this.#parts.now()) continue;
      const { over } = pending.hold;
      pending.hold = null;
      over.resolve();
    }
    const ended: string[] = [];
    for (const [name, decided] of this.#decided) {
      if (decided.kind !== 'approved' || !this.#isOver(decided.untilMs)) continue;
      this.#decided.delete(name);
      ended.push(name);
    }
    return ended;
  }

  /** After a change of the rules: forgets what they no longer ask about. Whoever waits for it looks at them again. */
  retain(isAsked: (name: string) => boolean): void {
    for (const name of this.#decided.keys()) if (!isAsked(name)) this.#decided.delete(name);
    for (const name of this.#pending.keys()) if (!isAsked(name)) this.#settle(name);
  }

  /** The run is gone: nobody waits any more. */
  end(): void {
    this.#decided.clear();
    for (const name of this.#pending.keys()) this.#settle(name);
  }

  #isOver(untilMs: number): boolean {
    return untilMs - this.#parts.now() < APPROVAL_REST_MS_MIN;
  }

  #settle(name: string): void {
    this.#pending.get(name)?.hold?.over.resolve();
    this.#pending.delete(name);
  }
}
