import type { ApprovalLifetime } from '../core/approval.ts';
import type { GateGrant } from './messages.ts';
import { isUnderAsk, rulesOf } from './verdict.ts';
import type { NameRequest } from './verdict.ts';

/** Beyond this the oldest decision of a run is forgotten; after a restart of the gate its name is asked about again. */
const DECISIONS_PER_RUN_MAX = 1_024;

type Decided = { readonly request: NameRequest; readonly untilMs: number | null };

export type StandingDecision = {
  readonly address: string;
  readonly request: NameRequest;
  readonly lifetime: ApprovalLifetime | null;
};

/** What persons have decided about names, for the gate that is started after one that died. */
export class StandingDecisions {
  readonly #now: () => number;
  readonly #runs = new Map<string, Map<string, Decided>>();

  constructor(now: () => number) {
    this.#now = now;
  }

  remember({ address, request, lifetime }: StandingDecision): void {
    const decided = this.#runs.get(address) ?? new Map<string, Decided>();
    this.#runs.set(address, decided);
    decided.delete(request.name);
    const [oldest] = decided.keys();
    if (decided.size >= DECISIONS_PER_RUN_MAX && oldest !== undefined) decided.delete(oldest);
    decided.set(request.name, { request, untilMs: lifetime === null ? null : this.#now() + lifetime.forMs });
  }

  forget(address: string, name: string | null = null): void {
    if (name === null) this.#runs.delete(address);
    else this.#runs.get(address)?.delete(name);
  }

  /** As the gate does: what the new names do not ask about was decided for nothing. */
  retain({ address, names }: GateGrant): void {
    const rules = rulesOf(names);
    const decided = this.#runs.get(address);
    for (const name of decided?.keys() ?? []) if (!isUnderAsk(rules, name)) decided?.delete(name);
  }

  /** What still lasts, with the time that is left of it. */
  all(): readonly StandingDecision[] {
    const standing: StandingDecision[] = [];
    for (const [address, decided] of this.#runs) {
      for (const [name, { request, untilMs }] of decided) {
        const leftMs = untilMs === null ? null : untilMs - this.#now();
        if (leftMs !== null && leftMs <= 0) decided.delete(name);
        else standing.push({ address, request, lifetime: leftMs === null ? null : { forMs: leftMs } });
      }
    }
    return standing;
  }
}
