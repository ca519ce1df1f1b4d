import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { OutputChunk } from '../core/ports/engine.ts';
import { FRAME_BYTES_MAX, FrameParser, LineSplitter, readFrames } from './stream.ts';

function frame(stream: number, payload: Uint8Array): Uint8Array {
  const header = Buffer.alloc(8);
  header.writeUInt8(stream, 0);
  header.writeUInt32BE(payload.length, 4);
  return Buffer.concat([header, payload]);
}

function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let offset = 0;
  for (let index = 0; offset < bytes.length; index += 1) {
    const size = sizes.length === 0 ? bytes.length : (sizes[index % sizes.length] ?? 1);
    pieces.push(bytes.subarray(offset, offset + size));
    offset += size;
  }
  return pieces;
}

function joined(chunks: readonly OutputChunk[], stream: 'stdout' | 'stderr'): string {
  return Buffer.concat(chunks.filter((chunk) => chunk.stream === stream).map((chunk) => chunk.bytes)).toString('hex');
}

describe('FrameParser', () => {
  it('gives every byte to its stream however the pieces are cut', () => {
    const frames = fc.array(fc.tuple(fc.constantFrom(1, 2), fc.uint8Array({ maxLength: 60 })), { maxLength: 30 });
    fc.assert(
      fc.property(frames, fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 10 }), (written, sizes) => {
        const parser = new FrameParser();
        const stream = Buffer.concat(written.map(([type, payload]) => frame(type, payload)));
        const chunks = cut(stream, sizes).flatMap((piece) => parser.push(piece));
        parser.end();
        const sent = (type: number): string =>
          Buffer.concat(written.filter(([of]) => of === type).map(([, payload]) => payload)).toString('hex');
        expect({ stdout: joined(chunks, 'stdout'), stderr: joined(chunks, 'stderr') }).toEqual({
          stdout: sent(1),
          stderr: sent(2),
        });
      }),
    );
  });

  it('takes a hundred thousand frames of one byte in one piece without a deep stack', () => {
    const parser = new FrameParser();
    const one = frame(1, Buffer.from('x'));
    const all = Buffer.alloc(one.length * 100_000);
    for (let index = 0; index < 100_000; index += 1) all.set(one, index * one.length);
    expect(parser.push(all).length).toBe(100_000);
  });

  it('passes on a frame of 64 MiB in small pieces without collecting it', () => {
    const parser = new FrameParser();
    parser.push(Uint8Array.from([2, 0, 0, 0, 4, 0, 0, 0]));
    const piece = new Uint8Array(4096);
    let bytes = 0;
    for (let index = 0; index < (64 * 2 ** 20) / piece.length; index += 1) {
      for (const chunk of parser.push(piece)) bytes += chunk.bytes.length;
    }
    parser.end();
    expect(bytes).toBe(64 * 2 ** 20);
  });

  it.each([
    ['a type that does not exist', [4, 0, 0, 0, 0, 0, 0, 1]],
    ['bytes set that must be zero', [1, 0, 1, 0, 0, 0, 0, 1]],
    ['text, as a terminal sends it', [...Buffer.from('hello, world')]],
    ['a frame over the bound', [1, 0, 0, 0, ...new Uint8Array(new Uint32Array([0xffffffff]).buffer)]],
  ])('ends the stream at %s instead of passing it through', (_name, bytes) => {
    expect(() => new FrameParser().push(Uint8Array.from(bytes))).toThrow(/not in frames/);
  });

  it('never throws anything but its own error, and never gives more than it got', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        try {
          const given = new FrameParser().push(bytes).reduce((sum, chunk) => sum + chunk.bytes.length, 0);
          expect(given).toBeLessThanOrEqual(bytes.length);
        } catch (error) {
          expect((error as { code?: string }).code).toBe('ENGINE_FAILED');
        }
      }),
    );
    expect(FRAME_BYTES_MAX).toBeLessThan(2 ** 32);
  });

  it('reports the error that the engine sends in the stream, printable and bounded', () => {
    const message = Buffer.from(`disk \u001b[31mgone${'!'.repeat(9000)}`);
    expect(() => new FrameParser().push(frame(3, message))).toThrow(/failed while it sent the output: disk \\u\{1b\}/);
  });

  it('reports a stream that ends inside a frame', async () => {
    const whole = frame(1, Buffer.from('cut short'));
    const read = async (bytes: Uint8Array): Promise<string> => {
      let text = '';
      for await (const chunk of readFrames(asyncOf([bytes]))) text += Buffer.from(chunk.bytes).toString();
      return text;
    };
    await expect(read(whole)).resolves.toBe('cut short');
    await expect(read(whole.subarray(0, whole.length - 1))).rejects.toThrow(/middle of a frame \(1 bytes/);
    await expect(read(whole.subarray(0, 3))).rejects.toThrow(/middle of a frame/);
  });
});

describe('LineSplitter', () => {
  it('finds the same lines however the pieces are cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^[^\n]{0,20}$/u)),
        fc.array(fc.integer({ min: 1, max: 9 })),
        (lines, sizes) => {
          const splitter = new LineSplitter(1024);
          const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''));
          expect(cut(bytes, sizes).flatMap((piece) => splitter.push(piece))).toEqual(
            lines.map((line) => line.toWellFormed()),
          );
        },
      ),
    );
  });

  it('takes a line of the greatest length and refuses one byte more', () => {
    expect(new LineSplitter(8).push(Buffer.from('12345678\n'))).toEqual(['12345678']);
    expect(() => new LineSplitter(8).push(Buffer.from('123456789\n'))).toThrow(/more than 8 bytes/);
    const pieces = new LineSplitter(8);
    pieces.push(Buffer.from('12345'));
    expect(() => pieces.push(Buffer.from('6789'))).toThrow(/more than 8 bytes/);
  });
});

async function* asyncOf(pieces: readonly Uint8Array[]): AsyncIterable<Uint8Array> {
  for (const piece of pieces) {
    await Promise.resolve();
    yield piece;
  }
}
