import { InvalidArgumentError, type Command } from 'commander';
import { join } from 'node:path';

import { ERRORS } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import type { BadPlace } from '../ledger/verify.ts';
import type { Invoke } from './commands.ts';

type Checkpoint = { readonly seq: number; readonly hash: string };

/** Where the daemon keeps the record below its state directory. */
const LEDGER_FOLDER = 'ledger';

export function define(command: Command, invoke: Invoke): void {
  command
    .command('verify')
    .summary('check every record against the chain')
    .description('Checks every record against the chain, from the files alone. Exit code 1 names the first bad record.')
    .option('--checkpoint <seq:hash>', 'a record known from elsewhere, such as from an incident', parseCheckpoint)
    .action((options: { readonly checkpoint?: Checkpoint }) =>
      invoke(async (context) => {
        const { verifyLedger } = await import('../ledger/verify.ts');
        const directory = join(context.statePath, LEDGER_FOLDER);
        const { checkpoint } = options;
        const result = await verifyLedger({ directory, ...(checkpoint === undefined ? {} : { checkpoint }) });
        const { firstBad, records, head } = result;
        await context.answer({
          json: result,
          text: () => (result.ok ? `${records} records, unbroken; the last is ${head.seq}, ${head.hash}` : ''),
        });
        if (firstBad === null) return 0;
        await context.note(describeBreak(firstBad, records));
        return ERRORS.LEDGER_BROKEN.exitCode;
      }),
    );
}

function describeBreak(bad: BadPlace, goodRecords: number): string {
  const why = printable(bad.why, 1_000);
  // Nothing there is not evidence of a change: most often the wrong folder was named.
  if (goodRecords === 0 && bad.seq === 0) {
    return `ringfence: ${bad.file}: ${why}\nhint: give the state directory of the daemon with \`--state\``;
  }
  const place = bad.line === 0 ? bad.file : `${bad.file}:${bad.line}`;
  return (
    `${place}: record ${bad.seq}: ${why}\n` +
    `ringfence: ${ERRORS.LEDGER_BROKEN.message}; ${goodRecords} records before it are good\n` +
    `hint: ${ERRORS.LEDGER_BROKEN.hint}`
  );
}

function parseCheckpoint(text: string): Checkpoint {
  const match = /^([1-9]\d{0,14}):((?:sha256:)?[0-9a-f]{64})$/.exec(text);
  if (match === null) throw new InvalidArgumentError('It must be SEQ:HASH, as an incident shows it.');
  return { seq: Number(match[1]), hash: match[2] ?? '' };
}
