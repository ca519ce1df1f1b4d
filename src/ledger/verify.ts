import { GENESIS } from './line.ts';
import type { BadPlace } from './walk.ts';
import { walkLedger } from './walk.ts';

export type { BadPlace } from './walk.ts';

export type Head = { readonly seq: number; readonly hash: string };

export type Verification = {
  readonly ok: boolean;
  /** Good records before the first bad one. */
  readonly records: number;
  readonly firstBad: BadPlace | null;
  /** The last good record: compare it with what an alert, a report or `ringfence doctor` said at the time. */
  readonly head: Head;
};

export type VerifyOptions = {
  readonly directory: string;
  /** A record known from elsewhere: without one, records removed from the end leave no trace. */
  readonly checkpoint?: Head;
};

/** Checks the ledger with nothing but its files: no daemon, no lock, no key. Reads each byte once, in bounded memory. */
export async function verifyLedger(options: VerifyOptions): Promise<Verification> {
  const { directory, checkpoint } = options;
  let records = 0;
  let head: Head = { seq: 0, hash: GENESIS };
  let segments = 0;
  // The chain blames the record before the one where it breaks, so a good record counts when its successor is good.
  for await (const walked of walkLedger(directory)) {
    segments += 1;
    if (walked.kind === 'segment-fault') return { ok: false, records, firstBad: walked.bad, head };
    for (const line of walked.lines) {
      if (line.fault !== null) return { ok: false, records, firstBad: line.fault.bad, head };
      if (checkpoint?.seq === line.seq && checkpoint.hash !== line.hash) {
        const why = `the record is not the one that the checkpoint knows: its hash is ${line.hash}`;
        const firstBad = { file: line.segment.file, line: line.line, seq: line.seq, why };
        return { ok: false, records, firstBad, head };
      }
      records += 1;
      head = { seq: line.seq, hash: line.hash };
    }
  }
  const firstBad = segments === 0 ? missing(directory) : removed(directory, head, checkpoint);
  return { ok: firstBad === null, records, firstBad, head };
}

function missing(directory: string): BadPlace {
  return { file: directory, line: 0, seq: 0, why: 'there is no record of a ledger in this directory' };
}

function removed(directory: string, head: Head, checkpoint: Head | undefined): BadPlace | null {
  if (checkpoint === undefined || checkpoint.seq <= head.seq) return null;
  const why = `records ${head.seq + 1} to ${checkpoint.seq} are known to the checkpoint and were removed`;
  return { file: directory, line: 0, seq: head.seq + 1, why };
}
