import { canonicalisePath } from '../profile/request-path.ts';
import type { RequestRule } from '../profile/spec.ts';

/** What becomes of one request of an inspected connection. `target` is what is sent on: what was judged, not what came. */
export type RequestVerdict =
  | { readonly kind: 'allow'; readonly rule: RequestRule | null; readonly target: string }
  /** `line` would let it pass, where a line can. The texts are fit to show. */
  | { readonly kind: 'deny'; readonly explanation: string; readonly line: string | null };

export type RequestLine = { readonly method: string; readonly target: string };

const TARGET_CHARS_MAX = 16_384;
const SHOWN_PATH_CHARS_MAX = 200;

/** `target` as in the request line: a path and perhaps a question. Without rules every path may pass as it came. */
export function requestVerdict(rules: readonly RequestRule[], { method, target }: RequestLine): RequestVerdict {
  if (method === 'CONNECT') return denied('CONNECT is never passed on');
  if (!/^[A-Z][A-Z-]{0,23}$/.test(method)) return denied('the method must be in capitals');
  if (target.length > TARGET_CHARS_MAX) return denied(`the target has more than ${TARGET_CHARS_MAX} characters`);
  // `OPTIONS *` asks the whole server; the absolute form names a host a second time.
  if (!target.startsWith('/')) return denied('the target must be a path');
  if (target.includes('#')) return denied('the target must have no fragment');
  if (rules.length === 0) return { kind: 'allow', rule: null, target };
  const question = target.indexOf('?');
  const raw = question === -1 ? target : target.slice(0, question);
  const canonical = canonicalisePath(raw);
  if (!canonical.ok) return denied(`the path ${canonical.rule}`);
  const { path } = canonical;
  const rule = rules.find((each) => matches(each, { method, path }));
  if (rule !== undefined)
    return { kind: 'allow', rule, target: question === -1 ? path : path + target.slice(question) };
  const shown = path.length > SHOWN_PATH_CHARS_MAX ? `${path.slice(0, SHOWN_PATH_CHARS_MAX)}…` : path;
  const line = path.length > SHOWN_PATH_CHARS_MAX || path.includes('*') ? null : `${method} ${path}`;
  return { kind: 'deny', explanation: `${method} ${shown} is in no line of requests`, line };
}

function matches(rule: RequestRule, request: { readonly method: string; readonly path: string }): boolean {
  if (rule.method !== '*' && rule.method !== request.method) return false;
  return rule.pathPrefix ? request.path.startsWith(rule.path) : request.path === rule.path;
}

function denied(explanation: string): RequestVerdict {
  return { kind: 'deny', explanation, line: null };
}
