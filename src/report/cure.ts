import { assertNever } from '../core/assert.ts';
import type { Breach, Denial } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { parseRule } from '../profile/rules.ts';
import type { DenialBudget } from '../profile/spec.ts';
import { formatAmount, profileAmount } from './measure.ts';

/** A sweep of a whole network needs no line for each address. */
const RULES_SHOWN_MAX = 5;

export type CureFacts = {
  readonly breach: Breach;
  /** The refused attempts to be allowed, if the agent was right. */
  readonly denials: readonly Denial[];
  readonly denialBudget: DenialBudget | null;
};

/** What to change in the profile if the agent was right: lines to copy, most useful first. Never empty. */
export function cureFor({ breach, denials, denialBudget }: CureFacts): readonly string[] {
  switch (breach.reason) {
    case 'egress.forbidden':
      return allowLines(denials, breach.denial);
    case 'budget.denials':
      return [...allowLines(denials, breach.denial), denialsLine(breach, denialBudget)];
    case 'budget.wall':
    case 'budget.cpu':
    case 'budget.gpu':
    case 'budget.egress':
    case 'budget.ingress':
    case 'budget.connections':
    case 'limit.pids':
    case 'limit.disk':
    case 'oom':
      return [raiseLine(breach)];
    case 'limit.gpu':
      if (breach.rule !== 'limits.gpu') return [raiseLine(breach)];
      return ['grant the device with `limits.gpu`, for example { count: 1 }, if the agent needs one'];
    case 'enforcement.mismatch':
    case 'enforcement.lost':
      return ['nothing in the profile: run `ringfence doctor`, repair the host, then start the agent again'];
    case 'supervisor.lost':
      return ['start the daemon again; to let runs live on without it, write `supervisor.lost: keep` under `on`'];
    default:
      return ['nothing in the profile: a person or the engine ended the run'];
  }
}

/** Twice what was needed leaves room and is still a bound; the number is written exactly as a profile takes it. */
function raiseLine(breach: Breach): string {
  const from = profileAmount(breach.limit, breach.unit);
  const needed = Math.max(breach.measured, breach.limit, 1);
  const to = profileAmount(roundedUp(needed * 2, breach.unit), breach.unit);
  const used = formatAmount(breach.measured, breach.unit);
  return `raise \`${breach.rule}\` from ${from} to what the work needs, for example ${to} (it had used ${used})`;
}

const ROUND_MS = [1_000, 60_000, 3_600_000];
const ROUND_BYTES = [2 ** 10, 2 ** 20, 2 ** 30];

function roundedUp(amount: number, unit: string): number {
  const steps = unit === 'ms' ? ROUND_MS : unit === 'bytes' ? ROUND_BYTES : [1];
  const step = steps.findLast((each) => amount >= each * 2) ?? steps[0] ?? 1;
  return Math.ceil(amount / step) * step;
}

function denialsLine(breach: Breach, budget: DenialBudget | null): string {
  const window = budget === null || budget.windowMs === null ? '' : `/${profileAmount(budget.windowMs, 'ms')}`;
  const from = `${breach.limit}${window}`;
  const to = `${Math.max(breach.measured * 2, 10)}${window}`;
  return `or let it be refused more often before it is ended: \`budget.denials\` from ${from} to ${to}`;
}

/** The lines for `egress.allow`, each checked by the parser of profiles, and a word about what no profile can allow. */
export function allowLines(denials: readonly Denial[], also: Denial | null = null): readonly string[] {
  const wanted = new Set<string>();
  const never = new Set<string>();
  for (const denial of also === null ? denials : [also, ...denials]) {
    const text = ruleTextOf(denial);
    if (text === null) {
      never.add(neverLine(denial, 'a profile opens names, and TCP and UDP ports of IPv4 addresses, only'));
      continue;
    }
    const parsed = parseRule(text);
    if (parsed.ok) wanted.add(text);
    else never.add(neverLine(denial, `it ${parsed.rule}`));
  }
  const shown = [...wanted].slice(0, RULES_SHOWN_MAX);
  const more = wanted.size - shown.length;
  const adds = shown.map((text) => `add under \`egress.allow\`: - ${quoted(text)}`);
  const rest = more > 0 ? [`and ${more} more destinations: \`ringfence inspect RUN\` lists them`] : [];
  const lines = [...adds, ...rest, ...[...never].slice(0, RULES_SHOWN_MAX)];
  return lines.length > 0 ? lines : ['add what the agent needs under `egress.allow`'];
}

function ruleTextOf(denial: Denial): string | null {
  switch (denial.kind) {
    case 'name':
      return denial.rule === 'dns.type' ? null : denial.destination;
    case 'packet': {
      const { port, protocol } = denial;
      if (port === null || (protocol !== 'tcp' && protocol !== 'udp')) return null;
      return `${denial.destination}/32:${port}${protocol === 'udp' ? '/udp' : ''}`;
    }
    case 'spoof':
    case 'budget':
      return null;
    default:
      return assertNever(denial.kind);
  }
}

function neverLine(denial: Denial, why: string): string {
  return `no profile can allow ${printable(denial.destination, 100)}: ${why}`;
}

function quoted(text: string): string {
  return text.startsWith('*') ? `"${text}"` : text;
}
