import { hash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { LedgerRecord, RecordDraft } from '../core/ports/record.ts';
import { encodeDraft, LINE_BYTES_MAX } from './bound.ts';
import { isPlainJson } from './json-scan.ts';

/**
 * One line of the ledger:
 *
 *   {"seq":7,"at":"2026-10-05T08:00:00.000Z","prev":"<64 hex>","kind":"run.started",…,"crc":"<8 hex>"}
 *
 * `prev` is the SHA-256 of the exact bytes of the line before, without its end of line; the first line has 64 zeros.
 * `crc` is the CRC-32 of the bytes of this line before `,"crc"`: it finds damage to the last line, which no later hash
 * covers yet, and tells a torn write from a whole one. It is no protection against somebody who can compute a CRC; the
 * chain is, once its head is known elsewhere.
 */
export const GENESIS = '0'.repeat(64);

export type Place = { readonly seq: number; readonly prev: string };

export function encodeLine(place: Place, at: string, draft: RecordDraft): string {
  const body = `{"seq":${place.seq},"at":"${at}","prev":"${place.prev}",${encodeDraft(draft).slice(1, -1)}`;
  return `${body},"crc":"${checksum(body)}"}`;
}

export function hashLine(line: string | Uint8Array): string {
  return hash('sha256', line, 'hex');
}

function checksum(body: string | Uint8Array): string {
  return crc32(body).toString(16).padStart(8, '0');
}

/** `unreadable`: damaged or torn by itself. `order`: a record in the wrong place. `chain`: it or the one before was changed. */
export type Fault = { readonly kind: 'unreadable' | 'order' | 'chain'; readonly why: string };

const HEAD_BYTES_MAX = 160;
const HEAD_PATTERN =
  /^\{"seq":([1-9]\d{0,15}),"at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","prev":"([0-9a-f]{64})","kind":"/;
const TAIL_BYTES = ',"crc":"01234567"}'.length;
const TAIL_PATTERN = /^,"crc":"([0-9a-f]{8})"\}$/;

/** What the head of a line says of its place, or null when it is not the head of a record. Trusts nothing else in it. */
export function placeOf(line: Buffer): Place | null {
  const head = HEAD_PATTERN.exec(line.toString('latin1', 0, HEAD_BYTES_MAX));
  return head === null ? null : { seq: Number(head[1]), prev: head[2] ?? '' };
}

/** A line that was looked at. `kind` is null with a fault, and for what no version ever wrote as a kind. */
export type Checked = { readonly kind: string | null; readonly fault: Fault | null };

/** Whether a line is the one that should stand at `expected`; if not, the first thing wrong with it. */
export function checkLine(line: Buffer, expected: Place): Checked {
  const kind = kindOfSound(line, expected);
  if (kind !== null) return { kind, fault: null };
  const fault = faultOf(line, expected);
  return { kind: fault === null ? kindOf(line) : null, fault };
}

const KIND_PATTERN = /^\{"seq":\d+,"at":"[^"]{24}","prev":"[0-9a-f]{64}","kind":"([a-z.-]{1,40})"/;

function kindOf(line: Buffer): string | null {
  return KIND_PATTERN.exec(line.toString('latin1', 0, HEAD_BYTES_MAX + 48))?.[1] ?? null;
}

const AT_AND_PREV = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","prev":"/y;
const KIND = /","kind":"([a-z.-]{1,40})"/y;
const AT_AND_PREV_CHARS = '2026-10-05T08:00:00.000Z","prev":"'.length;

/**
 * The kind of a line that is exactly what should stand at `expected`, or null: then only `faultOf` knows whether and what
 * is wrong. A million sound lines pass here, so what a line has to say is compared with it instead of being read from it.
 */
function kindOfSound(line: Buffer, { seq, prev }: Place): string | null {
  if (line.length > LINE_BYTES_MAX || line.length < TAIL_BYTES) return null;
  // One byte, one character: JSON is made of ASCII, and what else stands in its strings does not matter here.
  const text = line.toString('latin1');
  const start = `{"seq":${seq},"at":"`;
  const prevAt = start.length + AT_AND_PREV_CHARS;
  if (!text.startsWith(start) || !text.startsWith(prev, prevAt)) return null;
  AT_AND_PREV.lastIndex = start.length;
  KIND.lastIndex = prevAt + prev.length;
  const kind = AT_AND_PREV.test(text) ? KIND.exec(text)?.[1] : undefined;
  if (kind === undefined) return null;
  const sum = checksum(line.subarray(0, line.length - TAIL_BYTES));
  return text.endsWith(`,"crc":"${sum}"}`) && isPlainJson(line) ? kind : null;
}

/** The first thing wrong with a line that should stand at `expected`, or null. */
export function faultOf(line: Buffer, expected: Place): Fault | null {
  const place = placeOf(line);
  if (line.length > LINE_BYTES_MAX) return { kind: 'unreadable', why: 'the line is longer than any record' };
  const tail = TAIL_PATTERN.exec(line.toString('latin1', Math.max(0, line.length - TAIL_BYTES)));
  if (place === null || tail === null) return { kind: 'unreadable', why: 'the line is not a record' };
  if (checksum(line.subarray(0, line.length - TAIL_BYTES)) !== tail[1]) {
    return { kind: 'unreadable', why: 'the bytes of the line were changed: its checksum does not match' };
  }
  if (place.seq !== expected.seq) {
    return { kind: 'order', why: `record ${expected.seq} should stand here, but it is record ${place.seq}` };
  }
  if (place.prev !== expected.prev) {
    return { kind: 'chain', why: `record ${place.seq} holds another hash for the line before it` };
  }
  if (parseLine(line) === null) return { kind: 'unreadable', why: 'the line is not JSON' };
  return null;
}

/** The record of a line, without its checksum; null when it is none. */
export function parseLine(line: string | Buffer): LedgerRecord | null {
  try {
    const record: unknown = JSON.parse(line.toString());
    if (typeof record !== 'object' || record === null || !('seq' in record)) return null;
    delete (record as { crc?: unknown }).crc;
    return record as LedgerRecord;
  } catch {
    return null;
  }
}
