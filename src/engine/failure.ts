import { fail, RingfenceError } from '../core/errors.ts';
import { printable } from '../core/text.ts';

/** What a command that cannot be run ends with, as shells have it. */
const EXIT_CANNOT_EXECUTE = 126;
const EXIT_NOT_FOUND = 127;

const MESSAGE_CHARS_MAX = 400;

const CODES_UNREACHABLE = new Set(['ENOENT', 'ECONNREFUSED', 'EACCES', 'EPERM', 'ENOTSOCK', 'ENOTDIR']);
const CODES_LOST = new Set(['ECONNRESET', 'EPIPE', 'ECONNABORTED', 'HPE_INVALID_EOF_STATE']);

/**
 * Any failure of a call as one of ours. Facts: `statusCode` when the engine answered, `connectionLost` when the socket
 * broke, so that the engine may or may not have done what was asked.
 */
export function callError(
  error: unknown,
  context: { readonly call: string; readonly timeoutMs: number },
): RingfenceError {
  if (error instanceof RingfenceError) return error;
  const { code, name, message, statusCode, json } = shapeOf(error);
  const { call, timeoutMs } = context;
  if (statusCode !== null) {
    const said = messageIn(json) ?? message;
    return fail('ENGINE_FAILED', { detail: `the engine refused ${call}: ${said}`, call, statusCode, said });
  }
  const cause = { cause: error };
  if (name === 'TimeoutError' || code === 'ABORT_ERR') {
    return fail(
      'ENGINE_UNREACHABLE',
      { detail: `the engine did not answer ${call} within ${timeoutMs} ms`, call },
      cause,
    );
  }
  if (code !== null && CODES_UNREACHABLE.has(code)) {
    return fail('ENGINE_UNREACHABLE', { detail: `the container engine does not answer: ${message}`, call }, cause);
  }
  if ((code !== null && CODES_LOST.has(code)) || message.includes('socket hang up') || message.includes('aborted')) {
    const detail = `the engine closed the connection during ${call}`;
    return fail('ENGINE_UNREACHABLE', { detail, call, connectionLost: true }, cause);
  }
  return fail('ENGINE_FAILED', { detail: `${call} failed: ${message}`, call }, cause);
}

export function connectionLost(error: unknown): boolean {
  return error instanceof RingfenceError && error.facts['connectionLost'] === true;
}

/** The status that the engine answered with, or null when it did not answer. */
export function statusOf(error: unknown): number | null {
  const status = error instanceof RingfenceError ? error.facts['statusCode'] : null;
  return typeof status === 'number' ? status : null;
}

/** A start that failed because of the command gets the exit code that a shell would give. */
export function startError(error: unknown): unknown {
  if (!(error instanceof RingfenceError) || statusOf(error) === null) return error;
  const said = typeof error.facts['said'] === 'string' ? error.facts['said'] : '';
  const exitCode = exitCodeIn(said);
  if (exitCode === null) return error;
  return fail('ENGINE_FAILED', { ...error.facts, detail: error.message, exitCode }, { cause: error });
}

function exitCodeIn(said: string): number | null {
  if (/executable file not found|no such file or directory/i.test(said)) return EXIT_NOT_FOUND;
  return /permission denied|is a directory|exec format error/i.test(said) ? EXIT_CANNOT_EXECUTE : null;
}

function messageIn(json: unknown): string | null {
  if (typeof json !== 'object' || json === null || !('message' in json)) return null;
  return printable(String(json.message).trim(), MESSAGE_CHARS_MAX);
}

function shapeOf(error: unknown): {
  code: string | null;
  name: string;
  message: string;
  statusCode: number | null;
  json: unknown;
} {
  const shape = (typeof error === 'object' && error !== null ? error : {}) as Record<string, unknown>;
  return {
    code: typeof shape['code'] === 'string' ? shape['code'] : null,
    name: typeof shape['name'] === 'string' ? shape['name'] : '',
    message: printable(typeof shape['message'] === 'string' ? shape['message'] : String(error), MESSAGE_CHARS_MAX),
    statusCode: typeof shape['statusCode'] === 'number' ? shape['statusCode'] : null,
    json: shape['json'],
  };
}
