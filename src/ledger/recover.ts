import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { RecordDraft } from '../core/ports/record.ts';
import { GENESIS, parseLine } from './line.ts';
import type { Segment } from './segments.ts';
import { openForReading, segmentOf, syncDirectory } from './segments.ts';
import type { Head } from './verify.ts';
import type { BadPlace, LedgerStart, Pruned, WalkedLine } from './walk.ts';
import { lateStart, prunedOf, walkLedger } from './walk.ts';

/** Every so many records one place is remembered, so that reading from a late record does not start at the first. */
const INDEX_EVERY_RECORDS = 1_024;

export type IndexEntry = { readonly seq: number; readonly segment: number; readonly offset: number };

/** What a walk over the whole ledger found; the writer goes on from here. */
export type Survey = {
  readonly head: Head;
  readonly segment: Segment;
  /** Where the next record of `segment` begins. */
  readonly sizeBytes: number;
  readonly index: IndexEntry[];
  readonly firstBad: BadPlace | null;
  readonly tail: Tail;
  /** The public key that was announced last, and where the last checkpoint stands (0: there is none). */
  readonly lastKey: string | null;
  readonly lastCheckpointSeq: number;
  readonly pruned: Pruned | null;
};

/**
 * `torn`: the last line of the last segment is damaged and nothing else in that segment is. `damaged`: something before
 * it is, so the segment is evidence and nothing is written to it any more.
 */
export type Tail =
  | { readonly kind: 'sound' }
  | { readonly kind: 'torn'; readonly line: WalkedLine }
  | { readonly kind: 'damaged'; readonly bad: BadPlace };

export async function surveyLedger(directory: string): Promise<Survey> {
  let head: Head = { seq: 0, hash: GENESIS };
  let before: Head = head;
  let segment = segmentOf(directory, 1);
  let sizeBytes = 0;
  let firstBad: BadPlace | null = null;
  let tail: Tail = { kind: 'sound' };
  let start: LedgerStart | null = null;
  let pruned: Pruned | null = null;
  let lastKey: string | null = null;
  let lastCheckpointSeq = 0;
  const index: IndexEntry[] = [];
  for await (const walked of walkLedger(directory)) {
    if (walked.kind === 'start') {
      start = walked.start;
      head = { seq: start.seq - 1, hash: start.prev };
      segment = start.segment;
      continue;
    }
    if (walked.kind === 'segment-fault') {
      firstBad ??= walked.bad;
      continue;
    }
    for (const line of walked.lines) {
      if (line.segment.number !== segment.number) {
        segment = line.segment;
        tail = { kind: 'sound' };
      }
      before = head;
      // A fault that is followed by another line is damage before the last record.
      if (tail.kind === 'torn') tail = { kind: 'damaged', bad: tail.line.fault?.bad ?? placeOfLine(tail.line) };
      if (line.fault !== null) {
        firstBad ??= line.fault.bad;
        const first = tail.kind === 'sound' && line.fault.kind === 'unreadable';
        if (first) tail = { kind: 'torn', line };
        else if (tail.kind === 'sound') tail = { kind: 'damaged', bad: line.fault.bad };
      }
      pruned = prunedOf(line) ?? pruned;
      if (line.kind === 'ledger.key') lastKey = keyTextOf(line) ?? lastKey;
      if (line.kind === 'ledger.checkpoint') lastCheckpointSeq = line.seq;
      head = { seq: line.seq, hash: line.hash };
      sizeBytes = line.offset + line.length + (line.whole ? 1 : 0);
      if (line.seq % INDEX_EVERY_RECORDS === 1 && line.fault === null) {
        index.push({ seq: line.seq, segment: segment.number, offset: line.offset });
      }
    }
  }
  if (start !== null) firstBad = lateStart(start, pruned) ?? firstBad;
  const found = { segment, lastKey, lastCheckpointSeq, pruned };
  if (tail.kind !== 'torn') return { ...found, head, sizeBytes, index, firstBad, tail };
  const sound = index.filter((entry) => entry.segment !== segment.number || entry.offset < tail.line.offset);
  // What is about to be repaired is no longer bad; what was bad before it still is.
  const still = firstBad === tail.line.fault?.bad ? null : firstBad;
  return { ...found, head: before, sizeBytes: tail.line.offset, index: sound, firstBad: still, tail };
}

function keyTextOf(line: WalkedLine): string | null {
  const text = parseLine(line.bytes)?.['key'];
  return typeof text === 'string' ? text : null;
}

function placeOfLine(line: WalkedLine): BadPlace {
  return { file: line.segment.file, line: line.line, seq: line.seq, why: 'the line is not a record' };
}

/**
 * Moves the bytes of a torn last line to a file of their own before cutting them off, so that nothing is ever lost:
 * each step is on disk before the next, and a crash between any two is finished by the next start.
 */
export async function repairTorn(directory: string, segment: Segment, line: WalkedLine): Promise<RecordDraft> {
  const source = await open(segment.path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    const size = (await source.stat()).size;
    const { handle, file } = await createTornFile(directory, segment, line.offset);
    let sha256: string;
    try {
      sha256 = await copyBytes({ source, target: handle, from: line.offset, to: size });
      await handle.sync();
    } finally {
      await handle.close();
    }
    await syncDirectory(directory);
    await source.truncate(line.offset);
    await source.sync();
    return tornDraft({ segment, file, offset: line.offset, bytes: size - line.offset, sha256 });
  } finally {
    await source.close();
  }
}

/** The record that a crash kept from being written: the torn bytes are moved and cut off, and nothing follows them yet. */
export async function findUnrecordedRepair(
  directory: string,
  end: { readonly segment: Segment; readonly sizeBytes: number },
): Promise<RecordDraft | null> {
  const prefix = tornPrefix(end.segment, end.sizeBytes);
  const file = (await readdir(directory))
    .filter((name) => name.startsWith(prefix))
    .toSorted()
    .at(-1);
  if (file === undefined) return null;
  const handle = await openForReading(join(directory, file));
  try {
    const bytes = (await handle.stat()).size;
    const sha256 = await copyBytes({ source: handle, target: null, from: 0, to: bytes });
    return tornDraft({ segment: end.segment, file, offset: end.sizeBytes, bytes, sha256 });
  } finally {
    await handle.close();
  }
}

export function brokenDraft(bad: BadPlace): RecordDraft {
  return { kind: 'ledger.recovered', how: 'new-segment', broken: true, ...prefixed(bad) };
}

function prefixed(bad: BadPlace): Record<string, unknown> {
  return { file: bad.file, line: bad.line, badSeq: bad.seq, why: bad.why };
}

type TornFacts = {
  readonly segment: Segment;
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
  readonly sha256: string;
};

function tornDraft(facts: TornFacts): RecordDraft {
  const { segment, file, offset, bytes, sha256 } = facts;
  return {
    kind: 'ledger.recovered',
    how: 'torn-tail',
    broken: false,
    file: segment.file,
    offset,
    movedTo: file,
    bytes,
    sha256,
  };
}

function tornPrefix(segment: Segment, offset: number): string {
  return `torn-${String(segment.number).padStart(6, '0')}-${offset}-`;
}

const TORN_FILES_MAX = 100;

async function createTornFile(directory: string, segment: Segment, offset: number) {
  for (let attempt = 1; attempt <= TORN_FILES_MAX; attempt += 1) {
    const file = `${tornPrefix(segment, offset)}${String(attempt).padStart(3, '0')}`;
    try {
      return { file, handle: await open(join(directory, file), 'wx', 0o600) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
  throw new Error(`more than ${TORN_FILES_MAX} torn files for one place`);
}

const COPY_BYTES = 256 * 1024;

type Copy = {
  readonly source: FileHandle;
  readonly target: FileHandle | null;
  readonly from: number;
  readonly to: number;
};

/** The SHA-256 of what was copied. */
async function copyBytes({ source, target, from, to }: Copy): Promise<string> {
  const hash = createHash('sha256');
  for (let offset = from; offset < to;) {
    const buffer = Buffer.allocUnsafe(Math.min(COPY_BYTES, to - offset));
    const { bytesRead } = await source.read(buffer, 0, buffer.length, offset);
    if (bytesRead === 0) break;
    const part = buffer.subarray(0, bytesRead);
    hash.update(part);
    if (target !== null) await target.writeFile(part);
    offset += bytesRead;
  }
  return hash.digest('hex');
}
