import { ERRORS, RingfenceError, fail, type ErrorCode, type ErrorFacts, type Problem } from '../core/errors.ts';

/** An error as it crosses the socket, and as `--json` prints it: `{ "error": WireError }`. */
export type WireError = {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string;
  readonly problems?: readonly Problem[];
  readonly facts: Readonly<Record<string, unknown>>;
};

/** Any thrown value for the wire. What is not a RingfenceError says nothing about itself: the log has the details. */
export function toWireError(error: unknown): WireError {
  const known = error instanceof RingfenceError ? error : fail('INTERNAL');
  const { detail: _detail, hint: _hint, problems, ...facts } = known.facts;
  return {
    code: known.code,
    message: known.message,
    hint: known.hint,
    ...(problems === undefined ? {} : { problems }),
    facts: plain(facts),
  };
}

/** Back from the wire. A shape that this version does not know becomes INTERNAL, with what it said. */
export function fromWireError(value: unknown): RingfenceError {
  const error = isRecord(value) && isRecord(value['error']) ? value['error'] : {};
  const { code, message, hint, problems, facts } = error;
  if (typeof code !== 'string' || !Object.hasOwn(ERRORS, code)) {
    return fail('INTERNAL', { detail: `the daemon answered in a way this version does not know: ${shown(value)}` });
  }
  const restored: ErrorFacts = {
    ...(isRecord(facts) ? facts : {}),
    ...(typeof message === 'string' ? { detail: message } : {}),
    ...(typeof hint === 'string' ? { hint } : {}),
    ...(Array.isArray(problems) ? { problems: problems as readonly Problem[] } : {}),
  };
  return fail(code as ErrorCode, restored);
}

const SHOWN_CHARS_MAX = 200;

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, SHOWN_CHARS_MAX);
}

/** Facts may hold anything that our code put there; only what JSON can carry crosses. */
function plain(facts: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(JSON.stringify(facts)) as Readonly<Record<string, unknown>>;
  } catch {
    return {};
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
