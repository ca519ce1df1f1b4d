import type { WardenReport, WatchPlan } from '../core/ports/warden.ts';
import type { Traffic } from '../meter/traffic.ts';

/** What a watched run has of the loop that it is in. */
export type RunWorld = {
  /** Milliseconds since boot. */
  now(): number;
  report(report: WardenReport): void;
  /** Takes the run's way out of the network away. Never throws. */
  silence(plan: WatchPlan): void;
  traffic: Traffic['of'];
  /** The descriptors that a run wants to be woken by are others than before. */
  descriptorsChanged(): void;
  /** When the daemon was lost, or null while it is there. */
  daemonLostAtMs(): number | null;
  readonly cpusOnline: number;
  readonly egressHeldByKernel: boolean;
};
