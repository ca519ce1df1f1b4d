import { printable } from '../core/text.ts';

/**
 * Command lines are evidence, and people put secrets on them. What looks like one is replaced before it is recorded:
 * better a hidden file name than a published key.
 */
const HIDDEN = '***';
const ARGUMENTS_MAX = 64;
const ARGUMENT_CHARS_MAX = 256;
const COMMAND_WORDS_MAX = 128;
/** Longer arguments are cut before anything looks for patterns in them. */
const SCANNED_CHARS_MAX = 2_048;

const SECRET_WORD =
  /pass(?:word|wd|phrase)?|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|auth|credential|cookie|bearer|session|signature/i;
const SECRET_FLAG = /^--?([A-Za-z][\w.-]*)$/;
const USER_FLAG = /^(?:-u|-U|--user|--proxy-user)$/;
const SECRET_ASSIGNMENT = /^((?:--?)?[A-Za-z_][\w.-]*)[=:](?=.)/;
/** `-p` is a password to some programs and a port to others; a port is evidence. */
const PORT = /^\d{1,5}$/;

/** The same arguments, bounded, printable and without what looks like a secret. */
export function redactArgv(argv: readonly string[]): string[] {
  return redacted(argv, { argumentsMax: ARGUMENTS_MAX, charsMax: ARGUMENT_CHARS_MAX });
}

/** The command of a run, which is recorded once and may be a whole script. */
export function redactCommand(command: readonly string[]): string[] {
  return redacted(command, { argumentsMax: COMMAND_WORDS_MAX, charsMax: SCANNED_CHARS_MAX });
}

function redacted(
  argv: readonly string[],
  { argumentsMax, charsMax }: { readonly argumentsMax: number; readonly charsMax: number },
): string[] {
  const shown: string[] = [];
  let before = '';
  for (const argument of argv.slice(0, argumentsMax)) {
    shown.push(isSecretOf(before, argument) ? HIDDEN : printable(redactOne(before, argument), charsMax));
    before = argument;
  }
  if (argv.length > argumentsMax) shown.push(`… (${argv.length} arguments)`);
  return shown;
}

function isSecretOf(flag: string, argument: string): boolean {
  if (flag === '-p') return !PORT.test(argument);
  const name = SECRET_FLAG.exec(flag)?.[1];
  return name !== undefined && name.length > 1 && SECRET_WORD.test(name) && !argument.startsWith('--');
}

/** `user:password` after the flag that takes both, as curl has it. */
function redactOne(flag: string, argument: string): string {
  const user = USER_FLAG.test(flag) ? /^([^:]{0,64}):./.exec(argument)?.[1] : undefined;
  return user === undefined ? redactText(argument) : `${user}:${HIDDEN}`;
}

/** One argument or any other text: secrets in assignments, headers, URLs and well-known or random-looking tokens. */
export function redactText(text: string): string {
  const cut = text.length > SCANNED_CHARS_MAX ? text.slice(0, SCANNED_CHARS_MAX) : text;
  const short = /^-p(.+)$/.exec(cut)?.[1];
  if (short !== undefined && !PORT.test(short)) return `-p${HIDDEN}`;
  const assignment = SECRET_ASSIGNMENT.exec(cut)?.[1];
  if (assignment !== undefined && SECRET_WORD.test(assignment)) {
    return `${assignment}${cut[assignment.length] ?? '='}${HIDDEN}`;
  }
  return hideTokens(hideInside(cut));
}

function hideInside(text: string): string {
  return text
    .replace(/([a-z][a-z0-9+.-]{0,20}:\/\/)[^\s/?#@]+@/gi, `$1${HIDDEN}@`)
    .replace(/\b(bearer|basic)\s+[\w+/=.~-]+/gi, `$1 ${HIDDEN}`)
    .replace(
      /(["']?\b[\w.-]{0,40}(?:password|passwd|secret|token|api[-_]?key|access[-_]?key|signature)\b["']?\s{0,4}[=:]\s{0,4})("[^"]*"|'[^']*'|[^\s&;,"'}]+)/gi,
      `$1${HIDDEN}`,
    );
}

const KNOWN_TOKEN =
  /^(?:gh[pousr]_|github_pat_|glpat-|sk-|xox[abeprs]-|AKIA|ASIA|AIza|eyJ|whsec_|hf_|npm_|dop_v1_|SG\.)[\w.=-]{8,}/;

function hideTokens(text: string): string {
  return text.replace(/(?<![\w+=-])(sha256:)?([\w+=.-]{16,})/g, (whole, digest: string | undefined, token: string) =>
    digest === undefined && (KNOWN_TOKEN.test(token) || looksRandom(token)) ? HIDDEN : whole,
  );
}

const MIXED_CHARS_MIN = 20;
const HEX_CHARS_MIN = 32;
const PLAIN_CHARS_MIN = 32;

function looksRandom(token: string): boolean {
  if (/^[0-9a-f-]+$/i.test(token)) return token.length >= HEX_CHARS_MIN && entropyBits(token) >= 3;
  const mixed = /[a-z]/.test(token) && /[A-Z]/.test(token) && /\d/.test(token);
  if (mixed && token.length >= MIXED_CHARS_MIN && !token.includes('.')) return entropyBits(token) >= 3.5;
  const plain = /^[A-Za-z0-9+=]+$/.test(token) && /\d/.test(token) && /[A-Za-z]/.test(token);
  return plain && token.length >= PLAIN_CHARS_MIN && entropyBits(token) >= 3.6;
}

/** Shannon entropy in bits a character. */
function entropyBits(text: string): number {
  const counts = new Map<string, number>();
  for (const char of text) counts.set(char, (counts.get(char) ?? 0) + 1);
  let bits = 0;
  for (const count of counts.values()) bits -= (count / text.length) * Math.log2(count / text.length);
  return bits;
}
