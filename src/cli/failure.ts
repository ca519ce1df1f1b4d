import { toWireError } from '../api/wire-error.ts';
import { ERRORS, RingfenceError, messageOf } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import type { Terminal } from './terminal.ts';

const LINE_CHARS_MAX = 4_096;

/** Says what went wrong and what to type next; with `--json` the one value is the error. Returns the exit code. */
export async function reportFailure(options: {
  readonly error: unknown;
  readonly terminal: Terminal;
  readonly json: boolean;
}): Promise<number> {
  const { error, terminal, json } = options;
  if (json) printFailure(terminal, error);
  terminal.stderr.write(`${await describeFailure(error, terminal.env)}\n`);
  return error instanceof RingfenceError ? ERRORS[error.code].exitCode : ERRORS.INTERNAL.exitCode;
}

/** What `--json` prints in place of a result. */
export function printFailure(terminal: Terminal, error: unknown): void {
  terminal.stdout.write(`${JSON.stringify({ error: toWireError(error) }, null, 2)}\n`);
}

async function describeFailure(error: unknown, env: Terminal['env']): Promise<string> {
  if (!(error instanceof RingfenceError)) {
    const trace = env['RINGFENCE_TRACE'] === '1' && error instanceof Error ? `\n${error.stack ?? ''}` : '';
    return `ringfence: a fault of its own: ${shown(messageOf(error))}${trace}\nhint: please report it, with the output of the same command under RINGFENCE_TRACE=1`;
  }
  const problems = (error.facts.problems ?? []).filter(({ line }) => line > 0);
  if (problems.length === 0) return `ringfence: ${shown(error.message)}\nhint: ${shown(error.hint)}`;
  const { formatProblem } = await import('../profile/problems.ts');
  const last = problems.some(({ hint }) => hint !== null) ? [] : [`hint: ${shown(error.hint)}`];
  return [...problems.map(formatProblem), `ringfence: ${shown(error.message)}`, ...last].join('\n');
}

/** Several lines stay several lines; whatever else could move the cursor does not reach the terminal. */
function shown(text: string): string {
  return text
    .split('\n')
    .map((line) => printable(line, LINE_CHARS_MAX))
    .join('\n');
}
