import { constants } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { chmod, mkdir, open } from 'node:fs/promises';
import { assertNever } from '../core/assert.ts';
import { fail, messageOf } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger, LedgerRecord, RecordDraft } from '../core/ports/record.ts';
import { tryLock } from '../kernel/flock.ts';
import { LINE_BYTES_MAX } from './bound.ts';
import { GroupCommit } from './commit.ts';
import { encodeLine, hashLine, parseLine, placeOf } from './line.ts';
import type { PruneLimits } from './prune.ts';
import { findPrunable, removeSegments } from './prune.ts';
import type { IndexEntry, Survey } from './recover.ts';
import { brokenDraft, findUnrecordedRepair, repairTorn, surveyLedger } from './recover.ts';
import { Seal } from './seal.ts';
import type { SealOptions, SignedCheckpoint } from './seal.ts';
import type { Segment } from './segments.ts';
import { listSegments, openForAppending, openForReading, readLines, segmentOf, syncDirectory } from './segments.ts';
import type { Head } from './verify.ts';
import type { BadPlace } from './walk.ts';

export type LedgerOptions = {
  readonly directory: string;
  readonly nowIso: () => string;
  readonly log: Log;
  /** Signs checkpoints; null only where nobody needs them. */
  readonly seal: SealOptions | null;
  /** A file that would grow beyond this is followed by the next one. */
  readonly segmentBytesMax?: number;
};

export type OpenedLedger = Ledger & {
  /** The first bad record found when the ledger was opened, repaired or not; null when all was well. */
  readonly integrity: BadPlace | null;
  /** Signs where the chain stands now; null without a key. */
  checkpoint(): SignedCheckpoint | null;
  latestCheckpoint(): SignedCheckpoint | null;
  /** The last record that is on disk. */
  flushedSeq(): number;
  /** `name+hash+key`: what people keep elsewhere to check with. */
  publicKey(): string | null;
  rotateKey(): Promise<string>;
  /**
   * Deletes the oldest files with nothing younger in them. `carried` goes into the record of the deletion: what a start
   * must know and would otherwise only find in them. Returns the records deleted.
   */
  prune(limits: PruneLimits, carried: Readonly<Record<string, unknown>>): Promise<number>;
};

const SEGMENT_BYTES_MAX = 64 * 1024 * 1024;
/** More than this fits no line with the rest of the record, and nothing of it may be cut. */
const CARRIED_CHARS_MAX = 16_000;

/**
 * Opens the one writer of a ledger, makes the directory when there is none, and repairs what a crash left. A second
 * writer is refused with DAEMON_ALREADY_RUNNING for as long as the first one lives, however it ends. The directory and
 * everything in it is for the owner alone.
 */
export async function openLedger(options: LedgerOptions): Promise<OpenedLedger> {
  const { directory, log } = options;
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const lock = await lockDirectory(directory);
  try {
    await chmod(directory, 0o700);
    const survey = await surveyLedger(directory);
    const { segment, drafts } = await recover(directory, survey);
    if (survey.firstBad !== null) log.error({ ...survey.firstBad }, 'the ledger is damaged');
    const handle = await openForAppending(segment.path);
    await handle.chmod(0o600);
    await syncDirectory(directory);
    const sizeBytes = segment.number === survey.segment.number ? survey.sizeBytes : 0;
    const ledger = new FileLedger({ ...options, lock, handle, segment, sizeBytes, survey });
    if (survey.pruned !== null) await removeSegments(directory, survey.pruned.throughFile);
    await ledger.announceKey(survey.lastKey);
    for (const draft of drafts) await ledger.append(draft).flushed;
    return ledger;
  } catch (error) {
    await lock.close();
    throw error;
  }
}

async function lockDirectory(directory: string): Promise<FileHandle> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  if (tryLock(handle.fd)) return handle;
  await handle.close();
  const detail = `another daemon is writing the ledger in ${directory}`;
  throw fail('DAEMON_ALREADY_RUNNING', { detail, directory });
}

type Recovery = { readonly segment: Segment; readonly drafts: readonly RecordDraft[] };

async function recover(directory: string, survey: Survey): Promise<Recovery> {
  const { segment, tail, sizeBytes } = survey;
  switch (tail.kind) {
    case 'sound': {
      const draft = await findUnrecordedRepair(directory, { segment, sizeBytes });
      return { segment, drafts: draft === null ? [] : [draft] };
    }
    case 'torn':
      return { segment, drafts: [await repairTorn(directory, segment, tail.line)] };
    case 'damaged':
      return { segment: segmentOf(directory, segment.number + 1), drafts: [brokenDraft(tail.bad)] };
    default:
      return assertNever(tail);
  }
}

type Parts = LedgerOptions & {
  readonly lock: FileHandle;
  readonly handle: FileHandle;
  readonly segment: Segment;
  readonly sizeBytes: number;
  readonly survey: Survey;
};

class FileLedger implements OpenedLedger {
  readonly integrity: BadPlace | null;
  readonly #parts: Parts;
  readonly #commit: GroupCommit;
  readonly #index: IndexEntry[];
  readonly #listeners = new Set<(record: LedgerRecord) => void>();
  readonly #seal: Seal | null;
  #segment: Segment;
  #handle: FileHandle;
  #head: Head;
  #flushedBytes: number;
  #flushedSeq: number;
  #closed = false;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#segment = parts.segment;
    this.#handle = parts.handle;
    this.#head = parts.survey.head;
    this.#index = parts.survey.index;
    this.#flushedBytes = parts.sizeBytes;
    this.#flushedSeq = parts.survey.head.seq;
    this.integrity = parts.survey.firstBad;
    this.#commit = new GroupCommit({
      handle: parts.handle,
      rotate: (bytes) => this.#rotate(bytes),
      onFlushed: (lines, bytes) => this.#announce(lines, bytes),
      onFailed: (error) => parts.log.error({ error: messageOf(error) }, 'nothing more is recorded, and no run starts'),
    });
    this.#seal = parts.seal === null ? null : new Seal(parts.seal, this, parts.survey.lastCheckpointSeq);
  }

  append(draft: RecordDraft): { readonly seq: number; readonly hash: string; readonly flushed: Promise<void> } {
    const seq = this.#head.seq + 1;
    const line = encodeLine({ seq, prev: this.#head.hash }, this.#parts.nowIso(), draft);
    const flushed = this.#closed ? refused() : this.#commit.append(line);
    this.#head = { seq, hash: hashLine(line) };
    const written = { ...this.#head, flushed };
    if (!this.#closed) this.#seal?.noteRecord(seq, draft.kind);
    return written;
  }

  /** The key in use is on record before anything is signed with it. A changed one that the old one did not sign shows. */
  async announceKey(known: string | null): Promise<void> {
    const seal = this.#seal;
    if (seal !== null && seal.publicKey.text !== known) await seal.announce(seal.publicKey, false);
  }

  checkpoint(): SignedCheckpoint | null {
    return this.#seal?.sign() ?? null;
  }

  latestCheckpoint(): SignedCheckpoint | null {
    return this.#seal?.latest ?? null;
  }

  flushedSeq(): number {
    return this.#flushedSeq;
  }

  publicKey(): string | null {
    return this.#seal?.publicKey.text ?? null;
  }

  async rotateKey(): Promise<string> {
    if (this.#seal === null) throw fail('LEDGER_UNWRITABLE', { detail: 'this ledger signs no checkpoints' });
    return (await this.#seal.rotateKey()).text;
  }

  async prune(limits: PruneLimits, carried: Readonly<Record<string, unknown>>): Promise<number> {
    const { directory, log } = this.#parts;
    if (this.integrity !== null || this.#commit.failure !== null) return 0;
    const found = await findPrunable(directory, limits);
    const last = found?.segments.at(-1);
    if (found === null || last === undefined) return 0;
    if (JSON.stringify(carried).length > CARRIED_CHARS_MAX) {
      log.error({ files: found.segments.length }, 'old files of the ledger stay: what they hold does not fit a record');
      return 0;
    }
    const { fromSeq, toSeq, hash } = found;
    const files = found.segments.map(({ file }) => file);
    const draft = {
      kind: 'ledger.pruned' as const,
      throughFile: last.number,
      fromSeq,
      toSeq,
      hash,
      files: files.length,
    };
    await this.append({ ...carried, ...draft }).flushed;
    this.checkpoint();
    await removeSegments(directory, last.number);
    this.#index.splice(0, this.#index.length, ...this.#index.filter(({ segment }) => segment > last.number));
    return toSeq - fromSeq + 1;
  }

  failure(): Error | null {
    return this.#commit.failure;
  }

  head(): Head {
    return this.#head;
  }

  async *read(options: { readonly fromSeq: number }): AsyncGenerator<LedgerRecord> {
    const { directory } = this.#parts;
    const current = this.#segment;
    const end = this.#flushedBytes;
    const start = this.#index.findLast((entry) => entry.seq <= options.fromSeq) ?? { segment: 0, offset: 0 };
    for (const segment of await listSegments(directory)) {
      if (segment.number < start.segment || segment.number > current.number) continue;
      const handle = await openForReading(segment.path);
      try {
        const from = segment.number === start.segment ? start.offset : 0;
        const to = segment.number === current.number ? end : (await handle.stat()).size;
        for await (const lines of readLines(handle, { from, to, lineBytesMax: LINE_BYTES_MAX })) {
          for (const line of lines) {
            // What is no record any more is for `verify` to report; the rest of the history is still of use.
            const record = line.whole ? parseLine(line.bytes) : null;
            if (record !== null && record.seq >= options.fromSeq) yield record;
          }
        }
      } finally {
        await handle.close();
      }
    }
  }

  subscribe(listener: (record: LedgerRecord) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#seal?.close();
    this.checkpoint();
    this.#closed = true;
    await this.#commit.drain();
    await this.#handle.close();
    // Closing the directory ends the lock, so it comes last.
    await this.#parts.lock.close();
  }

  /** Between two batches: the chain goes on in the next file, whose first record is where an index may begin. */
  async #rotate(bytes: number): Promise<FileHandle | null> {
    const bytesMax = this.#parts.segmentBytesMax ?? SEGMENT_BYTES_MAX;
    if (this.#flushedBytes === 0 || this.#flushedBytes + bytes <= bytesMax) return null;
    const next = segmentOf(this.#parts.directory, this.#segment.number + 1);
    const handle = await openForAppending(next.path);
    await handle.chmod(0o600);
    await syncDirectory(this.#parts.directory);
    await this.#handle.close();
    this.#segment = next;
    this.#handle = handle;
    this.#flushedBytes = 0;
    // Signed after the batch that opens the file, so that each file ends within reach of a signature.
    queueMicrotask(() => this.#seal?.renew());
    return handle;
  }

  #announce(lines: readonly string[], bytes: number): void {
    const first = this.#flushedBytes === 0 ? placeOf(Buffer.from(lines[0] ?? '')) : null;
    if (first !== null) this.#index.push({ seq: first.seq, segment: this.#segment.number, offset: 0 });
    this.#flushedBytes += bytes;
    this.#flushedSeq += lines.length;
    if (this.#listeners.size === 0) return;
    for (const line of lines) {
      const record = parseLine(line);
      if (record === null) continue;
      for (const listener of this.#listeners) this.#tell(listener, record);
    }
  }

  /** A listener that fails is not heard of again: what it shows is lost, the record is not. */
  #tell(listener: (record: LedgerRecord) => void, record: LedgerRecord): void {
    try {
      listener(record);
    } catch (error) {
      this.#listeners.delete(listener);
      this.#parts.log.error({ seq: record.seq, error: messageOf(error) }, 'a listener of the ledger failed');
    }
  }
}

function refused(): Promise<never> {
  const promise = Promise.reject(fail('LEDGER_UNWRITABLE', { detail: 'the ledger is closed' }));
  promise.catch(() => {});
  return promise;
}
