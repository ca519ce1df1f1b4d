/** What the supervisor writes down. The ledger gives each record its place, time, and hash. */
export const RECORD_KINDS = [
  'daemon.started',
  'daemon.stopped',
  'ledger.recovered',
  'ledger.key',
  'ledger.checkpoint',
  'ledger.pruned',
  'run.admitted',
  'run.refused',
  'run.started',
  'run.adopted',
  'run.verified',
  'run.ended',
  'run.cleaned',
  'run.changed',
  'run.held',
  'run.resumed',
  'approval.requested',
  'approval.decided',
  'approval.expired',
  'budget.warned',
  'egress.denied',
  'egress.allowed',
  'egress.unresolved',
  'egress.suppressed',
  'breach',
  'incident.opened',
  'incident.closed',
  'quarantine.set',
  'quarantine.released',
  'command.issued',
  'drift.detected',
  'enforcement.lost',
  'alert.delivered',
  'alert.failed',
  'garbage.collected',
] as const;

export type RecordKind = (typeof RECORD_KINDS)[number];

export type RecordDraft = {
  readonly kind: RecordKind;
  readonly runId?: string;
  readonly profile?: string;
  readonly [field: string]: unknown;
};

/** A record as it stands in the ledger: `seq` from 1, `at` UTC, `prev` the hash of the line before it. */
export type LedgerRecord = RecordDraft & { readonly seq: number; readonly at: string; readonly prev: string };

export type Ledger = {
  /** Returns at once with the place in the ledger; the bytes are on disk when `flushed` resolves (group commit). */
  append(draft: RecordDraft): { readonly seq: number; readonly hash: string; readonly flushed: Promise<void> };
  /** The first reason why nothing more can be written, or null. */
  failure(): Error | null;
  /** Records at `seq >= from`, oldest first, up to what is flushed now. */
  read(options: { readonly fromSeq: number }): AsyncIterable<LedgerRecord>;
  /** Called for each record after it is on disk. Returns the function that ends it. */
  subscribe(listener: (record: LedgerRecord) => void): () => void;
  /** The last record: where an incident says the chain stood. */
  head(): { readonly seq: number; readonly hash: string };
  close(): Promise<void>;
};
