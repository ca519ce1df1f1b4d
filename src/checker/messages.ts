import type { FenceRequestRule } from '../core/ports/fence.ts';

/**
 * What the gate and the checker say to each other. The gate decides: it knows the runs, their rules and the addresses
 * that it opened. The checker reads what a connection shows, asks, and then joins or closes.
 */
export type CheckerConfig = { readonly port: number };

export type CheckerRequest =
  | { readonly kind: 'start'; readonly config: CheckerConfig }
  | { readonly kind: 'verdict'; readonly id: number; readonly verdict: CheckVerdict }
  /** Closes every connection of a run; with `names` only those whose name (canonical) is in it. */
  | { readonly kind: 'close'; readonly source: string; readonly names: readonly string[] | null }
  /** Makes the authority of a run. The key never leaves the checker and dies with it. */
  | { readonly kind: 'authority'; readonly id: number; readonly source: string; readonly runId: string }
  | { readonly kind: 'forget'; readonly source: string };

export type CheckerReport =
  | { readonly kind: 'listening' }
  /** Every `TURNING_MS` from then on. */
  | { readonly kind: 'turning' }
  | { readonly kind: 'failed'; readonly message: string }
  /** May a connection of `source` that shows `name` pass? `destination` is where the agent thought it went. */
  | { readonly kind: 'ask'; readonly id: number; readonly question: CheckQuestion }
  /** A connection that was closed before a name could be read, or a request that an inspected rule refuses. */
  | {
      readonly kind: 'denied';
      readonly source: string;
      readonly destination: string;
      readonly port: number;
      readonly rule: CheckRule;
      readonly explanation: string;
    }
  | { readonly kind: 'authority'; readonly id: number; readonly certificatePem: string }
  | {
      readonly kind: 'passed';
      readonly source: string;
      readonly name: string;
      readonly port: number;
      readonly connections: number;
      readonly egressBytes: number;
      readonly ingressBytes: number;
    };

/** The built-in rules of the name check, as denials name them. */
export type CheckRule =
  | 'egress'
  | 'egress.never'
  | 'check.name'
  | 'check.no-name'
  | 'check.protocol'
  | 'check.slow'
  | 'check.size'
  | 'check.request'
  | 'check.upstream';

export type CheckQuestion = {
  readonly source: string;
  /** As the connection showed it, bounded and printable; the gate makes it canonical. */
  readonly name: string;
  readonly port: number;
  readonly protocol: 'tls' | 'http';
};

export type CheckVerdict =
  | {
      readonly kind: 'open';
      /** Canonical. */
      readonly name: string;
      /** Approved for this very name and run; tried in order. */
      readonly addresses: readonly string[];
      readonly inspect: boolean;
      readonly requests: readonly FenceRequestRule[];
    }
  /** The gate has recorded the denial; `explanation` is what the agent is told. */
  | { readonly kind: 'refuse'; readonly rule: CheckRule; readonly explanation: string; readonly line: string | null };
