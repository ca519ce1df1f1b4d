import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Log } from '../core/ports/log.ts';
import type { LedgerRecord, RecordDraft } from '../core/ports/record.ts';
import type { OpenedLedger } from './ledger.ts';
import { openLedger } from './ledger.ts';

/** What the tests of this folder share: a ledger in a temporary directory, and its lines as they lie on disk. */
const quietLog: Log = { debug() {}, info() {}, warn() {}, error() {} };

export const AT = '2026-10-05T08:00:00.000Z';

export async function withDirectory<Result>(work: (directory: string) => Promise<Result>): Promise<Result> {
  const directory = await mkdtemp(join(tmpdir(), 'ringfence-ledger-'));
  try {
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

export async function openTestLedger(directory: string): Promise<OpenedLedger> {
  return await openLedger({ directory, nowIso: () => AT, log: quietLog, seal: null });
}

/** Writes the drafts, waits for the disk and closes. */
export async function writeLedger(directory: string, drafts: readonly RecordDraft[]): Promise<void> {
  const ledger = await openTestLedger(directory);
  await Promise.all(drafts.map(async (draft) => await ledger.append(draft).flushed));
  await ledger.close();
}

export async function readAll(ledger: OpenedLedger, fromSeq = 1): Promise<LedgerRecord[]> {
  const records: LedgerRecord[] = [];
  for await (const record of ledger.read({ fromSeq })) records.push(record);
  return records;
}

export function segmentPath(directory: string, number = 1): string {
  return join(directory, `ledger-${String(number).padStart(6, '0')}.ndjson`);
}

export async function readSegmentLines(directory: string, number = 1): Promise<string[]> {
  return (await readFile(segmentPath(directory, number), 'utf8')).split('\n').slice(0, -1);
}

export async function writeSegmentLines(directory: string, lines: readonly string[], number = 1): Promise<void> {
  await writeFile(segmentPath(directory, number), lines.map((line) => `${line}\n`).join(''));
}

/** Records 1 to `count`, each with its number in it. */
export function numbered(count: number): RecordDraft[] {
  return Array.from({ length: count }, (_, index) => ({ kind: 'command.issued', runId: `r${index + 1}`, note: 'é✓' }));
}
