import { setTimeout as delay } from 'node:timers/promises';
import { messageOf } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import type { OpenedLedger } from '../ledger/ledger.ts';

const DAY_MS = 86_400_000;
const CHECK_MS = 3_600_000;

export type Retention = {
  readonly ledger: Pick<OpenedLedger, 'prune'>;
  readonly days: number;
  /** What a start would otherwise only find in the files that go. */
  carried(): Readonly<Record<string, unknown>>;
  /** Where the oldest run that is alive was admitted. */
  oldestOpenSeq(): number;
  readonly log: Log;
  readonly signal: AbortSignal;
};

/** Deletes what is older than the retention, once an hour; the deletion is on record before anything goes. */
export async function keepRetention(options: Retention): Promise<void> {
  const { ledger, days, log, signal } = options;
  while (!signal.aborted) {
    const olderThan = new Date(Date.now() - days * DAY_MS).toISOString();
    try {
      const records = await ledger.prune({ olderThan, keepFromSeq: options.oldestOpenSeq() }, options.carried());
      if (records > 0) log.info({ records, olderThan }, 'old records of the ledger were deleted');
    } catch (error) {
      log.error({ error: messageOf(error) }, 'old records of the ledger could not be deleted');
    }
    await delay(CHECK_MS, undefined, { signal }).catch(() => undefined);
  }
}
