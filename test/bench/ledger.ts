/**
 * How fast the ledger takes records and checks them, beside a plain append of the same bytes to a file on the same disk.
 * Run by hand: `node test/bench/ledger.ts [records]`.
 */
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openLedger } from '../../src/ledger/ledger.ts';
import { segmentOf } from '../../src/ledger/segments.ts';
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
try {
  const ledger = await openLedger({ directory, nowIso: () => new Date().toISOString(), log: quiet, seal: null });
  const appended = await timed(async () => {
    for (let done = 0; done < records; done += BURST) {
      let flushed = Promise.resolve();
      for (let index = done; index < Math.min(done + BURST, records); index += 1)
        flushed = ledger.append(draft).flushed;
      await flushed;
    }
  });
  await ledger.close();
  const bytes = (await stat(segmentOf(directory, 1).path)).size;
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
  report('verify', await timed(async () => (verification = await verifyLedger({ directory }))));
  process.stdout.write(`${JSON.stringify(verification)}\n`);
  report(
    'open again (survey and index)',
    await timed(async () => {
      const again = await openLedger({ directory, nowIso: () => new Date().toISOString(), log: quiet, seal: null });
      await again.close();
    }),
  );
} finally {
  await rm(directory, { recursive: true });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

function report(what: string, ms: number): void {
  const rate = Math.round(records / (ms / 1000));
  process.stdout.write(`${what.padEnd(32)} ${(ms / 1000).toFixed(2)} s  ${rate} records/s\n`);
}
