import type { LedgerRecord, RecordDraft } from '../../src/core/ports/record.ts';
import type { OpenedLedger } from '../../src/ledger/ledger.ts';
import { fail } from '../../src/core/errors.ts';
import type { Agenda } from './agenda.ts';
import type { Random } from './random.ts';

/** What lies on the disk: it outlives every daemon. */
export type Disk = { readonly records: LedgerRecord[] };

export type MemoryLedger = Pick<
  OpenedLedger,
  'append' | 'failure' | 'read' | 'subscribe' | 'head' | 'close' | 'latestCheckpoint'
> & {
  /** The process is gone: of what was on its way to the disk a beginning has arrived. */
  crash(): void;
  /** From now on nothing can be written. */
  fill(): void;
};

const FLUSH_MS_MAX = 3;

type Waiting = { readonly record: LedgerRecord; readonly resolve: () => void; readonly reject: (error: Error) => void };

/** The ledger without a disk: group commit, and the loss of what was not committed. */
export function createMemoryLedger(options: {
  readonly disk: Disk;
  readonly agenda: Agenda;
  readonly random: Random;
  readonly onAppend: (record: LedgerRecord) => void;
}): MemoryLedger {
  const { disk, agenda, random } = options;
  const listeners = new Set<(record: LedgerRecord) => void>();
  let waiting: Waiting[] = [];
  let seq = disk.records.length;
  let scheduled = false;
  let gone = false;
  let failed: Error | null = null;

  const flush = (): void => {
    scheduled = false;
    if (gone) return;
    const batch = waiting;
    waiting = [];
    for (const { record, resolve } of batch) {
      disk.records.push(record);
      resolve();
      for (const listener of listeners) listener(record);
    }
  };

  const append = (draft: RecordDraft): ReturnType<OpenedLedger['append']> => {
    if (gone) return { seq: seq + 1, hash: '', flushed: new Promise(() => undefined) };
    if (failed !== null) return { seq: seq + 1, hash: '', flushed: Promise.reject(failed) };
    seq += 1;
    const at = new Date(agenda.nowMs).toISOString();
    // Through JSON as on the disk: what does not survive that must not count.
    const record = JSON.parse(JSON.stringify({ ...draft, seq, at, prev: '' })) as LedgerRecord;
    const flushed = Promise.withResolvers<void>();
    flushed.promise.catch(() => undefined);
    waiting.push({ record, resolve: flushed.resolve, reject: flushed.reject });
    if (!scheduled) {
      scheduled = true;
      agenda.after(random.below(FLUSH_MS_MAX + 1), flush);
    }
    options.onAppend(record);
    return { seq: record.seq, hash: '', flushed: flushed.promise };
  };

  return {
    append,
    failure: () => failed,
    async *read({ fromSeq }) {
      yield* disk.records.slice(fromSeq - 1);
    },
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    head: () => ({ seq, hash: '' }),
    close: () => Promise.resolve(),
    latestCheckpoint: () => null,
    crash: () => {
      if (gone) return;
      gone = true;
      disk.records.push(...waiting.slice(0, random.below(waiting.length + 1)).map(({ record }) => record));
      waiting = [];
    },
    fill: () => {
      failed = fail('LEDGER_UNWRITABLE', { detail: 'no space left on device' });
      for (const { reject } of waiting) reject(failed);
      seq -= waiting.length;
      waiting = [];
    },
  };
}
