import type { RunIds } from '../core/ids.ts';
import { LABEL_RUN } from '../run/plan.ts';
import type { ContainerSummary, NetworkFacts } from '../core/ports/engine.ts';
import type { OpenRun } from '../ledger/replay.ts';

/** What carries our labels or our names on this host, and what the ledger knows. */
export type Found = {
  readonly containers: readonly ContainerSummary[];
  readonly networks: readonly NetworkFacts[];
  readonly cgroupRunIds: readonly string[];
  readonly open: readonly OpenRun[];
  /** Run ids that this ledger has ever admitted: alive, open or ended. */
  readonly admittedRunIds: RunIds;
  readonly aliveRunIds: RunIds;
};

export type Reconciled = {
  /** Ours, not alive under this daemon: removed. */
  readonly containerIds: readonly string[];
  readonly networkIds: readonly string[];
  readonly cgroupRunIds: readonly string[];
  /** Runs that the ledger calls open: they get their end. */
  readonly ended: readonly OpenRun[];
  /** With our label and not in our ledger: somebody else's, or a forgery. Reported and left alone. */
  readonly foreign: readonly string[];
};

/**
 * What to do with everything found at start and by `gc`. Pure, so that the table below is the whole truth:
 *
 *   label names a run that …      the thing is …
 *   is alive under this daemon    kept
 *   this ledger admitted          removed; if the run is open it ends as `supervisor.lost`
 *   this ledger never admitted    reported and left alone (another daemon's, or a forgery)
 */
export function reconcile(found: Found): Reconciled {
  const isStale = (runId: string | undefined): boolean =>
    runId !== undefined && !found.aliveRunIds.has(runId) && found.admittedRunIds.has(runId);
  const isForeign = (runId: string | undefined): boolean =>
    runId === undefined || !(found.admittedRunIds.has(runId) || found.aliveRunIds.has(runId));
  return {
    containerIds: found.containers.filter(({ labels }) => isStale(labels[LABEL_RUN])).map(({ id }) => id),
    networkIds: found.networks.filter(({ labels }) => isStale(labels[LABEL_RUN])).map(({ id }) => id),
    cgroupRunIds: found.cgroupRunIds.filter((runId) => isStale(runId)),
    ended: found.open.filter(({ runId }) => !found.aliveRunIds.has(runId)),
    foreign: [
      ...found.containers.filter(({ labels }) => isForeign(labels[LABEL_RUN])).map(({ name }) => `container ${name}`),
      ...found.networks.filter(({ labels }) => isForeign(labels[LABEL_RUN])).map(({ name }) => `network ${name}`),
    ],
  };
}
