import { printable } from '../../core/text.ts';
import { canonicaliseName } from '../../policy/egress.ts';
import { requestVerdict } from '../../policy/requests.ts';
import type { FenceRequestRule } from '../../core/ports/fence.ts';

/** One request as an inspected connection shows it, of any version of HTTP. */
export type InspectedRequest = {
  readonly method: string;
  readonly target: string;
  /** Every Host and `:authority` there is, in order. */
  readonly hosts: readonly string[];
  /** The values of a header, by its name in lower case. */
  readonly header: (name: string) => readonly string[];
};

export type Judgement =
  /** `target` is what is sent on, instead of what came. */
  | { readonly kind: 'pass'; readonly target: string }
  | { readonly kind: 'refuse'; readonly explanation: string; readonly line: string | null };

export type JudgedBy = {
  /** Canonical. */
  readonly name: string;
  readonly port: number;
  readonly requests: readonly FenceRequestRule[];
};

const SHOWN_CHARS_MAX = 253;
// By these a server takes another method or path than the request line's.
const METHOD_OVERRIDES = ['x-http-method-override', 'x-http-method', 'x-method-override'];
const PATH_OVERRIDES = ['x-original-url', 'x-rewrite-url'];

export function judgeRequest(rule: JudgedBy, request: InspectedRequest): Judgement {
  const host = hostRefusal(rule, request.hosts);
  if (host !== null) return { kind: 'refuse', explanation: host, line: null };
  const verdict = requestVerdict(rule.requests, request);
  if (verdict.kind === 'deny') return refusal(verdict);
  if (rule.requests.length > 0) {
    const override = overrideRefusal(rule, request);
    if (override !== null) return override;
  }
  return { kind: 'pass', target: verdict.target };
}

/** Fronting ends here: one host, and it is the name of the rule. */
function hostRefusal({ name, port }: JudgedBy, hosts: readonly string[]): string | null {
  const [shown, ...more] = hosts;
  if (shown === undefined) return 'the request names no host';
  if (more.some((other) => other !== shown)) return 'the request names more than one host';
  const match = /^([^:]*)(?::([0-9]{1,5}))?$/.exec(shown);
  const canonical = match === null ? null : canonicaliseName(match[1] ?? '');
  // Who names no port means the one that the connection is on.
  const portFits = match?.[2] === undefined || Number(match[2]) === port;
  if (canonical?.ok === true && canonical.name === name && portFits) return null;
  return `the host of the request is "${printable(shown, SHOWN_CHARS_MAX)}", the connection is for ${name}:${port}`;
}

function overrideRefusal(rule: JudgedBy, request: InspectedRequest): Judgement | null {
  const path = PATH_OVERRIDES.find((header) => request.header(header).length > 0);
  if (path !== undefined) {
    return { kind: 'refuse', explanation: `the header ${path} names a second path`, line: null };
  }
  for (const header of METHOD_OVERRIDES) {
    for (const method of request.header(header)) {
      const verdict = requestVerdict(rule.requests, { method, target: request.target });
      if (verdict.kind === 'allow') continue;
      const explanation = `the header ${header} names a second method: ${printable(verdict.explanation)}`;
      return refusal({ explanation, line: verdict.line });
    }
  }
  return null;
}

function refusal({ explanation, line }: { readonly explanation: string; readonly line: string | null }): Judgement {
  const shown = printable(explanation, 512);
  return { kind: 'refuse', explanation: shown, line: line === null ? null : `requests: [${line}]` };
}
