import { GENESIS } from './line.ts';
import { KeyRing } from './key-ring.ts';
import type { NoteKey } from './note.ts';
import type { BadPlace, LedgerStart, Pruned } from './walk.ts';
import { lateStart, prunedOf, walkLedger } from './walk.ts';

export type { BadPlace } from './walk.ts';

export type Head = { readonly seq: number; readonly hash: string };

export type Verification = {
  readonly ok: boolean;
  /** Good records before the first bad one. */
  readonly records: number;
  readonly firstBad: BadPlace | null;
  /** The last good record: compare it with what an alert, a report or `ringfence doctor` said at the time. */
  readonly head: Head;
  /** Checkpoints whose signature fits, and where the last of them stands. */
  readonly checkpoints: number;
  readonly lastCheckpoint: Head | null;
  /** The public keys that signed, oldest first. */
  readonly keys: readonly string[];
  /** Records up to here were deleted for their age, which is on record; 0: none. */
  readonly prunedThroughSeq: number;
};

export type VerifyOptions = {
  readonly directory: string;
  /** A record known from elsewhere: without one, records removed from the end leave no trace. */
  readonly checkpoint?: Head;
  /** A public key known from elsewhere: without one, the keys that the ledger itself announces are taken at their word. */
  readonly key?: NoteKey;
};

/** Checks the ledger with nothing but its files: no daemon, no lock. Reads each byte once, in bounded memory. */
export async function verifyLedger(options: VerifyOptions): Promise<Verification> {
  const { directory, checkpoint, key } = options;
  const ring = new KeyRing(key ?? null);
  let records = 0;
  let head: Head = { seq: 0, hash: GENESIS };
  let segments = 0;
  let start: LedgerStart | null = null;
  let pruned: Pruned | null = null;
  const answer = (firstBad: BadPlace | null): Verification => {
    const { checkpoints, lastCheckpoint, keys } = ring;
    const prunedThroughSeq = start === null ? 0 : start.seq - 1;
    return { ok: firstBad === null, records, firstBad, head, checkpoints, lastCheckpoint, keys, prunedThroughSeq };
  };
  // The chain blames the record before the one where it breaks, so a good record counts when its successor is good.
  for await (const walked of walkLedger(directory)) {
    segments += 1;
    if (walked.kind === 'segment-fault') return answer(walked.bad);
    if (walked.kind === 'start') {
      start = walked.start;
      head = { seq: start.seq - 1, hash: start.prev };
      continue;
    }
    for (const line of walked.lines) {
      const at = { file: line.segment.file, line: line.line, seq: line.seq };
      if (line.fault !== null) return answer(line.fault.bad);
      if (checkpoint?.seq === line.seq && checkpoint.hash !== line.hash) {
        const why = `the record is not the one that the checkpoint knows: its hash is ${line.hash}`;
        return answer({ ...at, why });
      }
      const forged = ring.look(line, head);
      if (forged !== null) return answer({ ...at, why: forged });
      pruned = prunedOf(line) ?? pruned;
      records += 1;
      head = { seq: line.seq, hash: line.hash };
    }
  }
  if (segments === 0) return answer(missing(directory));
  const late = start === null ? null : lateStart(start, pruned);
  return answer(late ?? removed(directory, head, checkpoint) ?? unsigned(directory, ring.complaint()));
}

function missing(directory: string): BadPlace {
  return { file: directory, line: 0, seq: 0, why: 'there is no record of a ledger in this directory' };
}

function removed(directory: string, head: Head, checkpoint: Head | undefined): BadPlace | null {
  if (checkpoint === undefined || checkpoint.seq <= head.seq) return null;
  const why = `records ${head.seq + 1} to ${checkpoint.seq} are known to the checkpoint and were removed`;
  return { file: directory, line: 0, seq: head.seq + 1, why };
}

function unsigned(directory: string, why: string | null): BadPlace | null {
  return why === null ? null : { file: directory, line: 0, seq: 0, why };
}
