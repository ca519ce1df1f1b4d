import type { LedgerRecord } from '../core/ports/record.ts';
import { parseLine } from './line.ts';
import type { BadPlace } from './walk.ts';
import { walkLedger } from './walk.ts';

/**
 * Every record of a ledger, oldest first, from its files alone and each checked against the one before. What is wrong
 * comes in its place: whoever reads on knows that the rest is not proved.
 */
export async function* readRecords(
  directory: string,
): AsyncGenerator<{ readonly record: LedgerRecord } | { readonly bad: BadPlace }> {
  for await (const walked of walkLedger(directory)) {
    if (walked.kind === 'segment-fault') yield { bad: walked.bad };
    if (walked.kind !== 'lines') continue;
    for (const line of walked.lines) {
      if (line.fault !== null) yield { bad: line.fault.bad };
      const record = line.whole ? parseLine(line.bytes) : null;
      if (record !== null) yield { record };
    }
  }
}
