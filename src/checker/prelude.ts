import type { Socket } from 'node:net';
import { guarded } from './connection.ts';
import type { Connection } from './connection.ts';

/** A hello or a head, and what an impatient client sends behind it. */
const HELD_BYTES_MAX = 64 * 1024;
const BUFFER_BYTES = 2 * 1024;

/**
 * What a client sends before it is decided where that goes. The socket is read on while a decision is pending, so that
 * a client which gives up is noticed; beyond the bound it has to wait.
 */
export class Prelude {
  readonly #client: Socket;
  // One buffer that grows: a client that sends single bytes must not make objects of them.
  #buffer: Buffer = Buffer.alloc(BUFFER_BYTES);
  #bytes = 0;
  #ended = false;
  #onData: ((chunk: Buffer) => void) | null = null;
  #onEnd: (() => void) | null = null;

  readonly #receive: (chunk: Buffer) => void;
  readonly #end: () => void;

  constructor(connection: Connection) {
    this.#client = connection.client;
    this.#receive = guarded(connection, (chunk: Buffer) => this.#keep(chunk));
    this.#end = guarded(connection, () => {
      this.#ended = true;
      this.#onEnd?.();
    });
    this.#client.on('data', this.#receive);
    this.#client.on('end', this.#end);
  }

  /** Told of everything that came, at once, and of what comes, segment by segment; all of it is kept as well. */
  onData(listener: ((chunk: Buffer) => void) | null): void {
    this.#onData = listener;
    if (this.#bytes > 0) listener?.(this.#buffer.subarray(0, this.#bytes));
  }

  /** Told when the client has nothing more to send, at once when that is so already. */
  onEnd(listener: (() => void) | null): void {
    this.#onEnd = listener;
    if (this.#ended) listener?.();
  }

  firstByte(): number | null {
    return this.#bytes === 0 ? null : (this.#buffer[0] ?? null);
  }

  /** Everything that came, once. The socket is paused, has no listeners of this any more, and belongs to the caller. */
  take(): Buffer {
    this.#client.pause();
    this.#client.removeListener('data', this.#receive);
    this.#client.removeListener('end', this.#end);
    this.#onData = null;
    this.#onEnd = null;
    return this.#buffer.subarray(0, this.#bytes);
  }

  #keep(chunk: Buffer): void {
    if (this.#bytes + chunk.length > this.#buffer.length) {
      const grown = Buffer.alloc(Math.max(this.#buffer.length * 2, this.#bytes + chunk.length));
      this.#buffer.copy(grown, 0, 0, this.#bytes);
      this.#buffer = grown;
    }
    chunk.copy(this.#buffer, this.#bytes);
    this.#bytes += chunk.length;
    if (this.#bytes > HELD_BYTES_MAX) this.#client.pause();
    this.#onData?.(chunk);
  }
}
