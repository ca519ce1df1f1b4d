/** The words of the contract about how a run is bound, measured and ended. */

export const LIMITS = ['cpu', 'memory', 'pids', 'disk', 'files', 'bandwidth', 'io', 'gpu'] as const;
export type LimitName = (typeof LIMITS)[number];

export const BUDGETS = ['wall', 'cpu', 'gpu', 'egress', 'ingress', 'connections', 'denials'] as const;
export type BudgetName = (typeof BUDGETS)[number];

/** What the supervisor does about a breach, mildest first. */
export const ACTIONS = ['warn', 'throttle', 'pause', 'stop', 'kill'] as const;
export type Action = (typeof ACTIONS)[number];

/** What holds a bound on this host: the kernel, a driver, our own sampling and killing, or nothing. */
export const RUNGS = ['kernel', 'driver', 'watchdog', 'none'] as const;
export type Rung = (typeof RUNGS)[number];

export const REASONS = [
  'exited',
  'oom',
  'budget.wall',
  'budget.cpu',
  'budget.gpu',
  'budget.egress',
  'budget.ingress',
  'budget.connections',
  'budget.denials',
  'limit.pids',
  'limit.disk',
  'limit.gpu',
  'egress.forbidden',
  'enforcement.mismatch',
  'enforcement.lost',
  'stopped',
  'killed',
  'supervisor.lost',
  'engine.failed',
  'refused',
] as const;
export type Reason = (typeof REASONS)[number];

/** What a run has used. Counters of the kernel, cumulative over the run unless named a peak. `null`: not measured. */
export type Usage = {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly cpuThrottledMs: number;
  readonly memoryBytes: number;
  readonly memoryBytesPeak: number;
  readonly pids: number;
  readonly pidsPeak: number;
  /** Of what `limits.disk` bounds. */
  readonly diskBytes: number | null;
  /** Of each mount with a size, by its rule: `mounts[0].size`. */
  readonly mountBytes: Readonly<Record<string, number>>;
  /** The rules of what had no room left when it was last looked at: `limits.disk`, `mounts[0].size`. */
  readonly diskFull: readonly string[];
  readonly egressBytes: number;
  readonly ingressBytes: number;
  readonly connections: number;
  readonly denials: number;
  readonly oomKills: number;
  readonly pidsRefusals: number;
  /** GPU-seconds, integrated from utilisation, and the memory held on devices. */
  readonly gpuMs: number | null;
  readonly gpuMemoryBytes: number | null;
  readonly gpuMemoryBytesPeak: number | null;
};

export const USAGE_NONE: Usage = {
  wallMs: 0,
  cpuMs: 0,
  cpuThrottledMs: 0,
  memoryBytes: 0,
  memoryBytesPeak: 0,
  pids: 0,
  pidsPeak: 0,
  diskBytes: null,
  mountBytes: {},
  diskFull: [],
  egressBytes: 0,
  ingressBytes: 0,
  connections: 0,
  denials: 0,
  oomKills: 0,
  pidsRefusals: 0,
  gpuMs: null,
  gpuMemoryBytes: null,
  gpuMemoryBytesPeak: null,
};

/** A bound as the record states it: `limits.memory`, its value in base units, and what holds it here. */
export type Bound = {
  readonly path:
    | `limits.${LimitName}`
    | 'limits.gpu.memory'
    | `budget.${BudgetName}`
    | `mounts[${number}].size`
    | 'egress';
  readonly value: number | null;
  readonly unit: 'millicores' | 'bytes' | 'count' | 'ms' | 'bit/s' | 'byte/s' | 'rules';
  readonly rung: Rung;
};

/** One refused attempt to leave, as the kernel or the DNS gate reported it. Every string here is bounded and printable. */
export type Denial = {
  readonly kind: 'packet' | 'name' | 'spoof' | 'budget';
  readonly at: string;
  /** An address, or for `name` the canonical name asked (or the printable form of what was not a name). */
  readonly destination: string;
  readonly port: number | null;
  readonly protocol: string;
  /** The profile path or the built-in rule that decided: `egress`, `egress.never`, `dns.type`, `budget.egress`. */
  readonly rule: string;
  readonly explanation: string;
};

/** A limit or budget crossed, or a forbidden thing tried. Made on the kill path, so it holds facts only. */
export type Breach = {
  readonly reason: Reason;
  /** The profile path that decided: `budget.cpu`, `limits.pids`, `egress`. */
  readonly rule: string;
  readonly measured: number;
  readonly limit: number;
  readonly unit: string;
  readonly action: Action;
  readonly denial: Denial | null;
};

/** Milliseconds since the start of the run (monotonic) for each step of ending it; `null` where it did not happen. */
export type EndTimes = {
  readonly detectedMs: number | null;
  readonly signalledMs: number | null;
  readonly emptyMs: number | null;
};

/** The rule of a run that was stopped by a signal of its caller because no agent was there yet to take it. */
export const RULE_SIGNAL = 'signal';

/** How a run ended: set once, the first reason wins. The keys are a contract. */
export type Outcome = {
  readonly runId: string;
  readonly profile: string;
  readonly profileDigest: string;
  readonly imageDigest: string | null;
  readonly reason: Reason;
  readonly rule: string | null;
  readonly detail: string;
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly startedAt: string | null;
  readonly endedAt: string;
  readonly usage: Usage;
  readonly limits: readonly Bound[];
  readonly rungs: Readonly<Record<string, Rung>>;
  readonly detectedAt: string | null;
  readonly killedAt: string | null;
  /** From detection to the empty cgroup, in milliseconds. */
  readonly latencyMs: number | null;
  readonly incidentId: string | null;
};
