import type { FileHandle } from 'node:fs/promises';
import { fail, messageOf } from '../core/errors.ts';

/** What waits for the disk at most; a disk that is further behind is broken, and nothing new may start. */
const QUEUE_BYTES_MAX = 32 * 1024 * 1024;
/** One write and one sync take at most this much, so that the first of many waits no longer than needed. */
const BATCH_BYTES_MAX = 1024 * 1024;

type Batch = {
  readonly lines: string[];
  bytes: number;
  readonly flushed: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
};

export type CommitOptions = {
  readonly handle: FileHandle;
  /** Asked before each write: the file to go on in, or null for the one before. */
  rotate(bytes: number): Promise<FileHandle | null>;
  onFlushed(lines: readonly string[], bytes: number): void;
  /** Once: nothing more is written from here on. */
  onFailed(error: Error): void;
};

/**
 * Group commit: whatever was appended while the disk was busy goes out with the next write and the next sync. After
 * the first failure nothing more is written: what the file holds is unknown then, and the next start finds out.
 */
export class GroupCommit {
  readonly #options: CommitOptions;
  #handle: FileHandle;
  #batches: Batch[] = [];
  #queuedBytes = 0;
  #failure: Error | null = null;
  #running: Promise<void> | null = null;

  constructor(options: CommitOptions) {
    this.#options = options;
    this.#handle = options.handle;
  }

  get failure(): Error | null {
    return this.#failure;
  }

  append(line: string): Promise<void> {
    if (this.#failure !== null) return rejected(this.#failure);
    if (this.#queuedBytes + line.length > QUEUE_BYTES_MAX) {
      const detail = `the disk is ${QUEUE_BYTES_MAX / 2 ** 20} MiB behind what the ledger should hold`;
      return rejected(this.#fail(fail('LEDGER_UNWRITABLE', { detail })));
    }
    let batch = this.#batches.at(-1);
    if (batch === undefined || batch.bytes >= BATCH_BYTES_MAX) this.#batches.push((batch = newBatch()));
    batch.lines.push(line);
    batch.bytes += line.length + 1;
    this.#queuedBytes += line.length + 1;
    this.#running ??= this.#run();
    return batch.flushed;
  }

  /** Resolves when nothing waits any more, written or failed. */
  async drain(): Promise<void> {
    while (this.#running !== null) await this.#running;
  }

  async #run(): Promise<void> {
    // Everything appended in the same turn of the event loop shares the first write.
    await Promise.resolve();
    for (let batch = this.#batches.shift(); batch !== undefined; batch = this.#batches.shift()) {
      try {
        const bytes = Buffer.from(`${batch.lines.join('\n')}\n`);
        this.#handle = (await this.#options.rotate(bytes.length)) ?? this.#handle;
        await writeAll(this.#handle, bytes);
        await this.#handle.datasync();
        this.#queuedBytes -= batch.bytes;
        this.#options.onFlushed(batch.lines, bytes.length);
        batch.resolve();
      } catch (error) {
        const detail = `the ledger cannot be written: ${messageOf(error)}`;
        batch.reject(this.#fail(fail('LEDGER_UNWRITABLE', { detail }, { cause: error })));
      }
    }
    this.#running = null;
  }

  #fail(error: Error): Error {
    if (this.#failure === null) this.#options.onFailed(error);
    this.#failure ??= error;
    for (const batch of this.#batches.splice(0)) batch.reject(this.#failure);
    return this.#failure;
  }
}

function newBatch(): Batch {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // A caller that does not wait for the disk must not bring the daemon down when the disk fails; `failure` tells.
  promise.catch(() => {});
  return { lines: [], bytes: 0, flushed: promise, resolve, reject };
}

function rejected(error: Error): Promise<never> {
  const promise = Promise.reject(error);
  promise.catch(() => {});
  return promise;
}

async function writeAll(handle: FileHandle, bytes: Buffer): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, written, bytes.length - written);
    if (bytesWritten === 0) throw new Error('the file takes no more bytes');
    written += bytesWritten;
  }
}
