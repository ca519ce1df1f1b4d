import { fail } from '../../src/core/errors.ts';
import type { OutboxListing, RetrySelection, SinkTestResult } from '../../src/core/ports/alert.ts';
import type { OutputChunk } from '../../src/core/ports/engine.ts';
import type { LedgerRecord } from '../../src/core/ports/record.ts';
import { USAGE_NONE, type Bound, type Outcome } from '../../src/core/outcome.ts';
import type {
  Approval,
  Caller,
  DoctorReport,
  EventsRequest,
  Explanation,
  Health,
  Incident,
  IncidentSummary,
  LedgerCheckpoint,
  LaunchRequest,
  LogsRequest,
  ReloadReport,
  ReloadRequest,
  RunDetail,
  RunStreams,
  RunView,
  Service,
} from '../../src/api/service.ts';

/** An agent as a script: what it does with its standard streams, and how it ends. */
export type FakeAgent = (agent: {
  readonly request: LaunchRequest;
  readonly stdin: AsyncIterable<Uint8Array>;
  readonly print: (text: string, stream?: 'stdout' | 'stderr') => void;
  /** The next signal, from an attached client or from `stop` and `kill`. */
  readonly nextSignal: () => Promise<string>;
  readonly sizes: readonly { readonly columns: number; readonly rows: number }[];
}) => Promise<Partial<Outcome>>;

export type FakeCall = { readonly call: string; readonly argument: unknown; readonly caller: Caller | null };

/**
 * The daemon's service in memory: runs are scripts, the record is a list. Tests put in what a command shall find and
 * read `calls` to see what it asked for.
 */
export class FakeService implements Service {
  readonly calls: FakeCall[] = [];
  readonly runs = new Map<string, RunDetail>();
  readonly records: LedgerRecord[] = [];
  readonly incidentsById = new Map<string, Incident>();
  readonly explanations = new Map<string, Explanation>();
  readonly output = new Map<string, OutputChunk[]>();
  readonly quarantined = new Set<string>();
  /** By profile path; a launch of any other path is refused. */
  readonly agents = new Map<string, FakeAgent>();
  /** By profile path: what a launch throws. */
  readonly refusals = new Map<string, Error>();
  doctorReport: DoctorReport = { ok: true, checks: [] };
  listing: OutboxListing = { sinks: [], waiting: [], dead: [] };
  removed: readonly string[] = [];
  readonly approvalsById = new Map<string, Approval>();
  /** By profile path: what a reload answers or throws; any other path has no run. */
  readonly reloads = new Map<string, ReloadReport | Error>();
  private readonly requests = new Map<string, LaunchRequest>();
  private readonly live = new Map<string, FakeRun>();
  private readonly outcomes = new Map<string, PromiseWithResolvers<Outcome>>();
  private readonly listeners = new Set<(record: LedgerRecord) => void>();
  private launched = 0;

  health(): Health {
    this.note('health', null, null);
    const ledger = { seq: this.records.length, hash: 'sha256:00', failure: null };
    return { version: '0.0.0', pid: 1, startedAt: FAKE_TIME, runs: this.live.size, ledger };
  }

  async launch(request: LaunchRequest, caller: Caller): Promise<RunView> {
    this.note('launch', request, caller);
    const refusal = this.refusals.get(request.profilePath);
    if (refusal !== undefined) throw refusal;
    const agent = this.agents.get(request.profilePath);
    if (agent === undefined) throw fail('PROFILE_UNREADABLE', { detail: `no agent at ${request.profilePath}` });
    const profile = request.profilePath.replace(/^.*\//, '').replace(/\.yaml$/, '');
    if (this.quarantined.has(profile)) throw fail('PROFILE_QUARANTINED', { detail: `${profile} is in quarantine` });
    this.launched += 1;
    const runId = `r${String(this.launched).padStart(12, '0')}`;
    const run = fakeRun({ runId, profile, phase: request.attach ? 'waiting' : 'running', labels: request.labels });
    this.addRun(run);
    this.requests.set(runId, request);
    if (!request.attach) void this.start(runId).outcome;
    return run;
  }

  async attach(runId: string, caller: Caller): Promise<RunStreams> {
    this.note('attach', runId, caller);
    const run = await this.inspect(runId);
    if (run.phase !== 'waiting') throw fail('RUN_OVER', { detail: `${runId} waits for nobody` });
    const started = this.start(run.runId);
    return {
      output: started.output,
      write: (bytes) => started.write(bytes),
      endInput: () => started.endInput(),
      resize: async (size) => void started.sizes.push(size),
      signal: async (name) => started.deliver(name),
      outcome: started.outcome,
      detach: () => {
        this.note('detach', runId, null);
        started.endInput();
        started.output.close();
      },
    };
  }

  async list(options: { readonly all: boolean }): Promise<readonly RunView[]> {
    this.note('list', options, null);
    return [...this.runs.values()].filter((run) => options.all || run.phase !== 'over');
  }

  async inspect(run: string): Promise<RunDetail> {
    const found = [...this.runs.values()].filter(
      (one) => one.runId.startsWith(run) || (one.profile === run && one.phase !== 'over'),
    );
    if (found.length > 1) throw fail('RUN_AMBIGUOUS', { detail: `${found.length} runs match ${run}` });
    if (found[0] === undefined) throw fail('RUN_NOT_FOUND', { detail: `there is no run ${run}` });
    return found[0];
  }

  async wait(run: string, signal: AbortSignal): Promise<Outcome> {
    const { runId, outcome } = await this.inspect(run);
    this.note('wait', runId, null);
    if (outcome !== null) return outcome;
    const left = Promise.withResolvers<never>();
    signal.addEventListener('abort', () => left.reject(signal.reason as Error), { once: true });
    return await Promise.race([this.outcomeOf(runId).promise, left.promise]);
  }

  async stop(run: string, caller: Caller): Promise<void> {
    const { runId } = await this.inspect(run);
    this.note('stop', runId, caller);
    this.live.get(runId)?.deliver('SIGTERM');
  }

  async kill(run: string, caller: Caller): Promise<void> {
    const { runId } = await this.inspect(run);
    this.note('kill', runId, caller);
    this.live.get(runId)?.deliver('SIGKILL');
  }

  async resume(run: string, caller: Caller): Promise<void> {
    const { runId, held } = await this.inspect(run);
    this.note('resume', runId, caller);
    if (held?.action !== 'pause') throw fail('RUN_NOT_PAUSED', { detail: `run ${runId} is not paused` });
    this.update(runId, { held: null });
  }

  async reload(request: ReloadRequest, caller: Caller): Promise<ReloadReport> {
    this.note('reload', request, caller);
    const answer = this.reloads.get(request.profilePath);
    if (answer === undefined) throw fail('RUN_NOT_FOUND', { detail: `no run of ${request.profilePath} is alive` });
    if (answer instanceof Error) throw answer;
    return answer;
  }

  async approvals(options: { readonly all: boolean }): Promise<readonly Approval[]> {
    this.note('approvals', options, null);
    return [...this.approvalsById.values()].filter(({ state }) => options.all || state === 'pending');
  }

  async approve(id: string, options: { readonly forMs: number | null }, caller: Caller): Promise<Approval> {
    this.note('approve', { id, ...options }, caller);
    return this.decide(id, { state: 'approved', forMs: options.forMs ?? 3_600_000, decidedBy: caller });
  }

  async deny(id: string, options: { readonly reason: string | null }, caller: Caller): Promise<Approval> {
    this.note('deny', { id, ...options }, caller);
    return this.decide(id, { state: 'denied', reason: options.reason, decidedBy: caller });
  }

  private decide(id: string, change: Partial<Approval>): Approval {
    const found = [...this.approvalsById.values()].find((each) => each.id.startsWith(id));
    if (found === undefined) throw fail('APPROVAL_NOT_FOUND', { detail: `there is no request ${id}` });
    if (found.state !== 'pending') throw fail('APPROVAL_DECIDED', { detail: `${found.id} was ${found.state}` });
    const decided = { ...found, decidedAt: FAKE_TIME, ...change };
    this.approvalsById.set(found.id, decided);
    return decided;
  }

  async *logs(run: string, options: LogsRequest, signal: AbortSignal): AsyncGenerator<OutputChunk> {
    const { runId } = await this.inspect(run);
    this.note('logs', { runId, ...options }, null);
    const chunks = this.output.get(runId) ?? [];
    yield* options.tailLines === null ? chunks : chunks.slice(-options.tailLines);
    if (options.follow) await this.wait(runId, signal).catch(() => undefined);
  }

  async *events(options: EventsRequest, signal: AbortSignal): AsyncGenerator<LedgerRecord> {
    this.note('events', options, null);
    const runId = options.run === null ? null : (await this.inspect(options.run)).runId;
    const matches = (record: LedgerRecord) =>
      (runId === null || record.runId === runId) && Date.parse(record.at) >= (options.sinceMs ?? 0);
    yield* this.records.filter(matches);
    if (!options.follow) return;
    const queue = new Queue<LedgerRecord>();
    const listener = (record: LedgerRecord) => queue.push(record);
    this.listeners.add(listener);
    signal.addEventListener('abort', () => queue.close(), { once: true });
    for await (const record of queue) if (matches(record)) yield record;
    this.listeners.delete(listener);
  }

  async incidents(): Promise<readonly IncidentSummary[]> {
    return [...this.incidentsById.values()].map((incident) => ({
      id: incident.id,
      at: incident.times.detectedAt,
      profile: incident.subject.profile,
      runId: incident.subject.runId,
      reason: incident.what.reason,
      rule: incident.what.rule,
      severity: incident.what.severity,
      summary: incident.what.summary,
      quarantined: this.quarantined.has(incident.subject.profile),
      closedAt: incident.context.closed?.at ?? null,
    }));
  }

  async incident(id: string): Promise<Incident> {
    const incident = this.incidentsById.get(id);
    if (incident === undefined) throw fail('INCIDENT_NOT_FOUND', { detail: `there is no incident ${id}` });
    return incident;
  }

  async why(reference: string): Promise<Explanation> {
    const explanation = this.explanations.get(reference);
    if (explanation === undefined) throw fail('RUN_NOT_FOUND', { detail: `there is no run ${reference}` });
    return explanation;
  }

  async release(profile: string, caller: Caller): Promise<void> {
    this.note('release', profile, caller);
    if (!this.quarantined.delete(profile)) {
      throw fail('NOT_QUARANTINED', { detail: `${profile} is not in quarantine` });
    }
  }

  async doctor(): Promise<DoctorReport> {
    return this.doctorReport;
  }

  async gc(caller: Caller): Promise<{ readonly removed: readonly string[] }> {
    this.note('gc', null, caller);
    return { removed: this.removed };
  }

  async rotateKey(caller: Caller): Promise<{ readonly key: string }> {
    this.note('rotateKey', null, caller);
    return { key: 'ringfence/a+1+B' };
  }

  async alerts(): Promise<OutboxListing> {
    return this.listing;
  }

  async testAlert(sink: string, caller: Caller): Promise<SinkTestResult> {
    this.note('testAlert', sink, caller);
    return { sink, kind: 'webhook', ok: sink !== 'broken', id: 'test_1', message: 'HTTP 200', tookMs: 12 };
  }

  async retryAlerts(which: RetrySelection, caller: Caller): Promise<{ readonly retried: number }> {
    this.note('retryAlerts', which, caller);
    return { retried: this.listing.waiting.length };
  }

  async metrics(): Promise<string> {
    return 'ringfence_runs 1\n';
  }

  async checkpoint(caller: Caller): Promise<LedgerCheckpoint> {
    this.note('checkpoint', null, caller);
    return {
      seq: 7,
      hash: 'ab'.repeat(32),
      note: 'ringfence/a\n7\nq6ur\n\n— ringfence/a AAAA\n',
      key: 'ringfence/a+0+A',
    };
  }

  addRun(run: RunDetail): void {
    this.runs.set(run.runId, run);
  }

  addRecord(record: LedgerRecord): void {
    this.records.push(record);
    for (const listener of this.listeners) listener(record);
  }

  private start(runId: string): FakeRun {
    const request = this.requests.get(runId);
    const agent = request === undefined ? undefined : this.agents.get(request.profilePath);
    if (request === undefined || agent === undefined) throw new Error(`assertion failed: ${runId} was launched`);
    const run = new FakeRun({ runId, request, agent });
    this.live.set(runId, run);
    this.update(runId, { phase: 'running', startedAt: FAKE_TIME });
    void run.outcome.then((outcome) => {
      this.live.delete(runId);
      this.update(runId, { phase: 'over', outcome });
      this.outcomeOf(runId).resolve(outcome);
    });
    return run;
  }

  private update(runId: string, change: Partial<RunDetail>): void {
    const run = this.runs.get(runId);
    if (run !== undefined) this.runs.set(runId, { ...run, ...change });
  }

  private outcomeOf(runId: string): PromiseWithResolvers<Outcome> {
    const known = this.outcomes.get(runId) ?? Promise.withResolvers<Outcome>();
    this.outcomes.set(runId, known);
    return known;
  }

  private note(call: string, argument: unknown, caller: Caller | null): void {
    this.calls.push({ call, argument, caller });
  }
}

export const FAKE_TIME = '2026-03-01T12:00:00.000Z';

class FakeRun {
  readonly output = new Queue<OutputChunk>();
  readonly sizes: { readonly columns: number; readonly rows: number }[] = [];
  readonly outcome: Promise<Outcome>;
  private readonly stdin = new Queue<Uint8Array>();
  private readonly signals = new Queue<string>();

  constructor(options: { readonly runId: string; readonly request: LaunchRequest; readonly agent: FakeAgent }) {
    const { runId, request, agent } = options;
    const signals = this.signals[Symbol.asyncIterator]();
    this.outcome = agent({
      request,
      stdin: this.stdin,
      print: (text, stream = 'stdout') => this.output.push({ stream, bytes: new TextEncoder().encode(text) }),
      nextSignal: async () => {
        const next = await signals.next();
        return next.done === true ? 'SIGKILL' : next.value;
      },
      sizes: this.sizes,
    }).then((outcome) => {
      this.output.close();
      this.stdin.close();
      return fakeOutcome({
        runId,
        profile: request.profilePath.replace(/^.*\//, '').replace(/\.yaml$/, ''),
        ...outcome,
      });
    });
  }

  /** Resolves when the agent has taken the bytes, as a pipe that is full would. */
  write(bytes: Uint8Array): Promise<void> {
    return this.stdin.pushTaken(bytes);
  }

  endInput(): void {
    this.stdin.close();
  }

  deliver(signal: string): void {
    this.signals.push(signal);
  }
}

/** Values in order, for one reader; ends when it is closed and empty. */
class Queue<Value> implements AsyncIterable<Value> {
  private readonly values: { readonly value: Value; readonly taken: () => void }[] = [];
  private closed = false;
  private wake: (() => void) | null = null;

  push(value: Value): void {
    void this.pushTaken(value);
  }

  pushTaken(value: Value): Promise<void> {
    if (this.closed) return Promise.resolve();
    return new Promise((resolve) => {
      this.values.push({ value, taken: resolve });
      this.wake?.();
    });
  }

  close(): void {
    this.closed = true;
    this.wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Value> {
    while (true) {
      const next = this.values.shift();
      if (next !== undefined) {
        next.taken();
        yield next.value;
      } else if (this.closed) return;
      else {
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
      }
    }
  }
}

export const FAKE_BOUNDS: readonly Bound[] = [
  { path: 'limits.cpu', value: 1000, unit: 'millicores', rung: 'kernel' },
  { path: 'limits.memory', value: 256 * 1024 * 1024, unit: 'bytes', rung: 'kernel' },
  { path: 'limits.pids', value: 64, unit: 'count', rung: 'kernel' },
  { path: 'budget.wall', value: 1_800_000, unit: 'ms', rung: 'watchdog' },
  { path: 'budget.cpu', value: 20_000, unit: 'ms', rung: 'watchdog' },
  { path: 'budget.egress', value: 10 * 1024 * 1024, unit: 'bytes', rung: 'kernel' },
];

export function fakeOutcome(change: Partial<Outcome>): Outcome {
  return {
    runId: 'r000000000001',
    profile: 'offline',
    profileDigest: 'sha256:11',
    imageDigest: 'sha256:22',
    reason: 'exited',
    rule: null,
    detail: 'the agent ended by itself with code 0',
    exitCode: 0,
    signal: null,
    startedAt: FAKE_TIME,
    endedAt: '2026-03-01T12:00:21.000Z',
    usage: USAGE_NONE,
    limits: FAKE_BOUNDS,
    rungs: Object.fromEntries(FAKE_BOUNDS.map((bound) => [bound.path, bound.rung])),
    detectedAt: null,
    killedAt: null,
    latencyMs: null,
    incidentId: null,
    ...change,
  };
}

export function fakeRun(change: Partial<RunDetail>): RunDetail {
  return {
    runId: 'r000000000001',
    profile: 'offline',
    phase: 'running',
    admittedAt: FAKE_TIME,
    startedAt: FAKE_TIME,
    usage: USAGE_NONE,
    bounds: FAKE_BOUNDS,
    outcome: null,
    labels: {},
    held: null,
    owner: 'research@example.com',
    profileDigest: 'sha256:11',
    profilePath: '/srv/profiles/offline.yaml',
    image: 'ringfence/agent-shell:local',
    imageDigest: 'sha256:22',
    command: ['/bin/agent'],
    containerId: 'c0ffee',
    address: '10.213.0.2',
    network: 'rf-000000000001',
    cgroups: ['/sys/fs/cgroup/cpu/ringfence/r000000000001'],
    pid: 4242,
    egress: ['api.example.com'],
    denialsByDestination: [],
    launchedBy: { uid: 1000, gid: 1000, pid: 99 },
    destinations: [],
    pending: [],
    ...change,
  };
}
