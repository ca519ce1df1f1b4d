import type { RequestRule } from './spec.ts';
import { canonicalisePath } from './request-path.ts';

/**
 * One line of `requests` of an inspected rule: `GET /v1/*`, `* /upload`. The method is compared as written, the path in
 * the form of `request-path.ts`, and the question after it not at all.
 */
export type ParsedRequest =
  | { readonly ok: true; readonly rule: RequestRule }
  | { readonly ok: false; readonly rule: string; readonly hint: string | null };

export const REQUESTS_MAX = 64;
export const REQUEST_CHARS_MAX = 1_024;
// The methods that are registered are shorter; an unknown one is no error, as APIs make up their own.
const METHOD = /^(?:\*|[A-Z][A-Z-]{0,23})$/;

export function parseRequestRule(text: string): ParsedRequest {
  if (text === '') return refused('must not be empty', EXAMPLE);
  if (text.length > REQUEST_CHARS_MAX) return refused(`must be at most ${REQUEST_CHARS_MAX} characters long`, null);
  const [method = '', path, ...more] = text.split(' ');
  if (path === undefined || path === '' || more.length > 0) {
    return refused('must be a method, one space and a path', EXAMPLE);
  }
  if (!METHOD.test(method)) return refused('must have a method in capitals, or * for every method', EXAMPLE);
  if (method === 'CONNECT') return refused('must not be CONNECT, which is never passed on', null);
  if (/[?#]/.test(path)) return refused('must have no question and no fragment: the path alone is compared', EXAMPLE);
  const pathPrefix = path.endsWith('*');
  const written = pathPrefix ? path.slice(0, -1) : path;
  if (written.includes('*')) return refused('must have its * at the end of the path only', EXAMPLE);
  const canonical = canonicalisePath(written);
  if (!canonical.ok) return refused(`must have a path that can be read in one way: it ${canonical.rule}`, null);
  if (canonical.path !== written) return refused('must have its path in canonical form', `write ${canonical.path}`);
  return { ok: true, rule: { text, method, path: written, pathPrefix } };
}
const EXAMPLE = 'for example GET /v1/*';

/** Does everything that `narrow` lets pass also pass by `wide`? */
export function requestCovers(wide: RequestRule, narrow: RequestRule): boolean {
  if (wide.method !== '*' && wide.method !== narrow.method) return false;
  if (!wide.pathPrefix) return !narrow.pathPrefix && wide.path === narrow.path;
  return narrow.path.startsWith(wide.path);
}

function refused(rule: string, hint: string | null): ParsedRequest {
  return { ok: false, rule, hint };
}
