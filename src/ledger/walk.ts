import { setTimeout as delay } from 'node:timers/promises';
import { LINE_BYTES_MAX } from './bound.ts';
import { checkLine, GENESIS, hashLine, parseLine, placeOf } from './line.ts';
import type { Checked, Fault, Place } from './line.ts';
import { listSegments, openForReading, readLines } from './segments.ts';
import type { RawLine, Segment } from './segments.ts';

/** A place in the ledger where something is wrong. `line` counts from 1 in its file; 0 is the file itself. */
export type BadPlace = { readonly file: string; readonly line: number; readonly seq: number; readonly why: string };

export type WalkedLine = {
  readonly segment: Segment;
  readonly line: number;
  readonly offset: number;
  readonly length: number;
  readonly bytes: Buffer;
  readonly whole: boolean;
  readonly seq: number;
  readonly hash: string;
  /** Null for a line with a fault, and for a kind that no version ever wrote. */
  readonly kind: string | null;
  /** `bad` names the record before this one when that is the likelier of the two to have been changed. */
  readonly fault: (Fault & { readonly bad: BadPlace }) | null;
};

export type Walked =
  | { readonly kind: 'lines'; readonly lines: readonly WalkedLine[] }
  /** The ledger does not begin with its first file: only a record of the deletion can justify that. */
  | { readonly kind: 'start'; readonly start: LedgerStart }
  | { readonly kind: 'segment-fault'; readonly bad: BadPlace };

export type LedgerStart = { readonly segment: Segment; readonly seq: number; readonly prev: string };

/**
 * Every line of the ledger in order, each checked against the one before it, in bounded memory. After a fault the walk
 * goes on from what it found there, so that one fault is reported once.
 */
export async function* walkLedger(directory: string): AsyncGenerator<Walked> {
  let expected: Place = { seq: 1, prev: GENESIS };
  let number = 0;
  let last: WalkedLine | null = null;
  const segments = await listSegments(directory);
  const start = await startOf(segments[0]);
  if (start !== null) {
    yield { kind: 'start', start };
    expected = start;
    number = start.segment.number - 1;
  }
  for (const segment of segments) {
    number += 1;
    if (segment.number !== number) {
      const why = `the files from number ${number} to ${segment.number - 1} are missing`;
      yield { kind: 'segment-fault', bad: { file: segment.file, line: 0, seq: expected.seq, why } };
      number = segment.number;
    }
    const handle = await openForReading(segment.path);
    try {
      let line = 0;
      const to = (await handle.stat()).size;
      for await (const raws of readLines(handle, { from: 0, to, lineBytesMax: LINE_BYTES_MAX })) {
        const lines: WalkedLine[] = [];
        for (let raw of raws) {
          line += 1;
          if (!raw.whole) raw = await completed(handle, raw);
          last = walkLine(raw, { segment, line, expected, last });
          expected = { seq: last.seq + 1, prev: last.hash };
          lines.push(last);
        }
        yield { kind: 'lines', lines };
      }
    } finally {
      await handle.close();
    }
  }
}

async function startOf(segment: Segment | undefined): Promise<LedgerStart | null> {
  if (segment === undefined || segment.number === 1) return null;
  const handle = await openForReading(segment.path);
  try {
    const head = Buffer.alloc(START_BYTES);
    const { bytesRead } = await handle.read(head, 0, head.length, 0);
    const place = placeOf(head.subarray(0, bytesRead));
    return place === null ? { segment, seq: 1, prev: GENESIS } : { segment, ...place };
  } finally {
    await handle.close();
  }
}
const START_BYTES = 256;

/** What is wrong with a ledger that begins late, unless a record says that exactly this much was deleted for its age. */
export function lateStart(start: LedgerStart, pruned: Pruned | null): BadPlace | null {
  if (pruned !== null && pruned.toSeq === start.seq - 1 && pruned.hash === start.prev) return null;
  const why = `the files from number 1 to ${start.segment.number - 1} are missing, and no record says that they were deleted for their age`;
  return { file: start.segment.file, line: 0, seq: 1, why };
}

/** What the last `ledger.pruned` says: everything up to `toSeq`, whose record had this hash, in files up to a number. */
export type Pruned = { readonly toSeq: number; readonly hash: string; readonly throughFile: number };

export function prunedOf(line: WalkedLine): Pruned | null {
  if (line.kind !== 'ledger.pruned') return null;
  const record = parseLine(line.bytes);
  const [toSeq, hash, throughFile] = [record?.['toSeq'], record?.['hash'], record?.['throughFile']];
  const whole = typeof toSeq === 'number' && typeof hash === 'string' && typeof throughFile === 'number';
  return whole ? { toSeq, hash, throughFile } : null;
}

type Context = {
  readonly segment: Segment;
  readonly line: number;
  readonly expected: Place;
  readonly last: WalkedLine | null;
};

function walkLine(raw: RawLine, context: Context): WalkedLine {
  const { segment, line, expected, last } = context;
  const { bytes, offset, length, whole } = raw;
  const hash = hashLine(bytes);
  const { kind, fault } = whole ? checkLine(bytes, expected) : TORN;
  if (fault === null) {
    return { segment, line, offset, length, bytes, whole, seq: expected.seq, hash, kind, fault };
  }
  const said = fault.kind === 'unreadable' ? null : placeOf(bytes);
  const seq = said === null || said.seq > SEQ_MAX ? expected.seq : said.seq;
  const bad = badPlace(fault, { file: segment.file, line, seq, last });
  return { segment, line, offset, length, bytes, whole, seq, hash, kind, fault: { ...fault, bad } };
}

/** No honest ledger gets there; a forged number beyond it must not become where counting goes on. */
const SEQ_MAX = 2 ** 50;

const TORN: Checked = {
  kind: null,
  fault: { kind: 'unreadable', why: 'the last line is torn: it was not written completely' },
};

type Where = { readonly file: string; readonly line: number; readonly seq: number; readonly last: WalkedLine | null };

function badPlace(fault: Fault, { file, line, seq, last }: Where): BadPlace {
  if (fault.kind !== 'chain' || last === null || last.fault !== null) return { file, line, seq, why: fault.why };
  const why = `the line was changed and its checksum made to fit: record ${seq} holds another hash for it`;
  return { file: last.segment.file, line: last.line, seq: last.seq, why };
}

/** A ledger that is being written may end in half a line for a moment; one that stays so is torn. */
const SETTLE_TRIES = 5;
const SETTLE_MS = 40;

async function completed(handle: Parameters<typeof readLines>[0], raw: RawLine): Promise<RawLine> {
  if (raw.length > LINE_BYTES_MAX) return raw;
  for (let attempt = 0; attempt < SETTLE_TRIES; attempt += 1) {
    await delay(SETTLE_MS);
    const { size } = await handle.stat();
    if (size <= raw.offset + raw.length) continue;
    const to = Math.min(size, raw.offset + LINE_BYTES_MAX + 2);
    for await (const lines of readLines(handle, { from: raw.offset, to, lineBytesMax: LINE_BYTES_MAX })) {
      const first = lines[0];
      if (first?.whole === true) return first;
    }
  }
  return raw;
}
