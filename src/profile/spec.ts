import type { Action, BudgetName } from '../core/outcome.ts';

/** A profile resolved: every value explicit, in base units, host paths absolute, with the digest of the exact text. */
export type Spec = {
  readonly name: string;
  readonly description: string;
  readonly owner: string;
  /** `sha256:` and 64 hex digits over the bytes of the file. */
  readonly profileDigest: string;
  readonly image: string;
  /** What the agent runs; after admission never empty. */
  readonly command: readonly string[];
  /** True when the profile says `command: any`, so that the caller chooses. */
  readonly commandFromCaller: boolean;
  readonly user: { readonly uid: number; readonly gid: number };
  readonly env: Readonly<Record<string, string>>;
  readonly secrets: readonly SecretGrant[];
  readonly mounts: readonly MountGrant[];
  readonly limits: SpecLimits;
  readonly budget: SpecBudget;
  readonly egress: { readonly allow: readonly EgressRule[]; readonly ask: readonly EgressRule[] };
  /** The action for each budget; every budget has one. */
  readonly on: Readonly<Record<BudgetName, Action>>;
  readonly graceMs: number;
  readonly quarantine: boolean;
  readonly supervisorLost: { readonly action: 'keep' | 'kill'; readonly forMs: number };
  /** What happens to a run with a GPU when its use cannot be measured. */
  readonly telemetryLost: { readonly action: 'keep' | 'kill'; readonly forMs: number };
  /** Fractions of a budget, ascending, each in (0, 1). */
  readonly warnAt: readonly number[];
  readonly alerts: readonly string[];
  /** Bounds that the writer lets run although this host holds them at rung `none`: `limits.gpu.memory`. */
  readonly accept: readonly string[];
};

export type SecretGrant = { readonly env: string; readonly file: string };

export type MountGrant = {
  readonly hostPath: string;
  readonly path: string;
  readonly mode: 'ro' | 'rw';
  readonly sizeBytesMax: number | null;
};

export type SpecLimits = {
  readonly cpuMillis: number;
  readonly memoryBytesMax: number;
  readonly onOom: 'agent' | 'process';
  readonly pidsMax: number;
  readonly diskBytesMax: number;
  readonly filesMax: number;
  readonly bandwidthBitsPerSecond: number | null;
  readonly ioBytesPerSecond: number | null;
  readonly gpu: GpuGrant | null;
};

export type GpuGrant = {
  readonly count: number | null;
  /** Whose cards `count` takes; null: one vendor's, whichever has enough. */
  readonly vendor: 'nvidia' | 'amd' | 'intel' | null;
  readonly devices: readonly string[];
  readonly mig: string | null;
  readonly memoryBytesMax: number | null;
  readonly share: boolean;
};

/** `null`: the profile sets no such budget. */
export type SpecBudget = {
  readonly wallMs: number;
  readonly cpuMs: number | null;
  readonly gpuMs: number | null;
  readonly egressBytes: number | null;
  readonly ingressBytes: number | null;
  readonly connections: number | null;
  readonly denials: DenialBudget | null;
};

/** More than `count` refused attempts within `windowMs` (null: over the whole run) is a breach; 0: the first one is. */
export type DenialBudget = { readonly count: number; readonly windowMs: number | null };

export type PortGrant = { readonly port: number; readonly protocol: 'tcp' | 'udp' };

/**
 * What a connection of a name rule must show before a byte of it is passed on: the name in its TLS hello, or in every
 * request's Host. `null`: nothing, the port is open to the addresses that the name resolved to.
 */
export type NameCheck = 'tls' | 'http' | null;

/** `GET /v1/*`: one line of `requests` of an inspected rule. `pathPrefix`: the path ended in `*`. */
export type RequestRule = {
  readonly text: string;
  /** In capitals; `*` is every method. */
  readonly method: string;
  readonly path: string;
  readonly pathPrefix: boolean;
};

/** One line of `egress.allow` or `egress.ask`. `text` is the line as written, for explanations. */
export type EgressRule =
  | {
      readonly kind: 'name';
      readonly text: string;
      /** Canonical: lower case, ASCII (punycode), no trailing dot, without the `*.`. */
      readonly name: string;
      /** True for `*.name`: one or more labels before it, never the name itself. */
      readonly wildcard: boolean;
      readonly ports: readonly (PortGrant & { readonly check: NameCheck })[];
      readonly inspect: boolean;
      /** Empty: every request of an inspected connection may pass. */
      readonly requests: readonly RequestRule[];
    }
  | {
      readonly kind: 'address';
      readonly text: string;
      /** IPv4 in dotted decimal with no host bits set. */
      readonly network: string;
      readonly prefixLength: number;
      readonly ports: readonly PortGrant[];
    };

/** One thing that differs between two profiles. `before` is null for what is new, `after` for what is gone. */
export type SpecChange = {
  /** Where it stands in the profile: `budget.cpu`, `egress.allow`. */
  readonly path: string;
  readonly before: string | null;
  readonly after: string | null;
  /** `wider`: the agent may do more than before; `tighter`: less; `other`: neither, or both. */
  readonly effect: 'wider' | 'tighter' | 'other';
};
