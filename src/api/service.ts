import type { HeldRequest } from '../core/approval.ts';
import type { OutboxListing, RetrySelection, SinkTestResult } from '../core/ports/alert.ts';
import type { OutputChunk } from '../core/ports/engine.ts';
import type { FenceDestination } from '../core/ports/fence.ts';
import type { LedgerRecord } from '../core/ports/record.ts';
import type { ArgvSource } from '../core/ports/warden.ts';
import type { Bound, Breach, Outcome, Rung, Usage } from '../core/outcome.ts';
import type { SpecChange } from '../profile/spec.ts';

/**
 * What the daemon offers over its socket, as plain functions: the API server turns requests into these calls, and the
 * contract table (`contract.ts`) gives each its method, path and validation. Every failure is a RingfenceError.
 */
export type Service = {
  health(): Health;
  /** Admits, and unless `attach` is set launches at once. With `attach` the launch waits for `attach` (10 s at most). */
  launch(request: LaunchRequest, caller: Caller): Promise<RunView>;
  /** Starts the run that waits for it and hands over its terminal or pipes. Once per run. */
  attach(runId: string, caller: Caller): Promise<RunStreams>;
  list(options: { readonly all: boolean }): Promise<readonly RunView[]>;
  /** `run` is a run id, a unique prefix of one, or a profile name with exactly one run alive. */
  inspect(run: string): Promise<RunDetail>;
  /** Resolves when the run is over and cleaned up. */
  wait(run: string, signal: AbortSignal): Promise<Outcome>;
  stop(run: string, caller: Caller): Promise<void>;
  kill(run: string, caller: Caller): Promise<void>;
  /** Lets a paused run go on, with more of the budget that paused it. */
  resume(run: string, caller: Caller): Promise<void>;
  /** Holds the runs alive of a profile to its new text; either all of them or, with the reason, none. */
  reload(request: ReloadRequest, caller: Caller): Promise<ReloadReport>;
  /** What waits for a person, oldest first; with `all` also what was decided lately. */
  approvals(options: { readonly all: boolean }): Promise<readonly Approval[]>;
  /** `id` is an id or a unique beginning of one. `forMs: null` leaves the time to the daemon's configuration. */
  approve(id: string, options: { readonly forMs: number | null }, caller: Caller): Promise<Approval>;
  deny(id: string, options: { readonly reason: string | null }, caller: Caller): Promise<Approval>;
  logs(run: string, options: LogsRequest, signal: AbortSignal): AsyncIterable<OutputChunk>;
  events(options: EventsRequest, signal: AbortSignal): AsyncIterable<LedgerRecord>;
  incidents(): Promise<readonly IncidentSummary[]>;
  incident(id: string): Promise<Incident>;
  /** For a run or an incident: why it ended or was denied, and what to change in the profile. */
  why(reference: string): Promise<Explanation>;
  release(profile: string, caller: Caller): Promise<void>;
  doctor(): Promise<DoctorReport>;
  gc(caller: Caller): Promise<{ readonly removed: readonly string[] }>;
  /** Signs where the ledger stands now. */
  checkpoint(caller: Caller): Promise<LedgerCheckpoint>;
  /** Signs with a new key from here on, which the old one vouches for. Root only; answers with the new public key. */
  rotateKey(caller: Caller): Promise<{ readonly key: string }>;
  /** Sinks, what waits for them and what was given up. */
  alerts(): Promise<OutboxListing>;
  /** Sends a test to one sink and waits for what comes back. Root only: a sink may page somebody. */
  testAlert(sink: string, caller: Caller): Promise<SinkTestResult>;
  /** Tries again at once. Root only. */
  retryAlerts(which: RetrySelection, caller: Caller): Promise<{ readonly retried: number }>;
  /** Figures in the text format of Prometheus. */
  metrics(): Promise<string>;
};

/** `note` is signed; `key` is what it is checked with, to be kept on another machine. */
export type LedgerCheckpoint = {
  readonly seq: number;
  readonly hash: string;
  readonly note: string;
  readonly key: string;
};

/** From the peer credentials of the socket, never from what the client says. */
export type Caller = { readonly uid: number; readonly gid: number; readonly pid: number };

export type Health = {
  readonly version: string;
  readonly pid: number;
  readonly startedAt: string;
  readonly runs: number;
  readonly ledger: { readonly seq: number; readonly hash: string; readonly failure: string | null };
};

/** `text` proves that the caller can read the file; the daemon reads the file itself and compares. */
export type LaunchRequest = {
  readonly profilePath: string;
  readonly profileText: string;
  readonly command: readonly string[] | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly attach: boolean;
  readonly tty: boolean;
  readonly stdin: boolean;
  /** The trace that the run is part of: `traceparent` of W3C Trace Context, version 00. */
  readonly traceparent?: string | null | undefined;
};

export type RunStreams = {
  /** Agent output as it comes, then nothing more. */
  readonly output: AsyncIterable<OutputChunk>;
  write(bytes: Uint8Array): Promise<void>;
  endInput(): void;
  resize(size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 or SIGWINCH for the agent's first process. */
  signal(name: string): Promise<void>;
  readonly outcome: Promise<Outcome>;
  /** The client is gone (or done): `output` ends, the agent's stdin ends, the run goes on. Called once, at the end. */
  detach(): void;
};

export type RunPhase = 'waiting' | 'preparing' | 'running' | 'ending' | 'cleaning' | 'over';

export type RunView = {
  readonly runId: string;
  readonly profile: string;
  readonly phase: RunPhase;
  readonly admittedAt: string;
  readonly startedAt: string | null;
  readonly usage: Usage;
  readonly bounds: readonly Bound[];
  readonly outcome: Outcome | null;
  readonly labels: Readonly<Record<string, string>>;
  /** The breach for which the run is slowed down or stands still; null while nothing holds it. */
  readonly held: Breach | null;
};

export type RunDetail = RunView & {
  readonly owner: string;
  readonly profileDigest: string;
  readonly profilePath: string;
  readonly image: string;
  readonly imageDigest: string | null;
  readonly command: readonly string[];
  readonly containerId: string | null;
  readonly address: string | null;
  readonly network: string | null;
  readonly cgroups: readonly string[];
  readonly pid: number | null;
  readonly egress: readonly string[];
  readonly denialsByDestination: readonly { readonly destination: string; readonly count: number }[];
  readonly launchedBy: Caller;
  /** Bytes out for each destination, busiest first. */
  readonly destinations: readonly FenceDestination[];
  /** What the agent asked for and a person has not decided. */
  readonly pending: readonly Approval[];
};

/** A request under `egress.ask`, and what became of it. Every string that an agent chose is bounded and printable. */
export type Approval = {
  readonly id: string;
  readonly runId: string;
  readonly profile: string;
  /** Of the profile that the run was held to when it asked. */
  readonly profileDigest: string;
  readonly request: HeldRequest;
  /** The request in one phrase: `api.example.com on 443/tcp`. */
  readonly wants: string;
  /** `expired`: nobody came. `withdrawn`: the run ended, or its profile was changed. */
  readonly state: 'pending' | 'approved' | 'denied' | 'expired' | 'withdrawn';
  readonly requestedAt: string;
  readonly expiresAt: string;
  readonly decidedAt: string | null;
  readonly decidedBy: Caller | null;
  /** How long what was approved stays open. */
  readonly forMs: number | null;
  readonly reason: string | null;
};

/** `profileText` proves, as in a launch, that the caller can read the file. */
export type ReloadRequest = { readonly profilePath: string; readonly profileText: string };

export type ReloadReport = {
  readonly profile: string;
  readonly profileDigest: string;
  readonly runs: readonly ReloadedRun[];
};

/** `changes` is empty when the run was already held to just this. */
export type ReloadedRun = {
  readonly runId: string;
  readonly fromDigest: string;
  readonly changes: readonly SpecChange[];
};

export type LogsRequest = { readonly follow: boolean; readonly tailLines: number | null };

export type EventsRequest = { readonly follow: boolean; readonly sinceMs: number | null; readonly run: string | null };

export type IncidentSummary = {
  readonly id: string;
  readonly at: string;
  readonly profile: string;
  readonly runId: string;
  readonly reason: string;
  readonly rule: string;
  readonly severity: Severity;
  readonly summary: string;
  readonly quarantined: boolean;
  /** When it was ended by a person or by a clean run; null while it is open. */
  readonly closedAt: string | null;
};

export type Severity = 'low' | 'medium' | 'high' | 'critical';

/** Everything a person who was asleep needs. Built by `report/` from the run and its ledger records; the webhook carries it whole. */
export type Incident = {
  readonly id: string;
  readonly host: string;
  readonly version: string;
  readonly subject: {
    readonly profile: string;
    readonly runId: string;
    readonly profileDigest: string;
    /** What the run was launched with, without what looks like a secret. */
    readonly command: readonly string[];
    readonly imageDigest: string | null;
    readonly owner: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly launchedBy: Caller;
    readonly traceparent: string | null;
  };
  readonly what: {
    readonly reason: string;
    readonly rule: string;
    readonly summary: string;
    readonly explanation: string;
    readonly severity: Severity;
    /** What MITRE ATLAS and OWASP call such a thing; empty where nothing fits. */
    readonly tags: readonly string[];
  };
  readonly evidence: {
    readonly breach: Breach;
    /** Further breaches of the same run seen before it was dead. */
    readonly alsoBreached: readonly Breach[];
    readonly process: ProcessEvidence | null;
    readonly usage: Usage;
    readonly usageBefore: Usage | null;
    readonly bounds: readonly Bound[];
    /** The last decisions about what the agent tried to reach: refused, and let through. */
    readonly lastDenials: readonly Breach['denial'][];
    readonly lastAllowed: readonly AllowedDestination[];
    readonly topProcesses: readonly ProcessEvidence[];
    /** How the run came to its end, oldest first. */
    readonly curve: readonly CurvePoint[];
    /** The last lines of the agent's output, when the configuration of the daemon asks for them. */
    readonly logLines: readonly string[];
  };
  readonly action: {
    readonly asked: string;
    readonly taken: string;
    readonly signal: string | null;
    readonly survivors: number;
  };
  readonly times: {
    /** When the bound was crossed, where that is known exactly; a look at counters only knows that it was before. */
    readonly crossedAt: string | null;
    readonly detectedAt: string;
    readonly signalledAt: string | null;
    readonly emptyAt: string | null;
    readonly detectedToEmptyMs: number | null;
  };
  readonly context: {
    readonly earlierIncidents: number;
    /** The one before this, of the same agent. */
    readonly last: { readonly id: string; readonly at: string } | null;
    readonly quarantined: boolean;
    /** How it ended; null while it is open. What a webhook carries was said when it was opened. */
    readonly closed: IncidentClosing | null;
  };
  readonly trust: {
    readonly fromSeq: number;
    readonly toSeq: number;
    readonly hash: string;
    /** The latest signed place of the ledger. */
    readonly checkpoint: { readonly seq: number; readonly note: string } | null;
  };
  readonly cure: string;
};

/** `released`: a person said so; `clean-run`: a later run of the same agent ended by itself, with code 0. */
export type IncidentClosing = {
  readonly at: string;
  readonly how: 'released' | 'clean-run';
  readonly by: string | null;
};

/** What was let through. `destination` is an address, or the name where the name check passed the connection on. */
export type AllowedDestination = {
  readonly destination: string;
  readonly name: string | null;
  readonly port: number;
  readonly protocol: 'tcp' | 'udp';
  readonly egressBytes: number;
  readonly lastAt: string;
};

/** A point of a run's use: what an incident shows as a curve. */
export type CurvePoint = {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly memoryBytes: number;
  readonly pids: number;
  readonly egressBytes: number;
};

export type ProcessEvidence = {
  readonly pid: number;
  readonly executable: string;
  readonly argv: readonly string[];
  /** Where `argv` is from; null where nobody looked. */
  readonly argvSource: ArgvSource | null;
  readonly parents: readonly string[];
  readonly cpuMs: number;
};

export type Explanation = {
  readonly subject: string;
  readonly headline: string;
  readonly rule: string | null;
  readonly evidence: readonly string[];
  readonly change: readonly string[];
};

export type DoctorReport = {
  readonly ok: boolean;
  readonly checks: readonly DoctorCheck[];
};

export type DoctorCheck = {
  readonly name: string;
  readonly state: 'ok' | 'degraded' | 'missing';
  readonly rung: Rung | null;
  readonly evidence: string;
  readonly fix: string | null;
};
