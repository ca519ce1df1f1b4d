import type { Command } from 'commander';
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

import { EXIT_USAGE, messageOf, type Problem } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import { formatProblem, parseProfile } from '../profile/parse.ts';
import { resolveProfile } from '../profile/resolve.ts';
import type { Invoke } from './commands.ts';
import type { Context } from './context.ts';

// Far more than a profile may have, so that the parser itself says how large the file is.
const READ_BYTES_MAX = 64 * 1024 * 1024;

type Checked = {
  readonly file: string;
  readonly valid: boolean;
  readonly name: string | null;
  readonly digest: string | null;
  readonly problems: readonly Problem[];
  /** Valid, and perhaps not what was meant. */
  readonly warnings: readonly Problem[];
};

export function define(command: Command, invoke: Invoke): void {
  command
    .argument('<profile...>', 'profile files')
    .action((files: readonly string[]) => invoke((context) => validate(context, files)));
}

/** Every file is checked, whatever the others are: exit 0 when all are valid, 2 otherwise. */
async function validate(context: Context, files: readonly string[]): Promise<number> {
  const results: Checked[] = [];
  for (const file of files) {
    const checked = await check(file, context.terminal.cwd);
    results.push(checked);
    for (const problem of checked.problems) await context.note(formatProblem(problem));
    for (const warning of checked.warnings) {
      await context.note(formatProblem({ ...warning, message: `warning: ${warning.message}` }));
    }
  }
  await context.answer({ json: results, text: () => results.map(verdictOf).join('\n') });
  return results.every(({ valid }) => valid) ? 0 : EXIT_USAGE;
}

function verdictOf({ file, valid }: Checked): string {
  return `${printable(file)}: ${valid ? 'valid' : 'not valid'}`;
}

async function check(file: string, cwd: string): Promise<Checked> {
  const path = resolve(cwd, file);
  const bad = (problems: readonly Problem[]): Checked => {
    return { file, valid: false, name: null, digest: null, problems, warnings: [] };
  };
  let bytes: Buffer;
  try {
    bytes = await readBounded(path);
  } catch (error) {
    return bad([{ file, line: 1, column: 1, path: '', message: `cannot be read: ${messageOf(error)}`, hint: null }]);
  }
  const parsed = parseProfile({ file, bytes });
  if (!parsed.ok) return bad(parsed.problems);
  const { warnings } = parsed;
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  const resolved = resolveProfile({ parsed, digest, folder: dirname(path) });
  if (!resolved.ok) return bad(resolved.problems);
  return { file, valid: true, name: resolved.spec.name, digest, problems: [], warnings };
}

async function readBounded(path: string): Promise<Buffer> {
  // Without O_NONBLOCK, opening a pipe would wait for somebody to write.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const facts = await handle.stat();
    if (!facts.isFile()) throw new Error('it is not a file');
    if (facts.size > READ_BYTES_MAX) throw new Error(`it has ${facts.size} bytes`);
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}
