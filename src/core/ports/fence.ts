import type { Denial } from '../outcome.ts';

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
  /** Bytes counted by the kernel for a run so far. */
  counters(runId: string): Promise<FenceCounters>;
  /** Silences the run, forgets its grants and connections, and only then frees its /30. Idempotent. */
  disarm(runId: string): Promise<void>;
  /** Removes every grant of runs not named here: what a crash left. */
  collectGarbage(runIdsToKeep: ReadonlySet<string>): Promise<readonly string[]>;
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

export type FenceGrant = {
  readonly lease: FenceLease;
  readonly names: readonly {
    readonly name: string;
    readonly wildcard: boolean;
    readonly ports: readonly FencePort[];
    readonly text: string;
  }[];
  readonly addresses: readonly {
    readonly network: string;
    readonly prefixLength: number;
    readonly ports: readonly FencePort[];
  }[];
  readonly egressBytesMax: number | null;
};

export type FenceCounters = {
  readonly egressBytes: number;
  readonly ingressBytes: number;
  readonly deniedPackets: number;
};

/** What the DNS gate and the packet feed report about a run that the source address identifies. */
export type FenceDenial = { readonly address: string; readonly denial: Denial; readonly suppressed: number };
