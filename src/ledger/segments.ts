import { constants } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';

/** The ledger is a row of files, `ledger-000001.ndjson` and on; the chain goes on from one to the next. */
export type Segment = { readonly number: number; readonly file: string; readonly path: string };

const SEGMENT_PATTERN = /^ledger-(\d{6})\.ndjson$/;

export function segmentOf(directory: string, number: number): Segment {
  const file = `ledger-${String(number).padStart(6, '0')}.ndjson`;
  return { number, file, path: join(directory, file) };
}

/** In order of number. Anything else in the directory is left alone. Empty when there is no such directory. */
export async function listSegments(directory: string): Promise<readonly Segment[]> {
  const names = await readdir(directory).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  });
  return names
    .map((name) => Number(SEGMENT_PATTERN.exec(name)?.[1] ?? 0))
    .filter((number) => number > 0)
    .toSorted((left, right) => left - right)
    .map((number) => segmentOf(directory, number));
}

export async function openForReading(path: string): Promise<FileHandle> {
  return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
}

export async function openForAppending(path: string): Promise<FileHandle> {
  return await open(path, constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
}

/** A new or renamed file is only safe when the directory that names it is on disk too. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** One line as it lies in a file. `whole` is false for bytes after the last end of line. */
export type RawLine = {
  /** At most `bytesMax + 1` bytes of it, without the end of line. */
  readonly bytes: Buffer;
  readonly offset: number;
  readonly length: number;
  readonly whole: boolean;
};

const CHUNK_BYTES = 1024 * 1024;
const NEWLINE = 0x0a;

/** The lines between two offsets, a chunk's worth at a time; holds one chunk and one line, however long the lines are. */
export async function* readLines(
  handle: FileHandle,
  range: { readonly from: number; readonly to: number; readonly lineBytesMax: number },
): AsyncGenerator<readonly RawLine[]> {
  let offset = range.from;
  let carried: Buffer = Buffer.alloc(0);
  let carriedLength = 0;
  while (offset < range.to) {
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, range.to - offset));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, offset);
    if (bytesRead === 0) break;
    const chunk = buffer.subarray(0, bytesRead);
    const lines: RawLine[] = [];
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      const length = carriedLength + end - start;
      const part = chunk.subarray(start, Math.min(end, start + range.lineBytesMax + 1));
      const bytes = carriedLength === 0 ? part : Buffer.concat([carried, part]).subarray(0, range.lineBytesMax + 1);
      lines.push({ bytes, offset: offset + start - carriedLength, length, whole: true });
      carried = Buffer.alloc(0);
      carriedLength = 0;
      start = end + 1;
    }
    if (lines.length > 0) yield lines;
    const rest = chunk.subarray(start);
    if (rest.length > 0) carried = Buffer.concat([carried, rest]).subarray(0, range.lineBytesMax + 1);
    carriedLength += rest.length;
    offset += bytesRead;
  }
  if (carriedLength > 0) {
    yield [{ bytes: carried, offset: offset - carriedLength, length: carriedLength, whole: false }];
  }
}
