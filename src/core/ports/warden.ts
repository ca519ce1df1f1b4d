import type { Action, Breach, Denial, EndTimes, Reason, Usage } from '../outcome.ts';

/**
 * The warden is the kill path: a process of its own that reads kept-open cgroup files and the denied-packet feed in a
 * synchronous loop, decides by the same pure policy as everybody else, cuts the network and kills, and only then tells.
 * These are the messages over its pipe, one JSON value a line.
 */
export type WardenRequest =
  | { readonly kind: 'watch'; readonly watch: WatchPlan }
  /** The container runs: open the pidfd and the files of its own cgroup. `cgroupPaths` by controller, absolute. */
  | {
      readonly kind: 'started';
      readonly runId: string;
      readonly pid: number;
      readonly leafPaths: CgroupPaths;
      readonly startedAtBootMs: number;
    }
  | { readonly kind: 'kill'; readonly runId: string; readonly reason: Reason }
  /** SIGTERM to the first process now, SIGKILL to all after the grace. */
  | { readonly kind: 'stop'; readonly runId: string; readonly reason: Reason; readonly graceMs: number }
  | { readonly kind: 'sample'; readonly runId: string }
  /** What the driver tells of the run, as soon as it is told: the warden judges it, and notices when it stays away. */
  | ({ readonly kind: 'gpu'; readonly runId: string } & GpuTold)
  /**
   * Other bounds for a run that is watched; what was used and refused counts on. Answered by `changed` or `refused`. A
   * run that was slowed down is fast again when no budget that says `throttle` is used up any more; a pause stays.
   */
  | { readonly kind: 'change'; readonly runId: string; readonly bounds: WatchBounds }
  /**
   * Ends a pause by hand: the run is thawed, and each budget that paused it is granted once more, beginning at what is
   * used now. Answered by `resumed` or `refused`. What the kernel has cut off the fence must have opened before.
   */
  | { readonly kind: 'resume'; readonly runId: string }
  | { readonly kind: 'unwatch'; readonly runId: string };

export type WatchPlan = {
  readonly runId: string;
  /** The source address of the run: what identifies it in the denied-packet feed. */
  readonly address: string;
  readonly bridge: string;
  readonly subnet: string;
  /** The cgroup made for the run before the container: its counters outlive the container. */
  readonly parentPaths: CgroupPaths;
} & WatchBounds;

/** The part of a watch that a changed profile changes. */
export type WatchBounds = {
  readonly budgets: readonly BudgetPlan[];
  readonly graceMs: number;
  readonly warnAt: readonly number[];
  /** `agent`: the first OOM kill of any of its processes ends the whole run. */
  readonly onOom: 'agent' | 'process';
  /** End the run when the daemon has been gone for this long; null keeps it under the warden alone. */
  readonly killWithoutDaemonAfterMs: number | null;
  /** Null: the run has no device, and using one is a breach. */
  readonly gpu: GpuBounds | null;
};

export type GpuBounds = {
  readonly memoryBytesMax: number | null;
  readonly hostMemoryBytesMax: number;
  /** End the run when nothing was told of its devices for this long; null lets it go on unmeasured. */
  readonly silentMsMax: number | null;
};

export type GpuTold = {
  /** GPU-seconds of the run so far; null when nothing could be read. */
  readonly busyMs: number | null;
  readonly memoryBytes: number;
  /** Of the host, held by the driver for the run, and counted by none of its cgroups. */
  readonly hostMemoryBytes: number;
  /** A device that a process of the run uses and that was not granted to it. */
  readonly ungranted: string | null;
};

/**
 * Absolute directories; on cgroup v2 every key is the same one. `unified` is null where there is no v2 hierarchy.
 * On v1 CPU time is counted by `cpuacct`, which may be mounted apart from `cpu`, the holder of the CPU limit.
 */
export type CgroupPaths = {
  readonly cpu: string;
  readonly cpuacct: string;
  readonly memory: string;
  readonly pids: string;
  /** Only on v1, where a frozen process does not die before it is thawed. */
  readonly freezer: string | null;
  readonly unified: string | null;
};

export type BudgetPlan =
  | { readonly budget: 'wall' | 'cpu' | 'gpu'; readonly limitMs: number; readonly action: Action }
  | { readonly budget: 'egress' | 'ingress'; readonly limitBytes: number; readonly action: Action }
  | { readonly budget: 'connections'; readonly count: number; readonly action: Action }
  | { readonly budget: 'denials'; readonly count: number; readonly windowMs: number | null; readonly action: Action };

/** How long a launch may take: the daemon ends a longer one, and the warden waits no longer for one whose daemon died. */
export const LAUNCH_MS_MAX = 60_000;

export type WardenReport =
  | { readonly kind: 'ready'; readonly killRung: 'cgroup.kill' | 'pidfd'; readonly feed: boolean }
  /** Somebody, perhaps ourselves, changed rules of the packet filter. */
  | { readonly kind: 'rules-changed' }
  | { readonly kind: 'watching'; readonly runId: string }
  | { readonly kind: 'changed'; readonly runId: string }
  /** A packet to an address under `ask` waits; one report a destination and second at most. */
  | {
      readonly kind: 'asked';
      readonly runId: string;
      readonly address: string;
      readonly port: number;
      readonly protocol: 'tcp' | 'udp';
    }
  /**
   * An action milder than an end was taken and read back: the run is slowed down, or stands still until a person
   * decides. Its wall time goes on meanwhile. What the kernel does not hold to it is ended instead.
   */
  | { readonly kind: 'held'; readonly runId: string; readonly breach: Breach; readonly usage: Usage }
  | { readonly kind: 'resumed'; readonly runId: string }
  | {
      readonly kind: 'refused';
      readonly runId: string;
      readonly request: WardenRequest['kind'];
      readonly message: string;
    }
  | { readonly kind: 'sampled'; readonly runId: string; readonly usage: Usage }
  | {
      readonly kind: 'warned';
      readonly runId: string;
      readonly rule: string;
      readonly measured: number;
      readonly limit: number;
      readonly unit: string;
      readonly fraction: number;
    }
  /** `suppressed`: further denials since the last report that the kernel or we did not report one by one. */
  | { readonly kind: 'denied'; readonly runId: string; readonly denial: Denial; readonly suppressed: number }
  | {
      readonly kind: 'breached';
      readonly runId: string;
      readonly breach: Breach;
      readonly usage: Usage;
      readonly times: EndTimes;
      /** The busiest processes as they were just before the signal; empty when nothing ran any more. */
      readonly processes: readonly ProcessFacts[];
    }
  /** The cgroup of the run is empty. Sent once; final counters, read before they could vanish. */
  | {
      readonly kind: 'emptied';
      readonly runId: string;
      readonly usage: Usage;
      readonly times: EndTimes;
      readonly breach: Breach | null;
    }
  /** SIGKILL was sent and the cgroup is still not empty after the deadline: cut off and reported, not retried. */
  | { readonly kind: 'undead'; readonly runId: string; readonly pids: readonly number[] }
  /** How late the looks since the last such report were. Sent every few seconds, and only when something was looked at. */
  | ({ readonly kind: 'late' } & Lateness)
  /** The loop turns: sent every so often where a watchdog wants to hear so. */
  | { readonly kind: 'turning' };

export type Lateness = {
  /** One for each bound of `warden/lateness.ts`: the looks that were late by at most that, and by more than the one before. */
  readonly counts: readonly number[];
  /** All of them, later ones included. */
  readonly count: number;
  readonly sumMs: number;
};

/**
 * A line of the gate to the warden beside its denials: an allowed name of a run was answered with these addresses. Then
 * refused packets to several of them within a moment are one attempt of the agent.
 */
export type NameResolved = {
  readonly kind: 'resolved';
  /** The source address of the run. */
  readonly address: string;
  /** Canonical. */
  readonly name: string;
  readonly addresses: readonly string[];
};

/**
 * Command lines are read ahead, by a process that may hang, and never by what kills. `at`: when it was; a process may have
 * written something else there since.
 */
export type ArgvSource =
  | { readonly kind: 'read'; readonly at: string }
  | { readonly kind: 'unread'; readonly why: string };

/** A process of a run. Every string is bounded and printable. */
export type ProcessFacts = {
  readonly pid: number;
  /** Its start, in ticks since boot: what tells it from a later process of the same number. */
  readonly startTicks: number;
  readonly executable: string;
  /** Empty as the warden tells it. */
  readonly argv: readonly string[];
  /** Null where nobody looked. */
  readonly argvSource: ArgvSource | null;
  /** Names of the processes above it, nearest first. */
  readonly parents: readonly string[];
  readonly cpuMs: number;
};

export type Warden = {
  send(request: WardenRequest): void;
  /** Resolves with the answer to `watch`; rejects METER_FAILED when a counter cannot be opened. */
  watch(plan: WatchPlan): Promise<void>;
  /** Resolves with the answer to `change`; rejects METER_FAILED when the run cannot be held to the new bounds. */
  change(runId: string, bounds: WatchBounds): Promise<void>;
  sample(runId: string): Promise<Usage>;
};
