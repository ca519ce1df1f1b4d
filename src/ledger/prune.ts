import { rm } from 'node:fs/promises';
import { LINE_BYTES_MAX } from './bound.ts';
import { parseLine } from './line.ts';
import type { Segment } from './segments.ts';
import { listSegments, openForReading, readLines, syncDirectory } from './segments.ts';

/** The oldest files that hold nothing younger than a moment, and where the ledger begins without them. */
export type Prunable = {
  readonly segments: readonly Segment[];
  readonly fromSeq: number;
  readonly toSeq: number;
  /** Of record `toSeq`: what the first record that stays says of the one before it. */
  readonly hash: string;
};

export type PruneLimits = {
  readonly olderThan: string;
  /** Records from this one on stay whatever their age: a run that is still open was admitted there. */
  readonly keepFromSeq: number;
};

/**
 * A file is old when the first record of the next one is. The file that is being written has no next one and never
 * goes. A file whose successor cannot be read stays: what is not understood is evidence.
 */
export async function findPrunable(directory: string, limits: PruneLimits): Promise<Prunable | null> {
  const segments = await listSegments(directory);
  const first = segments[0] === undefined ? null : await firstRecord(segments[0]);
  const old: Segment[] = [];
  let end: { readonly seq: number; readonly prev: string } | null = null;
  for (const [index, segment] of segments.slice(0, -1).entries()) {
    const next = segments[index + 1];
    const after = next === undefined ? null : await firstRecord(next);
    if (first === null || after === null || after.at >= limits.olderThan || after.seq > limits.keepFromSeq) break;
    old.push(segment);
    end = after;
  }
  if (first === null || end === null) return null;
  return { segments: old, fromSeq: first.seq, toSeq: end.seq - 1, hash: end.prev };
}

/** Also finishes what a crash left undone: the record of a deletion is on disk before the first file goes. */
export async function removeSegments(directory: string, throughFile: number): Promise<void> {
  const old = (await listSegments(directory)).filter(({ number }) => number <= throughFile);
  for (const { path } of old) await rm(path);
  if (old.length > 0) await syncDirectory(directory);
}

async function firstRecord(segment: Segment) {
  const handle = await openForReading(segment.path);
  try {
    const { size } = await handle.stat();
    const to = Math.min(size, LINE_BYTES_MAX + 1);
    for await (const lines of readLines(handle, { from: 0, to, lineBytesMax: LINE_BYTES_MAX })) {
      const line = lines[0];
      return line?.whole === true ? parseLine(line.bytes) : null;
    }
    return null;
  } finally {
    await handle.close();
  }
}
