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
};

export type GateGrant = { readonly address: string; readonly names: FenceGrant['names'] };

export type GateRequest =
  | { readonly kind: 'start'; readonly config: GateConfig; readonly grants: readonly GateGrant[] }
  | { readonly kind: 'grant'; readonly id: number; readonly grant: GateGrant }
  | { readonly kind: 'revoke'; readonly id: number; readonly address: string }
  | { readonly kind: 'stats'; readonly id: number };

export type GateReport =
  | { readonly kind: 'listening' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'done'; readonly id: number }
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
