import { chmod, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openSigner } from './keys.ts';
import { openLedger, type OpenedLedger } from './ledger.ts';
import { checkpointText, newPrivateKeyPem, openNote, parseCheckpoint, parseNoteKey, signerOf } from './note.ts';
import { AT, numbered, readSegmentLines, withDirectory, writeSegmentLines } from './testing.ts';
import { verifyLedger } from './verify.ts';

const HASH = 'ab'.repeat(32);

type Sealed = { readonly ledger: OpenedLedger; at: string };

async function openSealed(directory: string, more: { readonly segmentBytesMax?: number } = {}): Promise<Sealed> {
  const keyDirectory = join(directory, 'keys');
  const sealed = { at: AT } as { ledger: OpenedLedger; at: string };
  sealed.ledger = await openLedger({
    directory: join(directory, 'ledger'),
    nowIso: () => sealed.at,
    log: { debug() {}, info() {}, warn() {}, error() {} },
    seal: { signer: await openSigner(keyDirectory, 'ringfence/a'), keyDirectory, everyRecords: 5, everyMs: 3_600_000 },
    ...more,
  });
  return sealed;
}

async function append(ledger: OpenedLedger, count: number): Promise<void> {
  for (const draft of numbered(count)) await ledger.append(draft).flushed;
}

const ledgerOf = (directory: string): string => join(directory, 'ledger');

describe('a signed note', () => {
  const signer = signerOf('ringfence/a', newPrivateKeyPem());
  const text = checkpointText({ origin: 'ringfence/a', seq: 7, hash: HASH });
  const note = signer.sign(text);

  test('is opened by the key that signed it, and says what was signed', () => {
    const opened = openNote(note, [signer.public]);
    expect(opened).toMatchObject({ ok: true, text });
    expect(parseCheckpoint(opened.text ?? '')).toEqual({ origin: 'ringfence/a', seq: 7, hash: HASH });
  });

  test.each([
    ['another key of the same name', note, [signerOf('ringfence/a', newPrivateKeyPem()).public]],
    ['a text of which one digit changed', note.replace('\n7\n', '\n8\n'), [signer.public]],
    ['no signature', text, [signer.public]],
    ['no key at all', note, []],
    ['a text without end', 'x'.repeat(5_000), [signer.public]],
  ])('is not opened: %s', (_, given, keys) => {
    expect(openNote(given, keys).ok).toBe(false);
  });

  test('has a key that people can keep as text, and no other text passes for it', () => {
    expect(parseNoteKey(signer.public.text)?.text).toBe(signer.public.text);
    const other = signerOf('ringfence/b', newPrivateKeyPem()).public.text;
    const mixed = [signer.public.text.split('+')[0], ...other.split('+').slice(1)].join('+');
    expect([parseNoteKey(mixed), parseNoteKey(''), parseNoteKey('ringfence/a+00000000+AAAA')]).toEqual([
      null,
      null,
      null,
    ]);
  });
});

describe('checkpoints', () => {
  test('are made every so many records and at the end, and verify with the key', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await openSealed(directory);
      await append(ledger, 12);
      const key = parseNoteKey(ledger.publicKey() ?? '');
      await ledger.close();
      const result = await verifyLedger({ directory: ledgerOf(directory), ...(key === null ? {} : { key }) });
      expect(result).toMatchObject({ ok: true, checkpoints: 3, keys: [key?.text] });
      expect(result.lastCheckpoint?.seq).toBe(result.head.seq - 1);
    });
  });

  test('find a ledger that was written anew by somebody without the key', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await openSealed(directory);
      await append(ledger, 6);
      const key = parseNoteKey(ledger.publicKey() ?? '') ?? undefined;
      await ledger.close();
      await rm(directory, { recursive: true });
      const forged = await openSealed(directory);
      await append(forged.ledger, 6);
      await forged.ledger.close();
      expect(await verifyLedger({ directory: ledgerOf(directory) })).toMatchObject({ ok: true });
      const result = await verifyLedger({ directory: ledgerOf(directory), ...(key === undefined ? {} : { key }) });
      expect([result.ok, result.firstBad?.why]).toEqual([false, expect.stringMatching(/signed by the key given/)]);
    });
  });

  test('cannot be moved to another place of a chain', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await openSealed(directory);
      await append(ledger, 5);
      const note = ledger.latestCheckpoint()?.note;
      await append(ledger, 2);
      await ledger.append({ kind: 'ledger.checkpoint', of: 1, hash: HASH, note }).flushed;
      await ledger.close();
      const result = await verifyLedger({ directory: ledgerOf(directory) });
      expect(result.firstBad?.why).toMatch(/signed for another record/);
    });
  });

  test('go on under a new key that the old one signed, and not under one that it did not', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await openSealed(directory);
      await append(ledger, 3);
      const before = ledger.publicKey();
      const after = await ledger.rotateKey();
      await append(ledger, 3);
      await ledger.close();
      const sound = await verifyLedger({ directory: ledgerOf(directory) });
      expect([sound.ok, sound.keys]).toEqual([true, [before, after]]);
      await rm(join(directory, 'keys'), { recursive: true });
      const again = await openSealed(directory);
      const key = parseNoteKey(again.ledger.publicKey() ?? '');
      await again.ledger.close();
      const bad = await verifyLedger({ directory: ledgerOf(directory) });
      expect(bad.firstBad?.why).toMatch(/without the signature of the one before/);
      if (key === null) throw new Error('the ledger has no key');
      expect((await verifyLedger({ directory: ledgerOf(directory), key })).ok).toBe(true);
    });
  });

  test('are refused with a key that others can read', async () => {
    await withDirectory(async (directory) => {
      await (await openSealed(directory)).ledger.close();
      await chmod(join(directory, 'keys', 'ledger-ed25519.pem'), 0o644);
      await expect(openSealed(directory)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    });
  });
});

describe('rotation and retention', () => {
  const YOUNG = '2027-12-01T00:00:00.000Z';

  async function writeFiles(directory: string): Promise<Sealed> {
    const sealed = await openSealed(directory, { segmentBytesMax: 4_000 });
    await append(sealed.ledger, 40);
    sealed.at = YOUNG;
    await append(sealed.ledger, 20);
    return sealed;
  }

  test('the chain goes on from file to file', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await writeFiles(directory);
      const seen: number[] = [];
      for await (const record of ledger.read({ fromSeq: 30 })) seen.push(record.seq);
      await ledger.close();
      expect((await readdir(ledgerOf(directory))).length).toBeGreaterThan(3);
      expect(seen[0]).toBe(30);
      expect(seen).toEqual(seen.map((_, index) => 30 + index));
      expect((await verifyLedger({ directory: ledgerOf(directory) })).ok).toBe(true);
    });
  });

  test('old files go, which is on record, and the rest verifies and is written on', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await writeFiles(directory);
      const files = await readdir(ledgerOf(directory));
      const limits = { olderThan: '2027-01-01T00:00:00.000Z', keepFromSeq: Number.MAX_SAFE_INTEGER };
      const removed = await ledger.prune(limits, { quarantined: ['a'] });
      expect(removed).toBeGreaterThan(20);
      expect((await readdir(ledgerOf(directory))).length).toBeLessThan(files.length);
      await ledger.close();
      const again = await openSealed(directory);
      expect(again.ledger.integrity).toBeNull();
      await append(again.ledger, 3);
      await again.ledger.close();
      const result = await verifyLedger({ directory: ledgerOf(directory) });
      expect(result).toMatchObject({ ok: true, prunedThroughSeq: removed });
      expect(result.checkpoints).toBeGreaterThan(0);
    });
  });

  test('nothing goes that is younger, or that an open run still needs', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await writeFiles(directory);
      expect(await ledger.prune({ olderThan: AT, keepFromSeq: Number.MAX_SAFE_INTEGER }, {})).toBe(0);
      expect(await ledger.prune({ olderThan: '2028-01-01T00:00:00.000Z', keepFromSeq: 2 }, {})).toBe(0);
      await ledger.close();
    });
  });

  test('files removed by hand are found missing, before and after a lawful deletion', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await writeFiles(directory);
      const limits = { olderThan: '2027-01-01T00:00:00.000Z', keepFromSeq: Number.MAX_SAFE_INTEGER };
      await ledger.prune(limits, {});
      await ledger.close();
      const [first = ''] = (await readdir(ledgerOf(directory))).toSorted();
      await rm(join(ledgerOf(directory), first));
      const result = await verifyLedger({ directory: ledgerOf(directory) });
      expect(result.firstBad?.why).toMatch(/no record says that they were deleted/);
    });
  });

  test('a deletion that a crash cut short is finished by the next start', async () => {
    await withDirectory(async (directory) => {
      const { ledger } = await writeFiles(directory);
      const old = new Map<number, readonly string[]>();
      for (const file of await readdir(ledgerOf(directory))) {
        const number = Number(/\d+/.exec(file)?.[0]);
        old.set(number, await readSegmentLines(ledgerOf(directory), number));
      }
      await ledger.prune({ olderThan: '2027-01-01T00:00:00.000Z', keepFromSeq: Number.MAX_SAFE_INTEGER }, {});
      await ledger.close();
      const [first = ''] = (await readdir(ledgerOf(directory))).toSorted();
      // The last of the files that were to go is still there, as after a crash just before its turn.
      const last = Number(/\d+/.exec(first)?.[0]) - 1;
      await writeSegmentLines(ledgerOf(directory), old.get(last) ?? [], last);
      expect((await readdir(ledgerOf(directory))).length).toBeGreaterThan(1);
      await (await openSealed(directory)).ledger.close();
      expect((await readdir(ledgerOf(directory))).toSorted()[0]).toBe(first);
    });
  });
});
