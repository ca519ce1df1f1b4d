import { assertNever } from '../core/assert.ts';
import { printable } from '../core/text.ts';
import type { CheckQuestion, CheckRule, CheckVerdict } from '../checker/messages.ts';
import { canonicaliseName } from '../policy/egress.ts';
import type { Refused } from './denials.ts';
import type { Lookup, LookupResult } from './lookup.ts';
import { TOO_MANY_TEXT, WAITS_TEXT } from './replies.ts';
import type { GateRun } from './run.ts';
import { judgeShown } from './verdict.ts';
import type { ShownJudgement, ShownName } from './verdict.ts';

/**
 * The name that a connection shows, judged as a question for it would be: the same rules, the same look-up, the same
 * hold. The addresses of the verdict are the only ones that the checker may connect to.
 */
export type CheckParts = {
  readonly isAlive: (run: GateRun) => boolean;
  readonly refuse: (run: GateRun, refused: Refused) => void;
  readonly lookup: Lookup;
  readonly now: () => number;
};

const NAME_CHARS_MAX = 253;

export async function checkConnection(
  question: CheckQuestion,
  run: GateRun | undefined,
  parts: CheckParts,
): Promise<CheckVerdict> {
  if (run === undefined) return notNow('egress', 'no run has this address');
  const { port, protocol } = question;
  const refuse = (rule: CheckRule, destination: string, why: string, line: string | null = null): CheckVerdict => {
    parts.refuse(run, { kind: 'name', destination, port, protocol: 'tcp', rule, explanation: why });
    return { kind: 'refuse', rule, explanation: why, line };
  };
  const asShown = printable(question.name, NAME_CHARS_MAX);
  if (!run.limits.takeCheck(parts.now())) return refuse('egress', asShown, 'too many connections in this second');
  const canonical = canonicaliseName(question.name);
  if (!canonical.ok) return refuse('check.name', asShown, `the name of a connection ${canonical.rule}`);

  const { name } = canonical;
  const shown: ShownName = { name, port, protocol };
  const judge = (): ShownJudgement => judgeShown(run.rules, shown, run.held.standing(name));
  const first = judge();
  if (first.kind === 'ask') {
    const waited = await run.held.wait(first.request);
    if (!parts.isAlive(run)) return notNow('egress', OVER_TEXT);
    if (waited === 'too-many') return refuse('egress', name, TOO_MANY_TEXT);
  }
  const second = first.kind === 'ask' ? judge() : first;
  if (second.kind === 'ask') return notNow('egress', `"${name}" ${WAITS_TEXT}`);
  if (second.kind === 'refuse') return refuse(second.rule, name, second.why, lineOf(shown));

  const found = await parts.lookup(run, { name, wildcard: second.wildcard });
  if (!parts.isAlive(run)) return notNow('egress', OVER_TEXT);
  // The rules may have changed while the upstream was asked.
  const last = judge();
  if (last.kind === 'ask') return notNow('egress', `"${name}" ${WAITS_TEXT}`);
  if (last.kind === 'refuse') return refuse(last.rule, name, last.why, lineOf(shown));
  switch (found.kind) {
    case 'addresses':
      if (found.addresses.length === 0) return notNow('check.upstream', `"${name}" has no address`);
      run.shown.passed(shown, last);
      return { kind: 'open', name, addresses: found.addresses, inspect: last.inspect, requests: last.requests };
    case 'never':
      return refuse('egress.never', name, found.why);
    case 'limited':
      return refuse('egress', name, found.why);
    case 'no-such-name':
    case 'failed':
      return notNow('check.upstream', failureText(name, found));
    default:
      return assertNever(found);
  }
}

const OVER_TEXT = 'the run is over';

/** Nothing that the agent tried is forbidden, so nothing is counted. */
function notNow(rule: CheckRule, explanation: string): CheckVerdict {
  return { kind: 'refuse', rule, explanation, line: null };
}

function failureText(name: string, found: Extract<LookupResult, { kind: 'no-such-name' | 'failed' }>): string {
  return found.kind === 'failed' ? `"${name}" could not be resolved: ${found.why}` : `"${name}" does not exist`;
}

/** What to write under `egress.allow` if the agent is right. */
function lineOf({ name, port }: ShownName): string {
  return `${name}:${port}`;
}
