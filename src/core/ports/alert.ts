/**
 * What leaves the host: alerts to the sinks that the daemon's configuration names. An alert is on disk before the first
 * attempt and stays there until the sink has it, across restarts; one agent's alerts reach a sink in their order.
 */
export type AlertOutbox = {
  /** Resolves when the alert is on disk. Rejects ALERT_NOT_KEPT when it cannot be. The same id and sink is kept once. */
  enqueue(alert: Alert): Promise<void>;
  depth(): OutboxDepth;
  /** Ends attempts that are under way and waits for them. What was not delivered stays for the next start. */
  close(): Promise<void>;
};

export type Alert = {
  /** The same at every attempt: the receiver drops what it has seen. [A-Za-z0-9_-], at most 64. */
  readonly id: string;
  readonly sink: string;
  readonly type: string;
  /** What order is kept for: the profile. */
  readonly subject: string;
  /** JSON, sent byte for byte as it is. */
  readonly body: string;
};

export type OutboxDepth = {
  readonly waiting: number;
  /** Given up after the horizon; kept as files for a person. */
  readonly dead: number;
  /** Sinks that answered 410 and get nothing more until the daemon starts again. */
  readonly disabled: readonly string[];
};

export type AlertDelivered = {
  readonly id: string;
  readonly sink: string;
  readonly type: string;
  readonly subject: string;
  readonly attempts: number;
  readonly status: number;
  readonly sinceQueuedMs: number;
};

export type AlertFailed = {
  readonly id: string;
  readonly sink: string;
  readonly type: string;
  readonly subject: string;
  /** Attempts of this daemon; earlier ones are not counted after a restart. */
  readonly attempts: number;
  readonly message: string;
  /** True: it is given up and lies with the dead ones. */
  readonly final: boolean;
  readonly retryInMs: number | null;
};

/** One kind of sink in this version. `keys` are `whsec_…`, two during a rotation: the receiver may know either. */
export type WebhookSink = {
  readonly type: 'webhook';
  readonly url: string;
  readonly keys: readonly string[];
  /** Lets the sink be on a private or loopback address, and lets it speak plain HTTP there. */
  readonly allowPrivate: boolean;
};
