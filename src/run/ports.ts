import type { Bound, Breach } from '../core/outcome.ts';
import type { ContainerPlan, Engine, NetworkPlan } from '../core/ports/engine.ts';
import type { Fence, FenceGrant, FenceLease } from '../core/ports/fence.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { CgroupPaths, Warden, WatchBounds, WatchPlan } from '../core/ports/warden.ts';
import type { Spec } from '../profile/spec.ts';
import type { Mismatch, Stamp } from './events.ts';
import type { RunState } from './state.ts';

/** The world of one run, as its driver sees it. The composer fills it; the simulator fills it with fakes. */
export type RunPorts = {
  readonly engine: Engine;
  readonly fence: Fence;
  readonly warden: Warden;
  readonly ledger: Ledger;
  readonly cgroups: RunCgroups;
  readonly plans: RunPlans;
  /** Puts the secrets where only the agent can read them; returns what removes them again. */
  stageSecrets(): Promise<{ unstage(): Promise<void> }>;
  /** Makes the run's own authority known to its container, where the profile inspects; the fence is armed by then. */
  stageTrust(lease: FenceLease): Promise<{ unstage(): Promise<void> }>;
  /** Compares what the kernel and the engine hold with the plan. An empty list: everything is in force. */
  readBack(options: { readonly containerId: string; readonly plan: ContainerPlan }): Promise<ReadBack>;
  /** Reads the base rules of the fence back: what is not as it must be. Never rejects; not being able to read is a finding. */
  fenceFindings(): Promise<readonly string[]>;
  /**
   * Takes the evidence that goes with the container, writes the incident, sets the quarantine and queues the alerts.
   * Resolves within seconds, when the incident is on its way to the disk; never rejects.
   */
  openIncident(state: RunState, incidentId: string): Promise<void>;
  /** Records what the run was let through, while the fence still knows. Resolves within a second, never rejects. */
  settleTraffic(): Promise<void>;
  /** Queues the news that the run is held for the sinks of its profile. Never throws, never waits. */
  notifyHeld(state: RunState, breach: Breach): void;
  now(): Stamp;
};

export type ReadBack = {
  readonly mismatches: readonly Mismatch[];
  readonly bounds: readonly Bound[];
  /** What could not be read because the agent was already over; null when everything was read. */
  readonly note: string | null;
};

export type RunCgroups = {
  make(runId: string): Promise<CgroupPaths>;
  remove(runId: string): Promise<void>;
  /** Before the container is started: bounds what the kernel does not count as its memory. */
  holdSockets(options: {
    readonly parentPaths: CgroupPaths;
    readonly containerId: string;
    readonly bytesMax: number;
  }): void;
  leafPathsOf(pid: number): CgroupPaths;
  /** The way to kill that needs neither the warden nor the engine. Returns the pids still there. */
  killNow(paths: CgroupPaths): Promise<readonly number[]>;
};

export type RunPlans = {
  network(lease: FenceLease): NetworkPlan;
  container(lease: FenceLease): ContainerPlan;
  /** These three follow the profile that the run is held to now, which may not be the one it was launched with. */
  grant(lease: FenceLease, spec: Spec): FenceGrant;
  watch(lease: FenceLease, parentPaths: CgroupPaths, spec: Spec): WatchPlan;
  bounds(spec: Spec): WatchBounds;
};
