/**
 * What leaves the host: alerts to the sinks that the daemon's configuration names. An alert is on disk before the first
 * attempt and stays there until the sink has it, across restarts; one agent's alerts reach a sink in their order.
 * What is kept is the alert itself; each kind of sink puts it into its own words at every attempt, so that a corrected
 * configuration counts for what waits already.
 */
export type AlertOutbox = {
  /**
   * Resolves when the alert is on disk, or when the sink's filter does not want it. Rejects ALERT_NOT_KEPT when it
   * cannot be kept. The same id and sink is kept once.
   */
  enqueue(alert: Alert): Promise<void>;
  depth(): OutboxDepth;
  /** Sinks, what waits and what was given up, for `alerts ls`. */
  list(): Promise<OutboxListing>;
  /** Sends a test through the real path but past the spool. Rejects SINK_UNKNOWN. */
  test(sink: string): Promise<SinkTestResult>;
  /** Tries again at once; a sink that was gone (410) or asked for patience gets its chance too. How many alerts that are. */
  retry(which: RetrySelection): Promise<number>;
  /** Ends attempts that are under way and waits for them. What was not delivered stays for the next start. */
  close(): Promise<void>;
};

export type Alert = {
  /** The same at every attempt: the receiver drops what it has seen. [A-Za-z0-9_-], at most 64. */
  readonly id: string;
  readonly sink: string;
  readonly type: AlertType;
  /** What order is kept for: the profile. */
  readonly subject: string;
  readonly severity: AlertSeverity;
  /** What it is about, the same from opening to the end: the incident's id. [A-Za-z0-9_-], at most 64. */
  readonly key: string;
  /** One sentence that stands alone in a chat window or on a pager. */
  readonly summary: string;
  /** What a person wants to see beside it, most important first. Bounded and made printable by each sink again. */
  readonly facts: readonly AlertFact[];
  /** JSON, `{ type, timestamp, data }`; a webhook sends it byte for byte as it is. */
  readonly body: string;
};

export type AlertFact = { readonly name: string; readonly value: string };

/** An alert before it is known where it goes. */
export type AlertDraft = Omit<Alert, 'sink'>;

export type AlertSeverity = 'info' | 'low' | 'medium' | 'high' | 'critical';

export type AlertType =
  | 'incident.opened'
  /** A person has looked and ended the quarantine. */
  | 'incident.released'
  /** It is over. */
  | 'incident.resolved'
  | 'approval.requested'
  /** A run was slowed down or paused for a breach, and lives. */
  | 'run.held'
  | 'ledger.checkpoint'
  /** Many in a short time, counted; made by the outbox. */
  | 'digest'
  | 'heartbeat'
  | 'test';

export type OutboxDepth = {
  readonly waiting: number;
  /** Given up after the horizon, or refused for good; kept as files for a person. */
  readonly dead: number;
  /** Sinks that answered 410 and get nothing more until the daemon starts again, or `alerts retry`. */
  readonly disabled: readonly string[];
  /** Age of the oldest that waits; null when none does. */
  readonly oldestMs: number | null;
  readonly bySink: readonly { readonly sink: string; readonly waiting: number; readonly oldestMs: number | null }[];
};

export type OutboxListing = {
  readonly sinks: readonly SinkState[];
  /** Oldest first, at most 1,000 of each. */
  readonly waiting: readonly WaitingAlert[];
  readonly dead: readonly DeadAlert[];
};

export type SinkState = {
  readonly name: string;
  /** null: alerts wait for it, but the configuration has no sink of this name. */
  readonly kind: SinkKind | null;
  readonly disabled: boolean;
  readonly waiting: number;
  readonly oldestMs: number | null;
  /** The receiver asked to be left alone for this long. */
  readonly pausedForMs: number | null;
  readonly lastDeliveredAt: string | null;
  readonly lastError: { readonly at: string; readonly message: string } | null;
  /** Of the dead-man signal: null when the sink has none. */
  readonly heartbeat: { readonly lastOkAt: string | null; readonly error: string | null } | null;
};

export type WaitingAlert = {
  readonly id: string;
  readonly sink: string;
  readonly type: AlertType;
  readonly subject: string;
  readonly severity: AlertSeverity;
  readonly queuedAt: string;
  readonly attempts: number;
  /** null: under way, waiting for an earlier one of its agent, disabled, or without a sink. */
  readonly retryInMs: number | null;
  /** It goes with a digest, not by itself. */
  readonly folded: boolean;
  readonly lastError: string | null;
};

export type DeadAlert = {
  readonly id: string;
  readonly sink: string;
  readonly type: AlertType;
  readonly subject: string;
  readonly severity: AlertSeverity;
  readonly queuedAt: string;
  readonly diedAt: string | null;
  readonly why: string;
};

/** By id (in every sink, waiting or dead), all dead ones, or everything that waits. */
export type RetrySelection =
  | { readonly kind: 'id'; readonly id: string }
  | { readonly kind: 'dead' }
  | { readonly kind: 'waiting' };

export type SinkTestResult = {
  readonly sink: string;
  readonly kind: SinkKind;
  readonly ok: boolean;
  /** The id under which the receiver sees it. */
  readonly id: string;
  /** What came back, one line. */
  readonly message: string;
  readonly tookMs: number;
};

export type AlertDelivered = {
  readonly id: string;
  readonly sink: string;
  readonly type: AlertType;
  readonly subject: string;
  readonly attempts: number;
  /** HTTP status, or 0 where the sink has none. */
  readonly status: number;
  readonly sinceQueuedMs: number;
  /** The digest that carried it, when it did not go by itself. */
  readonly digest: string | null;
};

export type AlertFailed = {
  readonly id: string;
  readonly sink: string;
  readonly type: AlertType;
  readonly subject: string;
  /** Attempts of this daemon; earlier ones are not counted after a restart. */
  readonly attempts: number;
  readonly message: string;
  /** True: it is given up and lies with the dead ones. */
  readonly final: boolean;
  readonly retryInMs: number | null;
};

export type SinkKind = Sink['type'];

/** A sink as the daemon's configuration has it, with its secrets read. */
export type Sink = (WebhookSink | SlackSink | PagerDutySink | AlertmanagerSink | JournaldSink | ExecSink) &
  Partial<SinkRules>;

/** What goes to a sink and how often. Left out: what its kind usually gets (`alert/filter.ts`). */
export type SinkRules = {
  /** For incidents and approvals; the other types are chosen by `types` alone. */
  readonly minSeverity: AlertSeverity;
  readonly types: readonly AlertType[];
  /** After this many alerts within `stormWindowMs` the rest of them becomes one digest. */
  readonly stormAfter: number;
  readonly stormWindowMs: number;
  /** null: no dead-man signal. */
  readonly heartbeatMs: number | null;
};

/** What all sinks have that are reached over HTTP. */
export type HttpSink = {
  readonly url: string;
  /** Lets the sink be on a private or loopback address, and lets it speak plain HTTP there. */
  readonly allowPrivate: boolean;
  /** PEM certificates to trust instead of those of the host, for a receiver with an authority of its own. */
  readonly ca?: string;
};

/** Standard Webhooks 1.0. `keys` are `whsec_…`, two during a rotation: the receiver may know either. */
export type WebhookSink = HttpSink & { readonly type: 'webhook'; readonly keys: readonly string[] };

/** A Slack incoming webhook: who knows its URL can post, so the URL is a secret. */
export type SlackSink = HttpSink & { readonly type: 'slack' };

/** PagerDuty Events API v2. */
export type PagerDutySink = HttpSink & { readonly type: 'pagerduty'; readonly routingKey: string };

/** Prometheus Alertmanager, API v2. `url` is where it is, without `/api/v2/alerts`. */
export type AlertmanagerSink = HttpSink & {
  readonly type: 'alertmanager';
  /** Added to every alert, so that the routing tree can use them. */
  readonly labels: Readonly<Record<string, string>>;
  /** An incident that nobody ends stops firing after this. */
  readonly firingMs: number;
  readonly bearerToken: string | null;
};

/** The journal of systemd, by its native protocol. */
export type JournaldSink = { readonly type: 'journald'; readonly socketPath: string };

/** A program of the host: the body on its standard input, no shell. */
export type ExecSink = {
  readonly type: 'exec';
  /** An absolute path and its arguments; nothing of an alert ever becomes an argument. */
  readonly command: readonly [string, ...string[]];
  readonly timeoutMs: number;
};
