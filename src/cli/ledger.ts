import { InvalidArgumentError, Option, type Command } from 'commander';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';

import { writeSlowly } from '../api/stream.ts';
import { ERRORS, fail, messageOf } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import { VERSION } from '../core/version.ts';
import type { LedgerRecord } from '../core/ports/record.ts';
import type { NoteKey } from '../ledger/note.ts';
import type { BadPlace, Verification } from '../ledger/verify.ts';
import type { Context } from './context.ts';
import type { Invoke } from './commands.ts';

type Checkpoint = { readonly seq: number; readonly hash: string };

/** Where the daemon keeps the record below its state directory. */
const LEDGER_FOLDER = 'ledger';
const FILE_BYTES_MAX = 4_096;
const FORMATS = ['jsonl', 'csv', 'ocsf'] as const;
type Format = (typeof FORMATS)[number];

export function define(command: Command, invoke: Invoke): void {
  command
    .command('verify')
    .summary('check every record against the chain')
    .description(
      'Checks every record against the chain and every signature, from the files alone. Exit code 1 names the first bad record.',
    )
    .option('--checkpoint <seq:hash|file>', 'a record known from elsewhere, such as from an alert, or a saved note')
    .option('--key <text|file>', 'the public key, kept elsewhere: `ringfence ledger checkpoint` shows it')
    .action((options: { readonly checkpoint?: string; readonly key?: string }) =>
      invoke((context) => verify(context, options)),
    );
  command
    .command('checkpoint')
    .summary('sign where the record stands now')
    .description('Signs where the record stands now. Keep the note, and once the key, on another machine.')
    .action(() =>
      invoke(async (context) => {
        const client = await context.client();
        const signed = await client.checkpoint();
        await context.answer({ json: signed, text: () => `${signed.note}\nkey: ${signed.key}` });
        return 0;
      }),
    );
  command
    .command('rotate-key')
    .summary('sign with a new key from now on')
    .description('Makes a new key, which the old one vouches for. Keep the new public key on another machine too.')
    .action(() =>
      invoke(async (context) => {
        const client = await context.client();
        const rotated = await client.rotateKey();
        await context.answer({ json: rotated, text: () => `key: ${rotated.key}` });
        return 0;
      }),
    );
  command
    .command('export')
    .summary('write the record out for other tools')
    .description(
      'Writes the record to standard output, from the files alone, and says at the first place that is not sound.',
    )
    .addOption(new Option('--format <format>', 'jsonl, csv, or ocsf (1.8.0)').choices(FORMATS).default('jsonl'))
    .option('--from <seq>', 'only from this record on', parseSeq, 1)
    .option('--host <name>', 'the host that the record is of', hostname())
    .action((options: { readonly format: Format; readonly from: number; readonly host: string }) =>
      invoke((context) => exportRecords(context, options)),
    );
}

async function verify(
  context: Context,
  options: { readonly checkpoint?: string; readonly key?: string },
): Promise<number> {
  const { verifyLedger } = await import('../ledger/verify.ts');
  const key = options.key === undefined ? undefined : await readKey(options.key);
  const checkpoint = options.checkpoint === undefined ? undefined : await readCheckpoint(options.checkpoint, key);
  const result = await verifyLedger({
    directory: join(context.statePath, LEDGER_FOLDER),
    ...(checkpoint === undefined ? {} : { checkpoint }),
    ...(key === undefined ? {} : { key }),
  });
  const { firstBad, records } = result;
  await context.answer({ json: result, text: () => (result.ok ? describeSound(result, key !== undefined) : '') });
  if (firstBad === null) return 0;
  await context.note(describeBreak(firstBad, records));
  return ERRORS.LEDGER_BROKEN.exitCode;
}

function describeSound(result: Verification, keyGiven: boolean): string {
  const { records, head, checkpoints, lastCheckpoint, prunedThroughSeq } = result;
  const lines = [`${records} records, unbroken; the last is ${head.seq}, ${head.hash}`];
  if (prunedThroughSeq > 0)
    lines.push(`records up to ${prunedThroughSeq} were deleted for their age, which is on record`);
  if (lastCheckpoint === null) return lines.join('\n');
  const by = keyGiven ? 'the key given' : 'a key that only the ledger itself vouches for (give `--key`)';
  return [...lines, `${checkpoints} checkpoints, the last at ${lastCheckpoint.seq}, signed by ${by}`].join('\n');
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

async function exportRecords(
  context: Context,
  options: { readonly format: Format; readonly from: number; readonly host: string },
): Promise<number> {
  const { readRecords } = await import('../ledger/records.ts');
  const { head, line } = await rendererOf(options);
  const { stdout } = context.terminal;
  let firstBad: BadPlace | null = null;
  let good = 0;
  await writeSlowly(stdout, head);
  for await (const found of readRecords(join(context.statePath, LEDGER_FOLDER))) {
    if ('bad' in found) firstBad ??= found.bad;
    else {
      if (firstBad === null) good += 1;
      if (found.record.seq >= options.from) await writeSlowly(stdout, line(found.record));
    }
  }
  if (firstBad === null) return 0;
  await context.note(describeBreak(firstBad, good));
  return ERRORS.LEDGER_BROKEN.exitCode;
}

type Renderer = { readonly head: string; readonly line: (record: LedgerRecord) => string };

async function rendererOf(options: { readonly format: Format; readonly host: string }): Promise<Renderer> {
  if (options.format === 'csv') {
    const { CSV_HEAD, csvOf } = await import('../report/csv.ts');
    return { head: CSV_HEAD, line: csvOf };
  }
  if (options.format === 'ocsf') {
    const { ocsfOf } = await import('../report/ocsf.ts');
    const about = { host: options.host, version: VERSION };
    return { head: '', line: (record) => `${JSON.stringify(ocsfOf(record, about))}\n` };
  }
  return { head: '', line: (record) => `${JSON.stringify(record)}\n` };
}

async function readKey(given: string): Promise<NoteKey> {
  const { parseNoteKey } = await import('../ledger/note.ts');
  const key = parseNoteKey(given) ?? parseNoteKey(await readSmall(given));
  if (key !== null) return key;
  throw fail('REQUEST_INVALID', {
    detail: '`--key` is neither a public key (name+hash+key) nor a file that holds one',
  });
}

/** A saved note counts only when its signature does: otherwise anybody could have written it. */
async function readCheckpoint(given: string, key: NoteKey | undefined): Promise<Checkpoint> {
  const match = /^([1-9]\d{0,14}):(?:sha256:)?([0-9a-f]{64})$/.exec(given);
  if (match !== null) return { seq: Number(match[1]), hash: match[2] ?? '' };
  if (!/[/.]/.test(given))
    throw fail('REQUEST_INVALID', { detail: `--checkpoint must be SEQ:HASH, as an incident shows it, or a file` });
  const { openNote, parseCheckpoint } = await import('../ledger/note.ts');
  const note = await readSmall(given);
  if (key === undefined)
    throw fail('REQUEST_INVALID', { detail: 'a saved note is checked with the key: give `--key` too' });
  const opened = openNote(note, [key]);
  const checkpoint = opened.ok ? parseCheckpoint(opened.text) : null;
  if (checkpoint !== null) return checkpoint;
  throw fail('REQUEST_INVALID', { detail: `${given}: ${opened.ok ? 'it is no checkpoint' : opened.why}` });
}

async function readSmall(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).slice(0, FILE_BYTES_MAX);
  } catch (error) {
    throw fail('REQUEST_INVALID', { detail: messageOf(error) }, { cause: error });
  }
}

function parseSeq(text: string): number {
  if (!/^[1-9]\d{0,14}$/.test(text)) throw new InvalidArgumentError('It must be the number of a record.');
  return Number(text);
}
