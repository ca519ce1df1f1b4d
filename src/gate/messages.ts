import type { ApprovalLifetime, HeldRequest } from '../core/approval.ts';
import type { FenceGrant } from '../core/ports/fence.ts';
import type { NeverRange } from '../policy/egress.ts';
import type { Upstream } from './upstream.ts';

/** What the daemon and the gate say to each other over the IPC channel of the child process. */
export type GateConfig = {
  readonly port: number;
  readonly pool: string;
  readonly upstreams: readonly Upstream[];
  readonly neverRanges: readonly NeverRange[];
  /** True when descriptor 4 leads to the warden. */
  readonly wardenPipe: boolean;
  /** Where connections that show a name are led; the gate's own child listens there. */
  readonly checkPort: number;
  /** How long a question or a connection that waits for a person is held before the agent hears `not yet`. */
  readonly holdMs: number;
};

export type GateGrant = { readonly address: string; readonly names: FenceGrant['names'] };

export type GateRequest =
  | { readonly kind: 'start'; readonly config: GateConfig; readonly grants: readonly GateGrant[] }
  | { readonly kind: 'grant'; readonly id: number; readonly grant: GateGrant }
  | { readonly kind: 'revoke'; readonly id: number; readonly address: string }
  /** Swaps the names of a run; connections through the checker that the new ones do not allow are closed first. */
  | { readonly kind: 'change'; readonly id: number; readonly grant: GateGrant }
  | {
      readonly kind: 'decide';
      readonly id: number;
      readonly address: string;
      readonly request: HeldRequest & { readonly kind: 'name' };
      /** null: denied. */
      readonly lifetime: ApprovalLifetime | null;
    }
  /** Makes the certificate authority of a run with inspected names; its private key stays where it is made. */
  | { readonly kind: 'authority'; readonly id: number; readonly address: string; readonly runId: string }
  | { readonly kind: 'stats'; readonly id: number };

export type GateReport =
  | { readonly kind: 'listening' }
  /** Every `TURNING_MS` from then on. */
  | { readonly kind: 'turning' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'done'; readonly id: number }
  /** The request could not be carried out, or not whole. */
  | { readonly kind: 'refused'; readonly id: number; readonly message: string }
  | { readonly kind: 'authority'; readonly id: number; readonly certificatePem: string }
  /** A name under `ask` waits for a person. Once per name until it is decided. */
  | { readonly kind: 'asked'; readonly address: string; readonly request: HeldRequest & { readonly kind: 'name' } }
  /** Bytes of one name of a run through the checker since the last report. */
  | {
      readonly kind: 'passed';
      readonly address: string;
      readonly name: string;
      readonly port: number;
      readonly connections: number;
      readonly egressBytes: number;
      readonly ingressBytes: number;
    }
  | { readonly kind: 'stats'; readonly id: number; readonly stats: GateStats };

/** Counts since the gate started. */
export type GateStats = {
  readonly queries: number;
  readonly answered: number;
  readonly refused: number;
  readonly malformed: number;
  readonly unknownSource: number;
  readonly limited: number;
  readonly failed: number;
  readonly denialsLost: number;
};
