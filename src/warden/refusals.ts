import { FENCE_PREFIXES } from '../core/fence-names.ts';
import type { Denial } from '../core/outcome.ts';
import type { BudgetPlan, NameResolved, WardenReport } from '../core/ports/warden.ts';
import type { NflogPacket } from '../kernel/nflog.ts';
import { KERNEL_BUDGETS } from '../policy/quotas.ts';
import type { KernelBudget, QuotaReading } from '../policy/quotas.ts';
import { createAskedTold, createAttempts } from './attempts.ts';
import { createDenialValve, denialOfPacket } from './denials.ts';

/** What one run was refused: attempts that count, budgets that the kernel cut off, and requests that wait. */
export type Refusals = {
  /** What a packet of the feed says of the run; null when it belongs to an attempt that is counted already. */
  ofPacket(packet: NflogPacket, at: { readonly utc: string; readonly nowMs: number }): PacketNews | null;
  nameResolved(resolved: NameResolved): void;
  /** Counts `count` refused attempts, of which the one given is the last; of a cut-off it keeps only that there is one. */
  note(denial: Denial, count: number): void;
  /** The number not told before this one when it may be told one by one, or null. */
  admit(nowMs: number, count: number): number | null;
  readonly total: number;
  /** What the next judgement has to know. */
  readonly unjudged: Pick<QuotaReading, 'cutOff' | 'newDenials' | 'lastDenial'>;
  /** They have been judged. */
  judged(): void;
  /** What was cut off under another limit says nothing of the new one; if it still is, the next packet tells. */
  forgetCutOff(budgets: readonly BudgetPlan['budget'][]): void;
};

type PacketNews =
  | { readonly kind: 'refused'; readonly denial: Denial }
  | ({ readonly kind: 'waits' } & Omit<Extract<WardenReport, { kind: 'asked' }>, 'kind' | 'runId'>);

/** `before`: attempts that an earlier warden counted. */
export function createRefusals({ before = 0 }: { readonly before?: number } = {}): Refusals {
  const valve = createDenialValve();
  const attempts = createAttempts();
  const askedTold = createAskedTold();
  const cutOff = new Set<KernelBudget>();
  let total = before;
  let newDenials = 0;
  let lastDenial: Denial | null = null;

  const ofWaiting = ({ packet }: NflogPacket, nowMs: number): PacketNews | null => {
    if (packet === null || packet.destinationPort === null) return null;
    const { destination: address, destinationPort: port, protocol } = packet;
    if (protocol !== 'tcp' && protocol !== 'udp') return null;
    return askedTold.admit(`${address}:${port}/${protocol}`, nowMs) ? { kind: 'waits', address, port, protocol } : null;
  };

  return {
    ofPacket: (packet, { utc, nowMs }) => {
      if (packet.prefix === FENCE_PREFIXES.ask) return ofWaiting(packet, nowMs);
      const denial = denialOfPacket(packet, utc);
      if (denial.kind === 'packet' && attempts.isRepeat(packet.packet, nowMs)) return null;
      const name = attempts.nameOf(denial.destination);
      if (name === null) return { kind: 'refused', denial };
      const explanation = `${denial.explanation}; ${name} led to this address`;
      return { kind: 'refused', denial: { ...denial, explanation } };
    },
    nameResolved: (resolved) => attempts.resolved(resolved),
    note: (denial, count) => {
      const spent =
        denial.kind === 'budget' ? KERNEL_BUDGETS.find((name) => denial.rule === `budget.${name}`) : undefined;
      if (spent !== undefined) {
        cutOff.add(spent);
        return;
      }
      total += count;
      newDenials += count;
      lastDenial = denial;
    },
    admit: (nowMs, count) => valve.admit(nowMs, count),
    get total() {
      return total;
    },
    get unjudged() {
      return { cutOff: [...cutOff], newDenials, lastDenial };
    },
    judged: () => {
      newDenials = 0;
    },
    forgetCutOff: (budgets) => {
      for (const budget of KERNEL_BUDGETS) if (budgets.includes(budget)) cutOff.delete(budget);
    },
  };
}
