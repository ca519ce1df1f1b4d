import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type {
  Approval,
  Caller,
  EventsRequest,
  Explanation,
  Health,
  Incident,
  IncidentSummary,
  LaunchRequest,
  LogsRequest,
  ReloadReport,
  ReloadRequest,
  RunDetail,
  RunStreams,
  RunView,
} from '../api/service.ts';
import { fail, messageOf, RingfenceError } from '../core/errors.ts';
import { idFrom } from '../core/ids.ts';
import type { Outcome, Reason } from '../core/outcome.ts';
import type { Engine, OutputChunk } from '../core/ports/engine.ts';
import type { Fence, FenceDestination } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger, LedgerRecord } from '../core/ports/record.ts';
import type { Warden, WardenReport } from '../core/ports/warden.ts';
import { Turns } from '../core/turns.ts';
import { explainAlive, explainOutcome } from '../report/explain.ts';
import { redactCommand } from '../report/redact.ts';
import { Driver } from '../run/driver.ts';
import type { RunPorts } from '../run/ports.ts';
import { containerIdOf, initialState } from '../run/state.ts';
import { admit, type Admission, type AdmissionWorld } from './admission.ts';
import type { ApprovalDesk } from './approvals.ts';
import type { IncidentDesk } from './incident-desk.ts';
import type { KnownSecrets } from './known-secrets.ts';
import type { TrafficDesk } from './traffic-desk.ts';
import { followLedger } from './event-stream.ts';
import { describeRefusal } from './refusal.ts';
import { reloadProfile } from './reload.ts';
import type { RunService } from './service.ts';
import { streamsOf } from './run-streams.ts';
import type { RunTable } from './run-table.ts';
import { countDenial, detailOf, viewOf, type RunEntry } from './run-table.ts';

/** How long an attached launch waits for its caller to come for the terminal. */
const ATTACH_MS_MAX = 10_000;
/** `ps` and `inspect` show counters no older than this. */
const SAMPLE_MS_MAX = 200;
const STOP_ALL_MS_MAX = 30_000;
/** `inspect` waits so long for the bytes of each destination, and is answered without them otherwise. */
const DESTINATIONS_MS_MAX = 1_000;

export type SupervisorOptions = {
  readonly version: string;
  readonly admission: AdmissionWorld;
  readonly engine: Engine;
  readonly fence: Pick<Fence, 'destinations'>;
  readonly warden: Warden;
  readonly ledger: Ledger;
  readonly incidents: IncidentDesk;
  readonly approvals: ApprovalDesk;
  readonly secrets: KnownSecrets;
  readonly traffic: TrafficDesk;
  /** Whether this caller decides for runs that somebody launched. */
  mayDecide(caller: Caller, launchedBy: Caller): Promise<boolean>;
  readonly table: RunTable;
  readonly log: Log;
  /** Checks mounts and secrets on the real host and builds the ports of one run; refuses with a RingfenceError. */
  portsFor(run: NewRun): Promise<RunPorts>;
  nowIso(): string;
};

export type NewRun = {
  readonly runId: string;
  /** True for a run that an earlier daemon launched: its secrets are staged, and its container is there. */
  readonly adopted: boolean;
  /** Of the profile that the container is or was made from. */
  readonly launchDigest: string;
  readonly admission: Admission;
  readonly request: LaunchRequest;
  readonly caller: Caller;
  readonly labels: Readonly<Record<string, string>>;
};

export type AdoptedPast = {
  readonly admittedAt: string;
  readonly admittedSeq: number;
  readonly containerId: string;
  /** Null when the agent is over. */
  readonly pid: number | null;
  readonly startedAt: string;
  readonly startedAtMs: number;
  /** The incident that the daemon before opened for it; null when there is none yet. */
  readonly incidentId: string | null;
  readonly denialsOnRecord: number;
};

type RunReport = Extract<WardenReport, { readonly runId: string }>;

/** Admits launches, owns the drivers, and hands each report of the warden and the engine to the run it is about. */
export class Supervisor implements RunService {
  private readonly options: SupervisorOptions;
  private readonly startedAt: string;
  private readonly waiting = new Map<string, NodeJS.Timeout>();
  private readonly reloads = new Turns();
  private stopping = false;
  private left = false;

  constructor(options: SupervisorOptions) {
    this.options = options;
    this.startedAt = options.nowIso();
  }

  health(): Health {
    const { seq, hash } = this.options.ledger.head();
    return {
      version: this.options.version,
      pid: process.pid,
      startedAt: this.startedAt,
      runs: this.options.table.alive().length,
      ledger: { seq, hash, failure: this.options.ledger.failure()?.message ?? null },
    };
  }

  async launch(request: LaunchRequest, caller: Caller): Promise<RunView> {
    if (this.stopping) throw fail('DAEMON_NOT_RUNNING', { detail: 'the daemon is stopping and starts nothing new' });
    const runId = idFrom('r', randomBytes(12));
    try {
      const admission = await admit(request, caller, this.options.admission);
      const launchDigest = admission.spec.profileDigest;
      const run = { runId, adopted: false, launchDigest, admission, request, caller, labels: request.labels };
      return await this.admitted(run, await this.options.portsFor(run));
    } catch (error) {
      this.recordRefusal(request, caller, error);
      throw error;
    }
  }

  private async admitted(run: NewRun, ports: RunPorts): Promise<RunView> {
    const { runId, admission, request, caller } = run;
    const { spec, image } = admission;
    const admittedAt = this.options.nowIso();
    const written = this.options.ledger.append({
      kind: 'run.admitted',
      runId,
      profile: spec.name,
      profileDigest: spec.profileDigest,
      profilePath: request.profilePath,
      profileText: admission.profileText,
      owner: spec.owner,
      image: spec.image,
      imageDigest: image.digest,
      command: redactCommand(this.options.secrets.hide(runId, spec.command)),
      labels: this.options.secrets.hide(runId, run.labels),
      traceparent: request.traceparent ?? null,
      attach: request.attach,
      tty: request.tty,
      stdin: request.stdin,
      caller,
    });
    // What runs must be on record before it runs: a launch that cannot be recorded is refused.
    await written.flushed.catch((cause: unknown) => {
      throw fail('LEDGER_UNWRITABLE', { detail: `the launch could not be recorded: ${messageOf(cause)}` }, { cause });
    });
    const driver = new Driver({
      state: initialState({ runId, spec, imageDigest: image.digest }),
      incidentId: idFrom('i', randomBytes(12)),
      ports,
      attach: request.attach ? { tty: request.tty, stdin: request.stdin } : null,
    });
    const entry: RunEntry = {
      driver,
      spec,
      profilePath: request.profilePath,
      labels: run.labels,
      caller,
      admittedAt,
      admittedSeq: written.seq,
      denialsByDestination: new Map(),
    };
    this.add(entry);
    this.options.log.info({ runId, profile: spec.name }, 'run admitted');
    if (request.attach) this.waitForCaller(entry);
    else driver.post({ kind: 'launch' });
    return viewOf(entry);
  }

  /** Takes over a run of an earlier daemon. What happened to it meanwhile follows as events. */
  adopt(run: NewRun, ports: RunPorts, past: AdoptedPast): void {
    const { runId, admission, request, caller } = run;
    const { spec, image } = admission;
    const driver = new Driver({
      state: initialState({ runId, spec, imageDigest: image.digest, denialsOnRecord: past.denialsOnRecord }),
      incidentId: past.incidentId ?? idFrom('i', randomBytes(12)),
      incidentOpened: past.incidentId !== null,
      ports,
      attach: null,
    });
    this.add({
      driver,
      spec,
      profilePath: request.profilePath,
      labels: run.labels,
      caller,
      admittedAt: past.admittedAt,
      admittedSeq: past.admittedSeq,
      denialsByDestination: new Map(),
    });
    const { containerId, pid, startedAt, startedAtMs } = past;
    driver.post({ kind: 'adopt', containerId, pid, startedAt, startedAtMs });
    this.options.log.info({ runId, profile: spec.name }, 'run adopted');
  }

  private add(entry: RunEntry): void {
    this.options.table.add(entry);
    this.options.traffic.begin(entry.driver.state.runId, entry.spec.name);
    // Never rejects: an outcome is an outcome, whatever it is.
    void entry.driver.outcome.then((outcome) => {
      this.options.approvals.forget(outcome.runId);
      this.options.traffic.forget(outcome.runId);
      this.options.secrets.forget(outcome.runId);
      this.options.incidents.runEnded(outcome, entry.admittedSeq);
    });
  }

  private recordRefusal(request: LaunchRequest, caller: Caller, error: unknown): void {
    const code = error instanceof RingfenceError ? error.code : 'INTERNAL';
    const draft = {
      kind: 'run.refused' as const,
      profilePath: request.profilePath,
      code,
      message: describeRefusal(error),
      caller,
    };
    this.options.ledger.append(draft).flushed.catch(() => undefined);
    if (code === 'INTERNAL') this.options.log.error({ err: error }, 'launch failed');
  }

  private waitForCaller(entry: RunEntry): void {
    const { runId } = entry.driver.state;
    const timer = setTimeout(() => {
      this.waiting.delete(runId);
      const detail = `nobody attached within ${ATTACH_MS_MAX / 1000} s, so the run was not started`;
      entry.driver.post({ kind: 'end-requested', how: 'kill', reason: 'refused', rule: null, detail });
    }, ATTACH_MS_MAX);
    this.waiting.set(runId, timer);
  }

  async attach(runId: string, caller: Caller): Promise<RunStreams> {
    const entry = this.options.table.get(runId);
    if (entry === undefined) throw fail('RUN_NOT_FOUND', { detail: `there is no run ${runId}` });
    if (caller.uid !== entry.caller.uid && caller.uid !== 0)
      throw fail('FORBIDDEN', { detail: 'only who launched the run may attach to it' });
    const timer = this.waiting.get(runId);
    if (timer === undefined)
      throw fail('RUN_OVER', {
        detail: `run ${runId} does not wait for a terminal`,
        hint: `\`ringfence logs -f ${runId}\` shows its output`,
      });
    clearTimeout(timer);
    this.waiting.delete(runId);
    entry.driver.post({ kind: 'launch' });
    return streamsOf(entry.driver, this.options.engine);
  }

  async list(options: { readonly all: boolean }): Promise<readonly RunView[]> {
    await this.refresh(this.options.table.alive());
    return this.options.table.views(options);
  }

  async inspect(run: string): Promise<RunDetail> {
    const found = this.options.table.find(run);
    if ('past' in found) {
      throw fail('RUN_OVER', {
        detail: `run ${found.past.outcome.runId} ended under an earlier daemon`,
        hint: `\`ringfence why ${found.past.outcome.runId}\` says how`,
      });
    }
    const [destinations] = await Promise.all([this.destinationsOf(found.entry), this.refresh([found.entry])]);
    const pending = this.options.approvals.openOf(found.entry.driver.state.runId);
    return detailOf(found.entry, { destinations, pending });
  }

  private async destinationsOf({ driver }: RunEntry): Promise<readonly FenceDestination[]> {
    const { runId, phase } = driver.state;
    if (phase !== 'running') return [];
    const late = delay(DESTINATIONS_MS_MAX, [], { ref: false });
    return await Promise.race([this.options.fence.destinations(runId).catch(() => []), late]);
  }

  /** Asks the warden for counters of now; an answer that does not come leaves the latest ones. */
  private async refresh(entries: readonly RunEntry[]): Promise<void> {
    const running = entries.filter((entry) => entry.driver.state.phase === 'running');
    const sampled = running.map(async (entry) => {
      const usage = await this.options.warden.sample(entry.driver.state.runId).catch(() => null);
      if (usage !== null) entry.driver.post({ kind: 'sampled', usage });
    });
    await Promise.race([Promise.all(sampled), delay(SAMPLE_MS_MAX)]);
  }

  async wait(run: string, signal: AbortSignal): Promise<Outcome> {
    const found = this.options.table.find(run);
    if ('past' in found) return found.past.outcome;
    const gone = Promise.withResolvers<never>();
    signal.addEventListener('abort', () => gone.reject(fail('REQUEST_INVALID', { detail: 'the caller went away' })), {
      once: true,
    });
    return await Promise.race([found.entry.driver.outcome, gone.promise]);
  }

  async stop(run: string, caller: Caller): Promise<void> {
    this.endByHand(run, caller, 'stop');
  }

  async kill(run: string, caller: Caller): Promise<void> {
    this.endByHand(run, caller, 'kill');
  }

  private endByHand(run: string, caller: Caller, how: 'stop' | 'kill'): void {
    const found = this.options.table.find(run);
    if ('past' in found || found.entry.driver.state.phase === 'over')
      throw fail('RUN_OVER', { detail: `"${run}" is over` });
    const { driver, spec } = found.entry;
    const { runId } = driver.state;
    this.options.ledger
      .append({ kind: 'command.issued', runId, profile: spec.name, command: how, caller })
      .flushed.catch(() => undefined);
    const reason = how === 'stop' ? 'stopped' : 'killed';
    driver.post({ kind: 'end-requested', how, reason, rule: null, detail: `${reason} by user ${caller.uid}` });
  }

  async resume(run: string, caller: Caller): Promise<void> {
    const found = this.options.table.find(run);
    if ('past' in found || found.entry.driver.state.phase === 'over')
      throw fail('RUN_OVER', { detail: `"${run}" is over` });
    const { driver, spec, caller: launchedBy } = found.entry;
    const { runId, held } = driver.state;
    if (held?.action !== 'pause') throw fail('RUN_NOT_PAUSED', { detail: `run ${runId} is not paused` });
    // Going on means more of a budget, so it is decided by those who decide what the agent may reach.
    if (!(await this.options.mayDecide(caller, launchedBy)))
      throw fail('FORBIDDEN', { detail: `user ${caller.uid} may not let run ${runId} go on` });
    this.options.ledger
      .append({ kind: 'command.issued', runId, profile: spec.name, command: 'resume', caller })
      .flushed.catch(() => undefined);
    driver.post({ kind: 'resume' });
  }

  async reload(request: ReloadRequest, caller: Caller): Promise<ReloadReport> {
    if (this.stopping) throw fail('DAEMON_NOT_RUNNING', { detail: 'the daemon is stopping and changes nothing' });
    // One after the other, so that what stands in the way of a change cannot come up while it is made.
    return await this.reloads.take('all', () => reloadProfile(request, caller, this.options));
  }

  async approvals(options: { readonly all: boolean }): Promise<readonly Approval[]> {
    return this.options.approvals.list(options);
  }

  approve(id: string, options: { readonly forMs: number | null }, caller: Caller): Promise<Approval> {
    return this.options.approvals.approve(id, options, caller);
  }

  deny(id: string, options: { readonly reason: string | null }, caller: Caller): Promise<Approval> {
    return this.options.approvals.deny(id, options, caller);
  }

  async *logs(run: string, options: LogsRequest, signal: AbortSignal): AsyncIterable<OutputChunk> {
    const found = this.options.table.find(run);
    const containerId = 'past' in found ? null : containerIdOf(found.entry.driver.state);
    if ('past' in found || containerId === null || found.entry.driver.state.phase === 'over') {
      throw fail('RUN_OVER', {
        detail: `the output of "${run}" went with its container`,
        hint: `\`ringfence why ${run}\` says how it ended`,
      });
    }
    yield* this.options.engine.logs(containerId, { ...options, signal });
  }

  async *events(options: EventsRequest, signal: AbortSignal): AsyncIterable<LedgerRecord> {
    const { ledger, table } = this.options;
    const runId = options.run === null ? null : referencedRun(table, options.run);
    const wanted = (record: LedgerRecord): boolean =>
      (runId === null || record.runId === runId) &&
      (options.sinceMs === null || Date.parse(record.at) >= options.sinceMs);
    yield* followLedger(ledger, { follow: options.follow, wanted, signal });
  }

  async incidents(): Promise<readonly IncidentSummary[]> {
    return this.options.incidents.list();
  }

  async incident(id: string): Promise<Incident> {
    const incident = this.options.incidents.get(id);
    if (incident === null) throw fail('INCIDENT_NOT_FOUND', { detail: `there is no incident ${id}` });
    return incident;
  }

  async why(reference: string): Promise<Explanation> {
    const incident = this.options.incidents.get(reference);
    const found = this.options.table.find(incident?.subject.runId ?? reference);
    const outcome = 'past' in found ? found.past.outcome : found.entry.driver.state.outcome;
    const denials = 'past' in found ? [] : found.entry.driver.state.lastDenials;
    if (outcome === null) {
      const { runId } = 'past' in found ? found.past.outcome : found.entry.driver.state;
      return explainAlive(runId, {
        denied: denials.map((denial) => denial.explanation),
        pending: this.options.approvals.openOf(runId),
      });
    }
    const opened = outcome.incidentId === null ? null : this.options.incidents.get(outcome.incidentId);
    return explainOutcome(outcome, opened, denials);
  }

  async release(profile: string, caller: Caller): Promise<void> {
    if (!this.options.incidents.isQuarantined(profile) && !this.options.incidents.hasOpen(profile))
      throw fail('NOT_QUARANTINED', { detail: `${profile} is not in quarantine and has no open incident` });
    this.options.incidents.release(profile, caller);
  }

  /** From the warden's pipe. */
  receive(report: WardenReport): void {
    if (!('runId' in report)) return;
    this.take(this.options.secrets.hide(report.runId, report));
  }

  private take(report: RunReport): void {
    const entry = this.options.table.get(report.runId);
    if (entry === undefined) return;
    if (report.kind === 'denied') {
      const { destination, port } = report.denial;
      countDenial(entry, port === null ? destination : `${destination}:${port}`, 1 + report.suppressed);
    }
    if (report.kind === 'sampled') this.options.incidents.keepSample(report.runId, report.usage);
    if (report.kind === 'asked') this.options.approvals.askAddress(report.runId, report);
    if (report.kind === 'breached') {
      this.options.incidents.keepProcesses(report.runId, report.processes);
      if (report.breach.rule === 'network') this.recordForeignNetwork(entry);
    }
    entry.driver.receive(report);
  }

  private recordForeignNetwork({ driver, spec }: RunEntry): void {
    const what = 'the container was given a network that is not its own';
    const record = { kind: 'drift.detected', runId: driver.state.runId, profile: spec.name, what } as const;
    this.options.ledger.append(record).flushed.catch(() => undefined);
  }

  /** The kill path is gone: nothing measures or ends the runs any more, so they end now. */
  onWardenLost(detail: string): void {
    this.options.ledger.append({ kind: 'enforcement.lost', what: 'warden', detail }).flushed.catch(() => undefined);
    const alive = this.options.table.alive();
    this.endAll({
      reason: 'enforcement.lost',
      rule: 'warden',
      detail: `the warden, which measures and ends runs, is gone: ${detail}`,
    });
    // Nobody is there to report an empty cgroup, so the daemon looks and kills by itself.
    for (const { driver } of alive) driver.post({ kind: 'deadline', name: 'empty' });
  }

  /** Ends every run that is alive, for a reason that concerns them all. */
  endAll(end: { readonly reason: Reason; readonly rule: string; readonly detail: string }): void {
    for (const { driver } of this.options.table.alive()) driver.post({ kind: 'end-requested', how: 'kill', ...end });
  }

  /** Starts nothing more and lets the runs go on; those still being launched are ended, as nobody could take them over. */
  async leave(): Promise<void> {
    this.stopping = true;
    this.left = true;
    const unfinished = this.options.table.alive().filter(({ driver }) => driver.state.phase !== 'running');
    await this.endAndWait(unfinished);
  }

  /** Ends every run and waits until nothing of them is left. Runs that were left are the next daemon's, not this one's. */
  async stopAll(): Promise<void> {
    if (this.left) return;
    this.stopping = true;
    await this.endAndWait(this.options.table.alive());
  }

  private async endAndWait(entries: readonly RunEntry[]): Promise<void> {
    for (const { driver } of entries) {
      driver.post({
        kind: 'end-requested',
        how: 'stop',
        reason: 'stopped',
        rule: null,
        detail: 'the daemon was stopped',
      });
    }
    const late = delay(STOP_ALL_MS_MAX, undefined, { ref: false });
    await Promise.race([Promise.all(entries.map(({ driver }) => driver.outcome)), late]);
  }
}

function referencedRun(table: RunTable, reference: string): string {
  const found = table.find(reference);
  return 'past' in found ? found.past.outcome.runId : found.entry.driver.state.runId;
}
