import type { RunIds } from '../ids.ts';
import type { Denial } from '../outcome.ts';
import type { ApprovalLifetime, HeldRequest } from '../approval.ts';

/**
 * The egress fence of a host: base rules put in force once, one /30 per run. `install`, `lease` and `arm` happen before
 * the container exists; nothing that a run can do changes a rule. Failures throw FENCE_FAILED.
 */
export type Fence = {
  /** Puts the base rules in force, for IPv4 and IPv6, and reads them back. Idempotent. */
  install(): Promise<void>;
  /** True when the base rules read back from the kernel are exactly ours and where they must be. */
  verify(): Promise<FenceState>;
  /** Takes a free /30 for a run; never one in use by the host, the engine or a run that is not cleaned up. */
  lease(runId: string): FenceLease;
  /** Opens written addresses, sets the byte budget and tells the DNS gate the names; reads everything back. */
  arm(grant: FenceGrant): Promise<void>;
  /**
   * Puts the bandwidth of a grant in force, both ways, and reads it back. The bridge has to exist, so this comes after
   * the network is made and before the container starts. Idempotent; without a bandwidth it takes a former one away.
   */
  shape(grant: FenceGrant): Promise<void>;
  /**
   * Swaps the grant of a run that is armed. What is not in the new one is closed before this resolves: entries gone,
   * open connections cut. Budgets count on from where they were. A failure leaves the run silenced, never half open.
   */
  change(grant: FenceGrant): Promise<void>;
  /** Opens what a person approved, for that run and that time. Never a never-range, whoever approved it. */
  approve(runId: string, request: HeldRequest, lifetime: ApprovalLifetime): Promise<void>;
  /** The request was denied or nobody came: what waits for it is refused now, and what comes later at once. */
  deny(runId: string, request: HeldRequest): Promise<void>;
  /** Bytes out per destination, busiest first, at most DESTINATIONS_MAX. */
  destinations(runId: string): Promise<readonly FenceDestination[]>;
  /** How much of ours is in the kernel: base rules, and entries of each set. */
  figures(): Promise<FenceFigures>;
  /** Bytes counted by the kernel for a run so far. */
  counters(runId: string): Promise<FenceCounters>;
  /** Silences the run, forgets its grants and connections, and only then frees its /30. Idempotent. */
  disarm(runId: string): Promise<void>;
  /** Removes every grant of runs not named here: what a crash left. */
  collectGarbage(runIdsToKeep: RunIds): Promise<readonly string[]>;
  /** Removes everything of ours from the host. */
  uninstall(): Promise<void>;
};

export type FenceState =
  | { readonly kind: 'in-force' }
  | { readonly kind: 'broken'; readonly findings: readonly string[] };

export type FenceLease = {
  readonly runId: string;
  readonly bridge: string;
  readonly subnet: string;
  readonly gateway: string;
  readonly address: string;
};

export type FencePort = { readonly port: number; readonly protocol: 'tcp' | 'udp' };

export type FenceName = {
  readonly name: string;
  readonly wildcard: boolean;
  readonly ports: readonly (FencePort & { readonly check: 'tls' | 'http' | null })[];
  readonly text: string;
  /** Held until a person decides. */
  readonly ask: boolean;
  readonly inspect: boolean;
  readonly requests: readonly FenceRequestRule[];
};

export type FenceRequestRule = {
  readonly text: string;
  readonly method: string;
  readonly path: string;
  readonly pathPrefix: boolean;
};

export type FenceAddress = {
  readonly network: string;
  readonly prefixLength: number;
  readonly ports: readonly FencePort[];
  readonly text: string;
  readonly ask: boolean;
};

export type FenceGrant = {
  readonly lease: FenceLease;
  readonly names: readonly FenceName[];
  readonly addresses: readonly FenceAddress[];
  readonly egressBytesMax: number | null;
  readonly ingressBytesMax: number | null;
  readonly connectionsMax: number | null;
  /** Each direction by itself. */
  readonly bandwidthBitsPerSecond: number | null;
};

export const DESTINATIONS_MAX = 64;

export type FenceDestination = {
  readonly address: string;
  readonly port: number;
  readonly protocol: 'tcp' | 'udp';
  readonly egressBytes: number;
  readonly packets: number;
};

export type FenceFigures = { readonly rules: number; readonly entries: Readonly<Record<string, number>> };

export type FenceCounters = {
  readonly egressBytes: number;
  readonly ingressBytes: number;
  readonly connections: number;
  readonly deniedPackets: number;
};

/** What the DNS gate and the packet feed report about a run that the source address identifies. */
export type FenceDenial = { readonly address: string; readonly denial: Denial; readonly suppressed: number };
