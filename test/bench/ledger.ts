/**
 * How fast the ledger takes records and checks them, beside a plain append of the same bytes to a file on the same disk.
 * Run by hand: `node test/bench/ledger.ts [records]`.
 */
import { mkdtemp, open, readdir, rm, stat } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { openSigner } from '../../src/ledger/keys.ts';
import { openLedger } from '../../src/ledger/ledger.ts';
import { keyName } from '../../src/ledger/note.ts';
import { verifyLedger } from '../../src/ledger/verify.ts';

const records = Number(process.argv[2] ?? 1_000_000);
/** How many appends a burst makes before it waits for the disk, as many runs together would. */
const BURST = 512;
const draft = {
  kind: 'egress.denied' as const,
  runId: 'r0123456789ab',
  profile: 'paper-reader',
  denial: { kind: 'packet', at: '2026-10-05T08:00:00.000Z', destination: '203.0.113.10', port: 22, protocol: 'tcp' },
  suppressed: 0,
};
const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const directory = await mkdtemp(join(tmpdir(), 'ringfence-bench-'));
const keyDirectory = join(directory, 'keys');
const signer = await openSigner(keyDirectory, keyName('bench'));
// Signed, and in files, as the daemon does by default.
const segmentBytesMax = 64 * 2 ** 20;
const seal = { signer, keyDirectory, everyRecords: 1_000, everyMs: 300_000 };
try {
  const ledger = await openLedger({
    directory,
    nowIso: () => new Date().toISOString(),
    log: quiet,
    seal,
    segmentBytesMax,
  });
  process.stdout.write(`load ${loadavg()[0]?.toFixed(1) ?? ''}\n`);
  const appended = await timed(async () => {
    for (let done = 0; done < records; done += BURST) {
      let flushed = Promise.resolve();
      for (let index = done; index < Math.min(done + BURST, records); index += 1)
        flushed = ledger.append(draft).flushed;
      await flushed;
    }
  });
  await ledger.close();
  const files = (await readdir(directory)).filter((name) => name.startsWith('ledger-'));
  const sizes = await Promise.all(files.map(async (name) => (await stat(join(directory, name))).size));
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  report('append, each burst on disk', appended);

  const plainFile = await open(join(directory, 'plain'), 'a');
  const burst = Buffer.alloc(Math.ceil((bytes / records) * BURST), 'x');
  report(
    'plain append of the same bytes',
    await timed(async () => {
      for (let done = 0; done < records; done += BURST) {
        await plainFile.write(burst);
        await plainFile.datasync();
      }
    }),
  );
  await plainFile.close();

  let verification;
  report('verify', await timed(async () => (verification = await verifyLedger({ directory, key: signer.public }))));
  process.stdout.write(`${JSON.stringify(verification)}\n`);
  report(
    'open again (survey and index)',
    await timed(async () => {
      const again = await openLedger({
        directory,
        nowIso: () => new Date().toISOString(),
        log: quiet,
        seal,
        segmentBytesMax,
      });
      await again.close();
    }),
  );
} finally {
  await rm(directory, { recursive: true });
}

type Took = { readonly ms: number; readonly cpuMs: number };

async function timed(work: () => Promise<unknown>): Promise<Took> {
  const startedAt = performance.now();
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return { ms: performance.now() - startedAt, cpuMs: (user + system) / 1_000 };
}

/** On a busy machine the time of the processor says more than the clock. */
function report(what: string, { ms, cpuMs }: Took): void {
  const rate = Math.round(records / (ms / 1000));
  const cpu = `${(cpuMs / 1000).toFixed(2)} s of CPU`;
  process.stdout.write(`${what.padEnd(32)} ${(ms / 1000).toFixed(2)} s  ${rate} records/s  ${cpu}\n`);
}
