import { fail } from '../core/errors.ts';
import type { OutputChunk } from '../core/ports/engine.ts';
import { printable } from '../core/text.ts';

/**
 * The engine's multiplexed stream: 8 bytes of header (stream type, three zero bytes, length as a big-endian 32-bit
 * number), then that many bytes of what the agent wrote. Payload is handed on as it arrives and never collected, so a
 * frame of any length costs no memory and no recursion. A header that is not one ends the stream with an error: passing
 * the rest through unparsed would mix the two streams and let an agent forge frames.
 */
const HEADER_BYTES = 8;

/** The engine writes frames of at most a log line (some MiB at the very most); a longer one means we lost our place. */
export const FRAME_BYTES_MAX = 256 * 2 ** 20;

/** How much of the engine's own error text (stream type 3) is kept. */
const ENGINE_ERROR_BYTES_MAX = 4096;

const STREAM_ENGINE_ERROR = 3;

export class FrameParser {
  readonly #header = new Uint8Array(HEADER_BYTES);
  #headerBytes = 0;
  #payloadBytesLeft = 0;
  #stream: number = 0;
  #engineError: Uint8Array[] = [];
  #engineErrorBytes = 0;

  /** The output in this piece of the stream, in order; empty payloads are left out. Throws ENGINE_FAILED. */
  push(bytes: Uint8Array): OutputChunk[] {
    const chunks: OutputChunk[] = [];
    let offset = 0;
    while (offset < bytes.length) {
      if (this.#payloadBytesLeft === 0) {
        offset += this.#takeHeader(bytes, offset);
        continue;
      }
      const end = Math.min(bytes.length, offset + this.#payloadBytesLeft);
      const payload = bytes.subarray(offset, end);
      this.#payloadBytesLeft -= payload.length;
      offset = end;
      if (this.#stream === STREAM_ENGINE_ERROR) this.#takeEngineError(payload);
      else chunks.push({ stream: this.#stream === 2 ? 'stderr' : 'stdout', bytes: payload });
    }
    return chunks;
  }

  /** To be called when the stream has ended: throws when it ended inside a frame. */
  end(): void {
    if (this.#headerBytes === 0 && this.#payloadBytesLeft === 0) return;
    throw fail('ENGINE_FAILED', {
      detail: `the engine ended the output in the middle of a frame (${this.#payloadBytesLeft} bytes were missing)`,
    });
  }

  #takeHeader(bytes: Uint8Array, offset: number): number {
    const taken = Math.min(HEADER_BYTES - this.#headerBytes, bytes.length - offset);
    this.#header.set(bytes.subarray(offset, offset + taken), this.#headerBytes);
    this.#headerBytes += taken;
    if (this.#headerBytes === HEADER_BYTES) this.#openFrame();
    return taken;
  }

  #openFrame(): void {
    const header = this.#header;
    const length = new DataView(header.buffer).getUint32(4);
    const stream = header[0] ?? 0;
    const wellFormed = stream <= STREAM_ENGINE_ERROR && header[1] === 0 && header[2] === 0 && header[3] === 0;
    if (!wellFormed || length > FRAME_BYTES_MAX) {
      throw fail('ENGINE_FAILED', {
        detail: `the engine sent output that is not in frames: header ${Buffer.from(header).toString('hex')}`,
      });
    }
    this.#headerBytes = 0;
    this.#stream = stream;
    this.#payloadBytesLeft = length;
  }

  #takeEngineError(payload: Uint8Array): void {
    const kept = payload.subarray(0, Math.max(0, ENGINE_ERROR_BYTES_MAX - this.#engineErrorBytes));
    this.#engineError.push(Uint8Array.from(kept));
    this.#engineErrorBytes += kept.length;
    if (this.#payloadBytesLeft > 0 && this.#engineErrorBytes < ENGINE_ERROR_BYTES_MAX) return;
    const message = printable(Buffer.concat(this.#engineError).toString('utf8'));
    throw fail('ENGINE_FAILED', { detail: `the engine failed while it sent the output: ${message}` });
  }
}

/** The output in a multiplexed stream; throws ENGINE_FAILED for what is not one, also when it is cut short. */
export async function* readFrames(source: AsyncIterable<Uint8Array>): AsyncIterable<OutputChunk> {
  const parser = new FrameParser();
  for await (const bytes of source) yield* parser.push(bytes);
  parser.end();
}

/** A terminal's stream has no frames: everything is standard output. */
export async function* readRaw(source: AsyncIterable<Uint8Array>): AsyncIterable<OutputChunk> {
  for await (const bytes of source) yield { stream: 'stdout', bytes };
}

/**
 * Splits a byte stream into lines of at most `lineBytesMax` bytes, across chunks; a longer line throws, and what is left
 * without a newline at the end is not a line.
 */
export class LineSplitter {
  readonly #lineBytesMax: number;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax;
  }

  push(bytes: Uint8Array): string[] {
    const lines: string[] = [];
    let offset = 0;
    for (;;) {
      const newline = bytes.indexOf(0x0a, offset);
      const piece = bytes.subarray(offset, newline === -1 ? bytes.length : newline);
      if (this.#pendingBytes + piece.length > this.#lineBytesMax) {
        throw fail('ENGINE_FAILED', { detail: `the engine sent a line of more than ${this.#lineBytesMax} bytes` });
      }
      this.#pending.push(piece);
      this.#pendingBytes += piece.length;
      if (newline === -1) return lines;
      lines.push(Buffer.concat(this.#pending).toString('utf8'));
      this.#pending = [];
      this.#pendingBytes = 0;
      offset = newline + 1;
    }
  }
}
