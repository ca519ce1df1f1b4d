import { fail } from '../core/errors.ts';

/**
 * The framing of `attach` and `logs`: one byte of type, four bytes of payload length (big endian), the payload.
 * Anything else on the wire is refused, so neither end ever holds more than one frame of the other.
 */
export const FRAME_PAYLOAD_BYTES_MAX = 64 * 1024;
const HEADER_BYTES = 5;

export const FRAME = {
  /** Client → server: bytes for the agent. */
  stdin: 0,
  /** Server → client: bytes of the agent; with a terminal all of them are `stdout`. */
  stdout: 1,
  stderr: 2,
  /** Client → server, JSON: `{ columns, rows }`. */
  resize: 3,
  /** Client → server, JSON: `{ name }`, such as `SIGINT`. */
  signal: 4,
  /** Server → client, JSON: the outcome; the last frame of an attach. */
  outcome: 5,
  /** Client → server, empty: nothing more comes on stdin. */
  stdinEnd: 6,
  /** Server → client, JSON: `{ error }`; the last frame when something failed. */
  error: 7,
  /** Server → client, four bytes (big endian): so many more bytes of stdin have reached the agent. */
  stdinTaken: 8,
} as const;

/**
 * How many bytes of stdin a client may have sent that the agent has not taken. Without it, an agent that does not read
 * would also hold up the signals behind those bytes, and Ctrl-C would not reach it.
 */
export const STDIN_WINDOW_BYTES = 256 * 1024;

export type FrameType = (typeof FRAME)[keyof typeof FRAME];

export type Frame = { readonly type: FrameType; readonly payload: Uint8Array };

const TYPES: ReadonlySet<number> = new Set(Object.values(FRAME));

/** The bytes of one frame; the payload must fit (see `splitPayload`). */
export function encodeFrame(type: FrameType, payload: Uint8Array): Uint8Array {
  if (payload.length > FRAME_PAYLOAD_BYTES_MAX) throw new Error('assertion failed: the payload fits one frame');
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  bytes[0] = type;
  new DataView(bytes.buffer).setUint32(1, payload.length);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

export function encodeJsonFrame(type: FrameType, value: unknown): Uint8Array {
  return encodeFrame(type, new TextEncoder().encode(JSON.stringify(value)));
}

export function encodeTaken(bytes: number): Uint8Array {
  const payload = new Uint8Array(4);
  new DataView(payload.buffer).setUint32(0, bytes);
  return encodeFrame(FRAME.stdinTaken, payload);
}

/** The count in a `stdinTaken` frame. Throws REQUEST_INVALID when it holds none. */
export function frameTaken(frame: Frame): number {
  if (frame.payload.length !== 4) throw fail('REQUEST_INVALID', { detail: 'a stdinTaken frame without a count' });
  return new DataView(frame.payload.buffer, frame.payload.byteOffset).getUint32(0);
}

/** Cuts bytes of any length into payloads that each fit one frame. */
export function splitPayload(bytes: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let start = 0; start < bytes.length; start += FRAME_PAYLOAD_BYTES_MAX) {
    parts.push(bytes.subarray(start, start + FRAME_PAYLOAD_BYTES_MAX));
  }
  return parts;
}

/** The JSON value of a frame. Throws REQUEST_INVALID when it is none. */
export function frameJson(frame: Frame): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(frame.payload));
  } catch (cause) {
    throw fail('REQUEST_INVALID', { detail: `frame of type ${frame.type} holds no JSON`, type: frame.type }, { cause });
  }
}

/** Turns chunks, however they were cut on the way, back into frames. */
export class FrameDecoder {
  private readonly header = new Uint8Array(HEADER_BYTES);
  private headerBytes = 0;
  private payload: Uint8Array | null = null;
  private payloadBytes = 0;

  /** Frames completed by this chunk. Throws REQUEST_INVALID for a type or a length that cannot be. */
  push(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    let position = 0;
    while (position < chunk.length) {
      if (this.payload === null) {
        const taken = Math.min(HEADER_BYTES - this.headerBytes, chunk.length - position);
        this.header.set(chunk.subarray(position, position + taken), this.headerBytes);
        this.headerBytes += taken;
        position += taken;
        if (this.headerBytes < HEADER_BYTES) break;
        this.payload = new Uint8Array(this.payloadLength());
        this.payloadBytes = 0;
      }
      const taken = Math.min(this.payload.length - this.payloadBytes, chunk.length - position);
      this.payload.set(chunk.subarray(position, position + taken), this.payloadBytes);
      this.payloadBytes += taken;
      position += taken;
      if (this.payloadBytes < this.payload.length) break;
      frames.push({ type: this.header[0] as FrameType, payload: this.payload });
      this.payload = null;
      this.headerBytes = 0;
    }
    return frames;
  }

  /** True between two frames: an end of the stream anywhere else is a cut. */
  get atBoundary(): boolean {
    return this.payload === null && this.headerBytes === 0;
  }

  private payloadLength(): number {
    const type = this.header[0] ?? 255;
    if (!TYPES.has(type)) throw fail('REQUEST_INVALID', { detail: `unknown frame type ${type}`, type });
    const length = new DataView(this.header.buffer).getUint32(1);
    if (length > FRAME_PAYLOAD_BYTES_MAX) {
      throw fail('REQUEST_INVALID', {
        detail: `a frame of ${length} bytes; at most ${FRAME_PAYLOAD_BYTES_MAX} are allowed`,
        bytes: length,
      });
    }
    return length;
  }
}
