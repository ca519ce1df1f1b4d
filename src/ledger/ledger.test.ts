import { execFile, spawn } from 'node:child_process';
import fc from 'fast-check';
import { appendFile, readFile, readdir, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import type { LedgerRecord, RecordDraft } from '../core/ports/record.ts';
import { LINE_BYTES_MAX } from './bound.ts';
import { GENESIS, hashLine } from './line.ts';
import {
  AT,
  numbered,
  openTestLedger,
  readAll,
  readSegmentLines,
  segmentPath,
  withDirectory,
  writeLedger,
  writeSegmentLines,
} from './testing.ts';
import { verifyLedger } from './verify.ts';

const run = promisify(execFile);

describe('the ledger', () => {
  test('writes one line a record, chained over the exact bytes of the line before', async () => {
    await withDirectory(async (directory) => {
      const ledger = await openTestLedger(directory);
      const first = ledger.append({ kind: 'daemon.started', version: '0.1.0' });
      const second = ledger.append({ kind: 'daemon.stopped' });
      await second.flushed;
      const lines = await readSegmentLines(directory);
      expect(lines.map((line) => JSON.parse(line))).toEqual([
        { seq: 1, at: AT, prev: GENESIS, kind: 'daemon.started', version: '0.1.0', crc: expect.any(String) },
        { seq: 2, at: AT, prev: hashLine(lines[0] ?? ''), kind: 'daemon.stopped', crc: expect.any(String) },
      ]);
      expect([first.hash, second.hash]).toEqual(lines.map((line) => hashLine(line)));
      expect(ledger.head()).toEqual({ seq: 2, hash: second.hash });
      await ledger.close();
    });
  });

  test('goes on where it ended when it is opened again', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      await writeLedger(directory, numbered(2));
      expect(await verifyLedger({ directory })).toMatchObject({ ok: true, records: 5 });
    });
  });

  test('is for its owner alone', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(1));
      const modes = [directory, segmentPath(directory)].map(async (path) => (await stat(path)).mode & 0o777);
      expect(await Promise.all(modes)).toEqual([0o700, 0o600]);
    });
  });

  test('reads from any record, over the index and not past what is on disk', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(2_500));
      const ledger = await openTestLedger(directory);
      ledger.append({ kind: 'daemon.stopped' });
      const read = await readAll(ledger, 2_499);
      expect(read.map((record) => record.seq)).toEqual([2_499, 2_500]);
      expect(read[0]).toEqual({ seq: 2_499, at: AT, prev: expect.any(String), ...numbered(2_499).at(-1) });
      expect(await readAll(ledger, 9_999)).toEqual([]);
      await ledger.close();
    });
  });

  test('tells its listeners of a record once it is on disk, and forgets one that fails', async () => {
    await withDirectory(async (directory) => {
      const ledger = await openTestLedger(directory);
      const heard: LedgerRecord[] = [];
      let failures = 0;
      ledger.subscribe(() => {
        failures += 1;
        throw new Error('broken listener');
      });
      const leave = ledger.subscribe((record) => heard.push(record));
      const appended = ledger.append({ kind: 'daemon.started' });
      expect(heard).toEqual([]);
      await appended.flushed;
      await ledger.append({ kind: 'daemon.stopped' }).flushed;
      leave();
      await ledger.append({ kind: 'garbage.collected' }).flushed;
      expect(heard).toEqual((await readAll(ledger)).slice(0, 2));
      expect(failures).toBe(1);
      await ledger.close();
    });
  });

  test('keeps hostile strings whole on one line each', async () => {
    await withDirectory(async (directory) => {
      const ledger = await openTestLedger(directory);
      const hostile = fc.string({ unit: 'binary', maxLength: 200 });
      const tricky = fc.constantFrom(
        '\n',
        '\r\n',
        '\u2028',
        '\ud800',
        '\udfff\ud800',
        '\0',
        '"}\n{"seq":1',
        '\u{1f600}',
      );
      const value = fc.oneof(hostile, tricky, fc.string(), fc.double(), fc.jsonValue());
      const drafts: RecordDraft[] = [];
      await fc.assert(
        fc.asyncProperty(fc.dictionary(fc.string({ minLength: 1 }), value), async (fields) => {
          const draft: RecordDraft = { ...fields, kind: 'run.ended' };
          drafts.push(draft);
          await ledger.append(draft).flushed;
        }),
        { numRuns: 200 },
      );
      const read = await readAll(ledger);
      await ledger.close();
      const taken = new Set(['seq', 'at', 'prev', 'crc']);
      const expected = drafts.map((draft) =>
        JSON.parse(JSON.stringify(Object.fromEntries(Object.entries(draft).filter(([key]) => !taken.has(key))))),
      );
      expect(read.map(({ seq: _seq, at: _at, prev: _prev, ...fields }) => fields)).toEqual(expected);
      expect(await verifyLedger({ directory })).toMatchObject({ ok: true, records: drafts.length });
    });
  });

  test('cuts a record that is too long and says so, and takes what is no JSON', async () => {
    await withDirectory(async (directory) => {
      const cyclic: Record<string, unknown> = {};
      cyclic['self'] = cyclic;
      const wide = Object.fromEntries(Array.from({ length: 9_000 }, (_, index) => [`field-${index}`, 'x'.repeat(20)]));
      await writeLedger(directory, [
        { kind: 'run.admitted', runId: 'r1', profile: 'p', profileText: '✓'.repeat(100_000), command: ['a'] },
        { kind: 'run.admitted', runId: 'r2', profile: 'p', ...wide },
        { kind: 'run.admitted', runId: 'r3', profile: 'p', cyclic },
        { kind: 'run.admitted', runId: 'r4', profile: 'p', big: 1n },
      ]);
      const lines = await readSegmentLines(directory);
      expect(Math.max(...lines.map((line) => Buffer.byteLength(line)))).toBeLessThanOrEqual(LINE_BYTES_MAX);
      const records = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
      expect(records[0]).toMatchObject({ runId: 'r1', command: ['a'], truncated: { bytes: expect.any(Number) } });
      expect(String(records[0]?.['profileText'])).toMatch(/^✓{1000,}…$/);
      expect(records[1]).toMatchObject({ runId: 'r2', truncated: { bytes: expect.any(Number) } });
      expect(records.slice(2)).toMatchObject([
        { runId: 'r3', unserializable: true },
        { runId: 'r4', unserializable: true },
      ]);
      expect((await verifyLedger({ directory })).ok).toBe(true);
    });
  });

  test('lets no field stand in for its own', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, [{ kind: 'daemon.started', seq: 99, prev: 'x', at: 'y', crc: 'z' }]);
      expect(await verifyLedger({ directory })).toMatchObject({ ok: true, records: 1 });
    });
  });
});

describe('one writer', () => {
  test('refuses a second one, and takes it when the first is closed', async () => {
    await withDirectory(async (directory) => {
      const ledger = await openTestLedger(directory);
      await expect(openTestLedger(directory)).rejects.toMatchObject({ code: 'DAEMON_ALREADY_RUNNING' });
      await ledger.close();
      await (await openTestLedger(directory)).close();
    });
  });

  test('survives SIGKILL: the lock is free, and what was said to be on disk is', async () => {
    await withDirectory(async (directory) => {
      const child = spawn(process.execPath, [join(import.meta.dirname, 'testing-writer.ts'), directory]);
      const acknowledged: number[] = [];
      for await (const line of createInterface({ input: child.stdout })) {
        acknowledged.push(Number(line));
        if (acknowledged.length === 200) child.kill('SIGKILL');
      }
      const ledger = await openTestLedger(directory);
      const read = await readAll(ledger);
      await ledger.close();
      expect(read.length).toBeGreaterThanOrEqual(acknowledged.at(-1) ?? Infinity);
      expect((await verifyLedger({ directory })).ok).toBe(true);
    });
  });
});

describe('a ledger that a crash left', () => {
  const torn = '{"seq":4,"at":"2026-10-05T08:00:00.000Z","prev":"ab';

  test('moves a torn tail aside and records its length and digest', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      const sizeBytes = (await stat(segmentPath(directory))).size;
      await appendFile(segmentPath(directory), torn);
      const ledger = await openTestLedger(directory);
      expect(ledger.integrity).toBeNull();
      expect((await readAll(ledger, 4)).map(({ prev: _prev, ...record }) => record)).toEqual([
        {
          seq: 4,
          at: AT,
          kind: 'ledger.recovered',
          how: 'torn-tail',
          broken: false,
          file: 'ledger-000001.ndjson',
          offset: sizeBytes,
          movedTo: `torn-000001-${sizeBytes}-001`,
          bytes: torn.length,
          sha256: hashLine(torn),
        },
      ]);
      expect(await readFile(join(directory, `torn-000001-${sizeBytes}-001`), 'utf8')).toBe(torn);
      await ledger.close();
      expect(await verifyLedger({ directory })).toMatchObject({ ok: true, records: 4 });
    });
  });

  test('treats a last line that lost some of its pages as torn', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      const lines = await readSegmentLines(directory);
      const holed = `${(lines[2] ?? '').slice(0, 40)}${'\0'.repeat((lines[2] ?? '').length - 40)}`;
      await writeSegmentLines(directory, lines.with(2, holed));
      await writeLedger(directory, []);
      expect(await verifyLedger({ directory })).toMatchObject({ ok: true, records: 3 });
      expect(JSON.parse((await readSegmentLines(directory))[2] ?? '')).toMatchObject({ how: 'torn-tail' });
    });
  });

  test('finishes a repair that was interrupted before its record', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      const sizeBytes = (await stat(segmentPath(directory))).size;
      await writeFile(join(directory, `torn-000001-${sizeBytes}-001`), torn);
      await writeLedger(directory, []);
      await writeLedger(directory, []);
      const recovered = (await readSegmentLines(directory)).slice(3).map((line) => JSON.parse(line) as LedgerRecord);
      expect(recovered).toMatchObject([{ kind: 'ledger.recovered', bytes: torn.length, sha256: hashLine(torn) }]);
    });
  });

  test('repairs whatever the last line was cut to', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(3));
      const whole = await readFile(segmentPath(directory));
      const twoLines = whole.lastIndexOf(0x0a, whole.length - 2) + 1;
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: twoLines + 1, max: whole.length - 1 }), async (cut) => {
          await writeFile(segmentPath(directory), whole);
          await truncate(segmentPath(directory), cut);
          await writeLedger(directory, []);
          expect(await verifyLedger({ directory })).toMatchObject({ ok: true, records: 3 });
        }),
        { numRuns: 8 },
      );
    });
  });

  test('never cuts damage before the last record: goes on in a new file, and verify keeps saying so', async () => {
    await withDirectory(async (directory) => {
      await writeLedger(directory, numbered(4));
      const lines = await readSegmentLines(directory);
      const damaged = lines.with(1, (lines[1] ?? '').replace('"r2"', '"rX"'));
      await writeSegmentLines(directory, damaged);
      for (const round of [1, 2]) {
        const ledger = await openTestLedger(directory);
        expect(ledger.integrity).toMatchObject({ file: 'ledger-000001.ndjson', line: 2, seq: 2 });
        ledger.append({ kind: 'daemon.started', round });
        await ledger.close();
      }
      expect(await readSegmentLines(directory)).toEqual(damaged);
      const after = (await readSegmentLines(directory, 2)).map((line) => JSON.parse(line) as LedgerRecord);
      expect(after).toMatchObject([
        { seq: 5, prev: hashLine(lines[3] ?? ''), kind: 'ledger.recovered', broken: true, badSeq: 2, line: 2 },
        { seq: 6, kind: 'daemon.started', round: 1 },
        { seq: 7, kind: 'daemon.started', round: 2 },
      ]);
      expect(await verifyLedger({ directory })).toMatchObject({ ok: false, records: 1, firstBad: { seq: 2 } });
      expect((await readdir(directory)).filter((name) => name.startsWith('torn-'))).toEqual([]);
      const reader = await openTestLedger(directory);
      expect((await readAll(reader)).map((record) => record.seq)).toEqual([1, 2, 3, 4, 5, 6, 7]);
      await reader.close();
    });
  });
});

test('a disk that takes no more fails every later record, and says why', async () => {
  await withDirectory(async (directory) => {
    const writer = join(import.meta.dirname, 'testing-writer.ts');
    // RLIMIT_FSIZE, in units of 512 bytes: a write beyond it fails as on a full disk.
    const limited = await run('sh', [
      '-c',
      'ulimit -f 16; exec "$0" "$@"',
      process.execPath,
      writer,
      directory,
      'fail',
    ]);
    expect(JSON.parse(limited.stdout.trim().split('\n').at(-1) ?? '')).toEqual({
      rejected: 'LEDGER_UNWRITABLE',
      failure: expect.stringMatching(/^the ledger cannot be written: EFBIG/),
      later: 'LEDGER_UNWRITABLE',
    });
    await writeLedger(directory, []);
    expect((await verifyLedger({ directory })).ok).toBe(true);
  });
});

test('close waits for what was appended', async () => {
  await withDirectory(async (directory) => {
    const ledger = await openTestLedger(directory);
    const flushed = numbered(1_000).map(async (draft) => await ledger.append(draft).flushed);
    await ledger.close();
    await Promise.all(flushed);
    await expect(ledger.append({ kind: 'daemon.stopped' }).flushed).rejects.toMatchObject({
      code: 'LEDGER_UNWRITABLE',
    });
    expect(await verifyLedger({ directory })).toMatchObject({ ok: true, records: 1_000 });
  });
});
