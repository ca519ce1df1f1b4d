/**
 * A process of its own for the tests: appends until it is killed and prints the number of each record that is on disk,
 * or with `fail` until the disk takes no more, and prints what the ledger said then.
 */
import { RingfenceError } from '../core/errors.ts';
import { openTestLedger } from './testing.ts';

const RECORDS_MAX = 100_000;

const [directory = '', mode = 'acknowledge'] = process.argv.slice(2);
const ledger = await openTestLedger(directory);
for (let index = 0; index < RECORDS_MAX; index += 1) {
  const { seq, flushed } = ledger.append({ kind: 'command.issued', note: 'x'.repeat(200) });
  try {
    await flushed;
  } catch (error) {
    const later = await ledger.append({ kind: 'daemon.stopped' }).flushed.catch((failure: unknown) => failure);
    const failure = ledger.failure()?.message;
    process.stdout.write(`${JSON.stringify({ rejected: codeOf(error), failure, later: codeOf(later) })}\n`);
    break;
  }
  if (mode === 'acknowledge') process.stdout.write(`${seq}\n`);
}
await ledger.close();

function codeOf(error: unknown): string {
  return error instanceof RingfenceError ? error.code : String(error);
}
