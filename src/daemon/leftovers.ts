import type { RunIds } from '../core/ids.ts';
import { fail, messageOf } from '../core/errors.ts';
import type { Outcome } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { Engine, EngineFacts } from '../core/ports/engine.ts';
import type { Fence } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { EndedRun, OpenRun } from '../ledger/replay.ts';
import { listRunCgroups } from '../meter/cgroup.ts';
import { LABEL_RUN } from '../run/plan.ts';
import type { RunCgroups } from '../run/ports.ts';
import { reconcile } from './reconcile.ts';
import { cgroupsFor } from './run-ports.ts';
import type { SecretStore } from './secrets.ts';
import type { TrustDesk } from './trust-desk.ts';

export type LeftoverParts = {
  readonly engine: Engine;
  readonly fence: Fence;
  readonly ledger: Ledger;
  readonly secretStore: Pick<SecretStore, 'collectGarbage'>;
  readonly trust: Pick<TrustDesk, 'collectGarbage'>;
  readonly log: Log;
  readonly engineFacts: EngineFacts;
  /** Of the host, now. */
  readonly bootId: string;
  /** Left out: those of this host. */
  readonly cgroups?: LeftoverCgroups;
};

type LeftoverCgroups = Pick<RunCgroups, 'make' | 'killNow' | 'remove'> & { list(): readonly string[] };

const HOW_LOST = 'the daemon went away before the run was over; the next one ended it';
/** What has not died of so many looks sleeps in the kernel. */
const KILL_TRIES_MAX = 40;
const KILL_TRY_MS = 50;

export type Cleaned = {
  readonly removed: readonly string[];
  /** What is ours and is still there, because its removal failed. */
  readonly left: readonly string[];
  readonly foreign: readonly string[];
  /** The runs that were left open, with the outcome that they have now. */
  readonly ended: readonly EndedRun[];
};

/** Finds what a crash left, ends the runs that were left open, and removes exactly what is ours. */
export async function removeLeftovers(
  known: {
    readonly open: readonly OpenRun[];
    readonly admittedRunIds: RunIds;
    /** Asked anew for each thing: a run may begin meanwhile. */
    readonly aliveRunIds: RunIds;
  },
  parts: LeftoverParts,
): Promise<Cleaned> {
  const { engine, fence, ledger, secretStore, log, engineFacts } = parts;
  const cgroups = parts.cgroups ?? { ...cgroupsFor(engineFacts), list: listRunCgroups };
  const [containers, networks] = await Promise.all([engine.listContainers(LABEL_RUN), engine.listNetworks(LABEL_RUN)]);
  const todo = reconcile({ containers, networks, cgroupRunIds: cgroups.list(), ...known });
  const removed: string[] = [];
  const left: string[] = [];
  const remove = async (what: string, work: () => Promise<void>): Promise<void> => {
    try {
      await work();
      removed.push(what);
    } catch (error) {
      left.push(what);
      log.warn({ what, message: messageOf(error) }, 'a leftover could not be removed');
    }
  };
  // Silence first: what may still run must not talk while the rest is taken apart.
  for (const runId of await fence.collectGarbage(known.aliveRunIds)) removed.push(`grants of ${runId}`);
  // An engine that fails must not keep alive what nobody holds any more.
  for (const runId of todo.cgroupRunIds) {
    await killAll(runId, cgroups).catch((error: unknown) =>
      log.warn({ runId, message: messageOf(error) }, 'what is left of a run could not be ended'),
    );
  }
  for (const id of todo.containerIds) await remove(`container ${id.slice(0, 12)}`, () => engine.removeContainer(id));
  for (const id of todo.networkIds) await remove(`network ${id.slice(0, 12)}`, () => engine.removeNetwork(id));
  for (const runId of todo.cgroupRunIds) await remove(`cgroup ${runId}`, () => cgroups.remove(runId));
  for (const runId of await secretStore.collectGarbage(known.aliveRunIds)) removed.push(`secrets of ${runId}`);
  for (const runId of await parts.trust.collectGarbage(known.aliveRunIds)) removed.push(`trust of ${runId}`);
  const ended: EndedRun[] = [];
  for (const run of todo.ended) {
    const { runId, profile, admittedAt } = run;
    const outcome = lostOutcome(run, { endedAt: new Date().toISOString(), bootId: parts.bootId });
    await ledger.append({ kind: 'run.ended', runId, profile, outcome }).flushed;
    ended.push({ admittedAt, outcome });
  }
  for (const what of todo.foreign) log.warn({ what }, 'carries our label and was not made by this daemon; left alone');
  return { removed, left, foreign: todo.foreign, ended };
}

async function killAll(runId: string, cgroups: LeftoverCgroups): Promise<void> {
  const paths = await cgroups.make(runId);
  for (let attempt = 1; ; attempt += 1) {
    const pids = await cgroups.killNow(paths);
    if (pids.length === 0) return;
    if (attempt >= KILL_TRIES_MAX) throw fail('INTERNAL', { detail: `${pids.length} processes do not die` });
    await new Promise((resolve) => {
      setTimeout(resolve, KILL_TRY_MS);
    });
  }
}

/** The end of a run whose daemon went away: what it used is not known any more, and that is said. */
function lostOutcome(run: OpenRun, now: { readonly endedAt: string; readonly bootId: string }): Outcome {
  const { endedAt, bootId } = now;
  const hostWentDown = run.bootId !== null && run.bootId !== bootId;
  const how = hostWentDown ? 'the host went down while it ran' : HOW_LOST;
  const text = (field: string): string => (typeof run.admission[field] === 'string' ? run.admission[field] : '');
  return {
    runId: run.runId,
    profile: run.profile,
    profileDigest: text('profileDigest'),
    imageDigest: text('imageDigest') === '' ? null : text('imageDigest'),
    reason: run.breach?.breach.reason ?? 'supervisor.lost',
    rule: run.breach?.breach.rule ?? null,
    detail: `${how}. Its use is not known.`,
    exitCode: null,
    signal: null,
    startedAt: null,
    endedAt,
    usage: USAGE_NONE,
    limits: [],
    rungs: {},
    detectedAt: null,
    killedAt: endedAt,
    latencyMs: null,
    incidentId: run.incidentId,
  };
}
