import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import {
  FRAME,
  FRAME_PAYLOAD_BYTES_MAX,
  FrameDecoder,
  encodeFrame,
  encodeTaken,
  frameJson,
  frameTaken,
  splitPayload,
  type Frame,
  type FrameType,
} from './frames.ts';

const types = Object.values(FRAME) as FrameType[];
const frames = fc.array(fc.record({ type: fc.constantFrom(...types), payload: fc.uint8Array({ maxLength: 300 }) }), {
  maxLength: 20,
});

function decodeIn(chunks: readonly Uint8Array[]): { frames: Frame[]; atBoundary: boolean } {
  const decoder = new FrameDecoder();
  return { frames: chunks.flatMap((chunk) => decoder.push(chunk)), atBoundary: decoder.atBoundary };
}

function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  let start = 0;
  for (const size of sizes) {
    chunks.push(bytes.subarray(start, start + size));
    start += size;
  }
  return [...chunks, bytes.subarray(start)];
}

describe('frames', () => {
  it('come back whole, however the bytes were cut', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat({ max: 40 })), (sent, sizes) => {
        const bytes = Buffer.concat(sent.map((frame) => encodeFrame(frame.type, frame.payload)));
        expect(decodeIn(cut(bytes, sizes))).toEqual({ frames: sent, atBoundary: true });
      }),
    );
  });

  it('never make the decoder throw anything but REQUEST_INVALID, whatever comes', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 })), (chunks) => {
        try {
          decodeIn(chunks);
        } catch (error) {
          expect(error).toMatchObject({ code: 'REQUEST_INVALID' });
        }
      }),
    );
  });

  it('hold a payload of exactly the maximum', () => {
    const payload = new Uint8Array(FRAME_PAYLOAD_BYTES_MAX).fill(7);
    expect(decodeIn([encodeFrame(FRAME.stdout, payload)]).frames).toEqual([{ type: FRAME.stdout, payload }]);
  });

  it('refuse a payload of one byte more, before it has come', () => {
    const header = Uint8Array.from([FRAME.stdin, 0, 1, 0, 1]);
    expect(() => decodeIn([header])).toThrow('a frame of 65537 bytes; at most 65536 are allowed');
  });

  it('refuse a type that is not in the table', () => {
    expect(() => decodeIn([Uint8Array.from([9, 0, 0, 0, 0])])).toThrow('unknown frame type 9');
  });

  it('tell a cut in the middle from an end', () => {
    expect(decodeIn([encodeFrame(FRAME.stdin, Uint8Array.from([1, 2])).subarray(0, 6)])).toEqual({
      frames: [],
      atBoundary: false,
    });
  });

  it('split bytes of any length without losing one', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 3 * FRAME_PAYLOAD_BYTES_MAX }), (length) => {
        const bytes = new Uint8Array(length).map((_, index) => index);
        const parts = splitPayload(bytes);
        expect(parts.every((part) => part.length > 0 && part.length <= FRAME_PAYLOAD_BYTES_MAX)).toBe(true);
        expect(Buffer.concat(parts).equals(bytes)).toBe(true);
      }),
      { numRuns: 20 },
    );
  });

  it('carry counts and refuse JSON that is none', () => {
    expect(decodeIn([encodeTaken(70_000)]).frames.map(frameTaken)).toEqual([70_000]);
    expect(() => frameJson({ type: FRAME.resize, payload: Uint8Array.from([0xff]) })).toThrow('holds no JSON');
  });
});
