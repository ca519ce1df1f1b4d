import { fail } from '../core/errors.ts';
import type { Ledger, LedgerRecord } from '../core/ports/record.ts';

/** More than this waiting for one slow reader ends its stream. */
const FOLLOW_RECORDS_MAX = 10_000;

/** Records from the beginning, and with `follow` those to come, each once and in order. */
export async function* followLedger(
  ledger: Ledger,
  options: {
    readonly follow: boolean;
    readonly wanted: (record: LedgerRecord) => boolean;
    readonly signal: AbortSignal;
  },
): AsyncIterable<LedgerRecord> {
  const fresh: LedgerRecord[] = [];
  let wake = (): void => undefined;
  const unsubscribe = ledger.subscribe((record) => {
    if (fresh.length < FOLLOW_RECORDS_MAX) fresh.push(record);
    wake();
  });
  options.signal.addEventListener('abort', () => wake(), { once: true });
  try {
    let lastSeq = 0;
    for await (const record of ledger.read({ fromSeq: 1 })) {
      lastSeq = record.seq;
      if (options.wanted(record)) yield record;
      if (options.signal.aborted) return;
    }
    while (options.follow && !options.signal.aborted) {
      const record = fresh.shift();
      if (record === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      if (record.seq > lastSeq && options.wanted(record)) yield record;
      if (fresh.length >= FOLLOW_RECORDS_MAX - 1)
        throw fail('REQUEST_INVALID', { detail: 'the reader of the events is too slow' });
    }
  } finally {
    unsubscribe();
  }
}
