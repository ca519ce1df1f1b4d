import { dirname } from 'node:path';
import type { Caller, LaunchRequest } from '../api/service.ts';
import { messageOf, RingfenceError } from '../core/errors.ts';
import type { ContainerFacts, Engine } from '../core/ports/engine.ts';
import type { Log } from '../core/ports/log.ts';
import type { LedgerRecord } from '../core/ports/record.ts';
import type { WardenReport } from '../core/ports/warden.ts';
import type { OpenRun } from '../ledger/replay.ts';
import { parseProfile } from '../profile/parse.ts';
import { resolveProfile } from '../profile/resolve.ts';
import { LABEL_RUN } from '../run/plan.ts';
import type { RunPorts } from '../run/ports.ts';
import type { Admission } from './admission.ts';
import { digestOf } from './profile-file.ts';
import type { NewRun, Supervisor } from './supervisor.ts';

export type AdoptionParts = {
  readonly engine: Engine;
  readonly supervisor: Supervisor;
  readonly log: Log;
  /** What the warden did while no daemon was there to hear it. */
  readonly afterlife: readonly WardenReport[];
  /** Of the host, now. */
  readonly bootId: string;
  portsFor(run: NewRun): Promise<RunPorts>;
};

/**
 * Takes over every open run whose container is still the one in the ledger, alive or over. Returns the runs that could
 * not be taken over; they are ended as leftovers. A container that only carries our label is never taken over: the
 * ledger must name it.
 */
export async function adoptRuns(open: readonly OpenRun[], parts: AdoptionParts): Promise<readonly OpenRun[]> {
  const left: OpenRun[] = [];
  for (const run of open) {
    try {
      if (!(await adoptRun(run, parts))) left.push(run);
    } catch (error) {
      parts.log.warn({ runId: run.runId, message: messageOf(error) }, 'run could not be adopted');
      left.push(run);
    }
  }
  return left;
}

async function adoptRun(run: OpenRun, parts: AdoptionParts): Promise<boolean> {
  const { containerId, startedAtMs, runId } = run;
  if (containerId === null || startedAtMs === null) return false;
  if (endedWithHost(run, parts)) return false;
  const container = await inspectPatiently(parts.engine, containerId);
  if (container.labels[LABEL_RUN] !== runId || container.startedAt === null) return false;
  const profile = profileFrom(run.admission);
  if (profile === null) return false;
  const image = await parts.engine.resolveImage(textOf(run.admission, 'imageDigest'));
  const newRun: NewRun = {
    runId,
    adopted: true,
    launchDigest: run.launchDigest ?? profile.spec.profileDigest,
    admission: { ...profile, image },
    request: requestFrom(run.admission),
    caller: callerFrom(run.admission),
    labels: labelsFrom(run.admission),
  };
  const ports = await parts.portsFor(newRun);
  parts.supervisor.adopt(newRun, ports, {
    admittedAt: run.admittedAt,
    admittedSeq: run.admission.seq,
    containerId,
    pid: container.pid,
    startedAt: container.startedAt,
    startedAtMs,
    incidentId: run.incidentId,
    denialsOnRecord: run.denialsOnRecord,
  });
  // Ended for a breach, and the daemon was gone before it could say so: now it is said.
  if (run.breach !== null) {
    const times = { detectedMs: null, signalledMs: null, emptyMs: null };
    parts.supervisor.receive({ kind: 'breached', runId, ...run.breach, times, processes: [] });
  }
  replayAfterlife(runId, parts);
  return true;
}

/**
 * What the engine says of a container after the host came back (an exit code, no time at all) is not how its run ended.
 * What the warden did before the host went down is: such a run is taken over to say so.
 */
function endedWithHost(run: OpenRun, { afterlife, bootId }: AdoptionParts): boolean {
  if (run.bootId === null || run.bootId === bootId) return false;
  return !afterlife.some((report) => report.kind === 'breached' && report.runId === run.runId);
}

/** One lost reply must not cost an agent its life. A container that is not there will not come back. */
async function inspectPatiently(engine: Engine, containerId: string): Promise<ContainerFacts> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await engine.inspectContainer(containerId);
    } catch (error) {
      const isGone = error instanceof RingfenceError && error.facts['statusCode'] === 404;
      if (isGone || attempt >= INSPECT_TRIES_MAX) throw error;
    }
  }
}

const INSPECT_TRIES_MAX = 3;

const ADOPTED_REPORTS: ReadonlySet<WardenReport['kind']> = new Set(['breached', 'warned', 'denied', 'held']);

/**
 * What happened to a run just taken over while no daemon heard of it, before it can come to its end here: a run that is
 * over by now must not be called `exited` while the reason waits behind the other runs. Only what the new warden cannot
 * find out by itself: the end of the processes it sees in the cgroup.
 */
function replayAfterlife(runId: string, { afterlife, supervisor }: AdoptionParts): void {
  for (const report of afterlife) {
    if ('runId' in report && report.runId === runId && ADOPTED_REPORTS.has(report.kind)) supervisor.receive(report);
  }
}

/** The profile as it was admitted: its text is in the ledger, whatever stands in the file today. */
function profileFrom(admission: LedgerRecord): Omit<Admission, 'image'> | null {
  const text = textOf(admission, 'profileText');
  const file = textOf(admission, 'profilePath');
  if (digestOf(text) !== textOf(admission, 'profileDigest')) return null;
  const parsed = parseProfile({ text, file });
  if (!parsed.ok) return null;
  const resolved = resolveProfile({ parsed, digest: digestOf(text), folder: dirname(file) });
  if (!resolved.ok) return null;
  const command = admission['command'];
  if (!Array.isArray(command) || !command.every((word) => typeof word === 'string')) return null;
  // On record it is without what looks like a secret; what the container runs it was given at its launch.
  const spec = resolved.spec.commandFromCaller ? { ...resolved.spec, command } : resolved.spec;
  return { spec, profileText: text, document: parsed.document };
}

function requestFrom(admission: LedgerRecord): LaunchRequest {
  return {
    profilePath: textOf(admission, 'profilePath'),
    profileText: textOf(admission, 'profileText'),
    command: null,
    labels: labelsFrom(admission),
    attach: admission['attach'] === true,
    tty: admission['tty'] === true,
    stdin: admission['stdin'] === true,
    traceparent: textOf(admission, 'traceparent') || null,
  };
}

/** Written by a daemon of ours, and read as what it must be. */
function callerFrom(admission: LedgerRecord): Caller {
  const caller = (admission['caller'] ?? {}) as Partial<Caller>;
  const number = (value: unknown): number => (typeof value === 'number' ? value : -1);
  return { uid: number(caller.uid), gid: number(caller.gid), pid: number(caller.pid) };
}

function labelsFrom(admission: LedgerRecord): Readonly<Record<string, string>> {
  const labels = admission['labels'];
  if (typeof labels !== 'object' || labels === null) return {};
  return Object.fromEntries(
    Object.entries(labels).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}

function textOf(record: LedgerRecord, field: string): string {
  const value = record[field];
  return typeof value === 'string' ? value : '';
}
