import fc from 'fast-check';
import { appendFile, readFile, rename, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { crc32 } from 'node:zlib';
import { hashLine } from './line.ts';
import { numbered, readSegmentLines, segmentPath, withDirectory, writeLedger, writeSegmentLines } from './testing.ts';
import { verifyLedger } from './verify.ts';

/** An attacker who knows the format makes the checksum fit again. */
function withChecksum(line: string): string {
  const body = line.slice(0, line.lastIndexOf(',"crc":'));
  return `${body},"crc":"${crc32(body).toString(16).padStart(8, '0')}"}`;
}

type Tampering = {
  readonly title: string;
  readonly change: (lines: readonly string[]) => readonly string[];
  readonly firstBad: { readonly line: number; readonly seq: number; readonly why: RegExp };
};

const tamperings: readonly Tampering[] = [
  {
    title: 'a flipped byte',
    change: (lines) => lines.with(2, (lines[2] ?? '').replace('"r3"', '"r4"')),
    firstBad: { line: 3, seq: 3, why: /checksum does not match/ },
  },
  {
    title: 'a changed record whose checksum was made to fit',
    change: (lines) => lines.with(2, withChecksum((lines[2] ?? '').replace('"r3"', '"r4"'))),
    firstBad: { line: 3, seq: 3, why: /record 4 holds another hash for it/ },
  },
  {
    title: 'a deleted line',
    change: (lines) => lines.toSpliced(2, 1),
    firstBad: { line: 3, seq: 4, why: /record 3 should stand here, but it is record 4/ },
  },
  {
    title: 'two swapped lines',
    change: (lines) => [...lines.slice(0, 1), lines[2] ?? '', lines[1] ?? '', ...lines.slice(3)],
    firstBad: { line: 2, seq: 3, why: /record 2 should stand here/ },
  },
  {
    title: 'an inserted line',
    change: (lines) => lines.toSpliced(3, 0, lines[2] ?? ''),
    firstBad: { line: 4, seq: 3, why: /record 4 should stand here/ },
  },
  {
    title: 'a line cut in the middle',
    change: (lines) => lines.with(1, (lines[1] ?? '').slice(0, 90)),
    firstBad: { line: 2, seq: 2, why: /not a record/ },
  },
  {
    title: 'an empty line',
    change: (lines) => lines.toSpliced(4, 0, ''),
    firstBad: { line: 5, seq: 5, why: /not a record/ },
  },
  {
    title: 'the first line removed',
    change: (lines) => lines.slice(1),
    firstBad: { line: 1, seq: 2, why: /record 1 should stand here/ },
  },
  {
    title: 'a line longer than any record',
    change: (lines) => lines.with(3, `${(lines[3] ?? '').slice(0, -1)}${' '.repeat(300_000)}`),
    firstBad: { line: 4, seq: 4, why: /longer than any record/ },
  },
];

describe('verifyLedger', () => {
  test('says yes to a ledger that nobody touched, and where it ends', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(6));
      const lines = await readSegmentLines(directory);
      expect(await verifyLedger({ directory })).toEqual({
        ok: true,
        records: 6,
        firstBad: null,
        head: { seq: 6, hash: hashLine(lines[5] ?? '') },
        checkpoints: 0,
        lastCheckpoint: null,
        keys: [],
        prunedThroughSeq: 0,
      });
    });
  });

  for (const { title, change, firstBad } of tamperings) {
    test(`names the first bad record of ${title}`, async () => {
      await withDirectory(async (directory) => {
        await writeLedger(directory, numbered(6));
        await writeSegmentLines(directory, change(await readSegmentLines(directory)));
        const verification = await verifyLedger({ directory });
        expect(verification.ok).toBe(false);
        expect(verification.firstBad).toEqual({
          file: 'ledger-000001.ndjson',
          ...firstBad,
          why: expect.stringMatching(firstBad.why),
        });
      });
    });
  }

  test('tells a torn tail from anything else', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      await appendFile(segmentPath(directory), '{"seq":4,"at":"2026');
      expect((await verifyLedger({ directory })).firstBad).toEqual({
        file: 'ledger-000001.ndjson',
        line: 4,
        seq: 4,
        why: 'the last line is torn: it was not written completely',
      });
    });
  });

  test('waits for a line that is just being written', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      const whole = await readFile(segmentPath(directory));
      await truncate(segmentPath(directory), whole.length - 20);
      const verifying = verifyLedger({ directory });
      await appendFile(segmentPath(directory), whole.subarray(-20));
      expect(await verifying).toMatchObject({ ok: true, records: 3 });
    });
  });

  test('finds records removed from the end, and a chain made anew, only with a checkpoint', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(5));
      const checkpoint = (await verifyLedger({ directory })).head;
      await writeSegmentLines(directory, (await readSegmentLines(directory)).slice(0, 3));
      expect((await verifyLedger({ directory })).ok).toBe(true);
      expect((await verifyLedger({ directory, checkpoint })).firstBad).toEqual({
        file: directory,
        line: 0,
        seq: 4,
        why: 'records 4 to 5 are known to the checkpoint and were removed',
      });
    });
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(5));
      expect(await verifyLedger({ directory, checkpoint: { seq: 4, hash: 'f'.repeat(64) } })).toMatchObject({
        ok: false,
        records: 3,
        firstBad: { line: 4, seq: 4, why: expect.stringMatching(/not the one that the checkpoint knows/) },
      });
    });
  });

  test('says no where there is no ledger', async () => {
    expect(await verifyLedger({ directory: '/nonexistent/ledger' })).toMatchObject({
      ok: false,
      records: 0,
      firstBad: { line: 0, why: 'there is no record of a ledger in this directory' },
    });
  });

  test('misses no file in the middle', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(2));
      await rename(segmentPath(directory), segmentPath(directory, 2));
      expect((await verifyLedger({ directory })).firstBad?.why).toBe(
        'the files from number 1 to 1 are missing, and no record says that they were deleted for their age',
      );
    });
  });

  test('any change to any byte makes it fail', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(5));
      const whole = await readFile(segmentPath(directory));
      const position = fc.integer({ min: 0, max: whole.length - 1 });
      await fc.assert(
        fc.asyncProperty(position, fc.integer({ min: 1, max: 255 }), async (index, mask) => {
          const changed = Buffer.from(whole);
          changed[index] = (changed[index] ?? 0) ^ mask;
          await writeFile(segmentPath(directory), changed);
          return !(await verifyLedger({ directory })).ok;
        }),
        { numRuns: 300, examples: [[whole.length - 2, 1] as [number, number], [0, 1] as [number, number]] },
      );
    });
  });

  test('any cut that is not between two records makes it fail', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      const whole = await readFile(segmentPath(directory));
      const cuts = fc.integer({ min: 0, max: whole.length - 1 }).filter((cut) => cut === 0 || whole[cut - 1] !== 0x0a);
      await fc.assert(
        fc.asyncProperty(cuts, async (cut) => {
          await writeFile(segmentPath(directory), whole.subarray(0, cut));
          return !(await verifyLedger({ directory })).ok;
        }),
        { numRuns: 12 },
      );
    });
  });
});
