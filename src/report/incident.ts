import type { AllowedDestination, Caller, CurvePoint, Incident, ProcessEvidence, Severity } from '../api/service.ts';
import { assertNever } from '../core/assert.ts';
import type { Action, Breach, Denial } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { formatDuration } from '../core/units.ts';
import { momentOf, signalOf } from '../run/classify.ts';
import type { RunEnd, RunState } from '../run/state.ts';
import { cureFor } from './cure.ts';
import {
  boundedAllowed,
  boundedArgv,
  boundedBreach,
  boundedDenial,
  boundedLine,
  boundedProcess,
  fitIncident,
} from './fit.ts';
import { destinationOf, formatAmount, usualPort } from './measure.ts';
import { tagsOf } from './tags.ts';

export type IncidentFacts = {
  readonly id: string;
  readonly host: string;
  readonly version: string;
  readonly state: RunState;
  readonly labels: Readonly<Record<string, string>>;
  /** What the run was launched with. */
  readonly command: readonly string[];
  readonly launchedBy: Caller;
  readonly traceparent: string | null;
  /** The process that did it and the busiest ones of the run, where they could be seen before they were dead. */
  readonly process: ProcessEvidence | null;
  readonly topProcesses: readonly ProcessEvidence[];
  readonly lastAllowed: readonly AllowedDestination[];
  readonly curve: readonly CurvePoint[];
  /** As the agent wrote them, without their ends. */
  readonly logLines: readonly string[];
  /** What the run looked like from outside; a label that decided nothing. Left out: like nothing in particular. */
  readonly sign?: { readonly label: string; readonly why: string } | null;
  /** Of this profile, before this one. */
  readonly earlierIncidents: number;
  readonly lastIncident: Incident['context']['last'];
  readonly quarantined: boolean;
  readonly trust: Incident['trust'];
};

/** The incident of a run that was ended for a breach. Everything an agent could have chosen is bounded and printable. */
export function buildIncident(facts: IncidentFacts): Incident {
  return fitIncident(wholeIncident(facts));
}

function wholeIncident(facts: IncidentFacts): Incident {
  const { state } = facts;
  const { spec } = state;
  const end = state.end;
  const breach = end?.breach ?? unknownBreach(end);
  const times = end?.times ?? { detectedMs: null, signalledMs: null, emptyMs: null };
  const detectedAt = momentOf(state, times.detectedMs) ?? end?.at ?? new Date(0).toISOString();
  const denials = state.lastDenials.map(boundedDenial);
  const toEmptyMs =
    times.detectedMs === null || times.emptyMs === null ? null : Math.max(0, times.emptyMs - times.detectedMs);
  return {
    id: facts.id,
    host: facts.host,
    version: facts.version,
    subject: {
      profile: spec.name,
      runId: state.runId,
      profileDigest: spec.profileDigest,
      command: boundedArgv(facts.command),
      imageDigest: state.imageDigest,
      owner: printable(spec.owner),
      labels: facts.labels,
      launchedBy: facts.launchedBy,
      traceparent: facts.traceparent,
    },
    what: {
      reason: breach.reason,
      rule: breach.rule,
      summary: summaryOf(spec.name, breach),
      explanation: explanationOf(breach, end?.detail ?? '') + signSentence(facts.sign),
      severity: severityOf(breach, end?.alsoBreached ?? []),
      tags: [...tagsOf([breach, ...(end?.alsoBreached ?? [])]), ...(facts.sign ? [facts.sign.label] : [])],
    },
    evidence: {
      breach: boundedBreach(breach),
      alsoBreached: (end?.alsoBreached ?? []).map(boundedBreach),
      process: facts.process === null ? null : boundedProcess(facts.process),
      usage: state.usage,
      usageBefore: end?.usageAtBreach ?? null,
      bounds: state.bounds,
      lastDenials: denials,
      lastAllowed: facts.lastAllowed.map(boundedAllowed),
      topProcesses: facts.topProcesses.map(boundedProcess),
      curve: facts.curve,
      logLines: facts.logLines.map(boundedLine),
    },
    action: {
      asked: breach.action,
      taken: state.survivors > 0 ? `${breach.action}, not complete` : breach.action,
      signal: end === null ? null : signalOf(state, end),
      survivors: state.survivors,
    },
    times: {
      crossedAt: crossedAt(state, breach),
      detectedAt,
      signalledAt: momentOf(state, times.signalledMs),
      emptyAt: momentOf(state, times.emptyMs),
      detectedToEmptyMs: toEmptyMs === null ? null : Math.round(toEmptyMs * 10) / 10,
    },
    context: {
      earlierIncidents: facts.earlierIncidents,
      last: facts.lastIncident,
      quarantined: facts.quarantined,
      closed: null,
    },
    trust: facts.trust,
    cure: cureFor({ breach, denials, denialBudget: spec.budget.denials }).join('\n'),
  };
}

/** With its reason and its weight, so that nobody takes it for a verdict. */
function signSentence(sign: IncidentFacts['sign']): string {
  return sign === null || sign === undefined ? '' : ` It looked ${sign.label}, which decided nothing: ${sign.why}.`;
}

/** Wall time is a clock, so the moment is known; of counters only the look is known at which they were too high. */
function crossedAt(state: RunState, breach: Breach): string | null {
  return breach.reason === 'budget.wall' ? momentOf(state, breach.limit) : null;
}

/** An incident without a breach is a fault of ours; it is still reported rather than dropped. */
function unknownBreach(end: RunEnd | null): Breach {
  const reason = end?.reason ?? 'killed';
  const rule = end?.rule ?? reason;
  return { reason, rule, measured: 0, limit: 0, unit: 'count', action: 'kill', denial: null };
}

const DONE: Readonly<Record<Action, string>> = {
  warn: 'was warned',
  throttle: 'was throttled',
  pause: 'was paused',
  stop: 'was stopped',
  kill: 'was killed',
};

/** One sentence that stands alone in a chat window or a pager. */
export function summaryOf(profile: string, breach: Breach): string {
  const measured = formatAmount(breach.measured, breach.unit);
  const limit = formatAmount(breach.limit, breach.unit);
  const done = DONE[breach.action];
  switch (breach.reason) {
    case 'egress.forbidden':
    case 'budget.denials':
      return `${profile} ${attempt(breach)} and ${done}.`;
    case 'budget.wall':
      return `${profile} was still running after its ${limit} and ${done}.`;
    case 'budget.cpu':
      return `${profile} used ${measured} of CPU time, its budget is ${limit}, and ${done}.`;
    case 'budget.gpu':
      return `${profile} used ${measured} of GPU time, its budget is ${limit}, and ${done}.`;
    case 'budget.egress':
      return `${profile} sent ${measured}, its budget is ${limit}, and ${done}.`;
    case 'budget.ingress':
      return `${profile} received ${measured}, its budget is ${limit}, and ${done}.`;
    case 'budget.connections':
      return `${profile} opened ${formatAmount(breach.measured, 'connections')}, its budget is ${breach.limit}, and ${done}.`;
    case 'oom':
      return `${profile} needed more memory than its ${limit}, and the kernel ended it.`;
    case 'limit.pids':
      return `${profile} tried to have more than ${limit} at once, and ended.`;
    case 'limit.disk':
      return `${profile} filled its ${limit} of disk, and ended.`;
    case 'limit.gpu':
      return breach.rule === 'limits.gpu'
        ? `${profile} used a GPU that its profile does not grant and ${done}.`
        : `${profile} held ${measured} of GPU memory, its limit is ${limit}, and ${done}.`;
    case 'enforcement.mismatch':
      return `${profile} ran with ${breach.rule} not as its profile says, and ${done}.`;
    case 'enforcement.lost':
      return `${profile} lost the enforcement of ${breach.rule} while it ran, and ${done}.`;
    case 'supervisor.lost':
      return `${profile} was ended because its supervisor stayed away for too long.`;
    case 'exited':
    case 'stopped':
    case 'killed':
    case 'engine.failed':
    case 'refused':
      return `${profile} ended: ${breach.reason}.`;
    default:
      return assertNever(breach.reason);
  }
}

function attempt(breach: Breach): string {
  const last = breach.denial === null ? null : destinationOf(breach.denial);
  const verb = breach.denial?.kind === 'name' ? 'asked for' : 'tried to reach';
  if (breach.limit === 0 && last !== null) return `${verb} ${last}, which its profile does not allow,`;
  const count = formatAmount(breach.measured, 'refused attempts');
  const allowed = `${count} to leave its boundary, ${breach.limit} allowed`;
  return last === null ? `made ${allowed},` : `made ${allowed}, the last to ${last},`;
}

/** Which rule decided and why, for somebody who has never seen the profile. */
function explanationOf(breach: Breach, detail: string): string {
  const parts: string[] = [];
  const { denial } = breach;
  if (denial !== null) {
    parts.push(`${printable(denial.rule, 64)} decided: ${printable(denial.explanation)}.`);
    const usual = usualPort(denial);
    if (usual !== null) parts.push(`It was not let through; ${usual}.`);
    else parts.push('It was not let through.');
  } else if (detail !== '') {
    parts.push(sentence(printable(detail, 1_000)));
  }
  const rung = RULE_EXPLANATIONS[breach.reason];
  if (rung !== undefined) parts.push(rung);
  return parts.join(' ');
}

const RULE_EXPLANATIONS: Readonly<Partial<Record<Breach['reason'], string>>> = {
  'budget.denials': 'Refused attempts are counted against `budget.denials`; crossing it ends the run.',
  'egress.forbidden': 'A profile lists what an agent may reach; everything else is refused.',
  'budget.wall': 'Wall time counts from the start of the run to its end, sleep included.',
  'budget.cpu': 'CPU time is that of every process of the run together, as the kernel counts it.',
  'budget.egress': 'The kernel counts the bytes and cuts off at the budget, whether or not the daemon is there.',
  oom: 'Memory counts everything the run holds, files in /tmp included; there is no swap beyond it.',
  'limit.pids': 'Processes and threads count together; the kernel refuses each one above the limit.',
  'enforcement.mismatch': 'A limit that does not read back as written does not count as in force.',
  'enforcement.lost': 'A run whose boundary cannot be shown to hold is ended.',
};

function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/** Who has to look, and how soon: lost enforcement first, then attempts to get out, then amounts. */
export function severityOf(breach: Breach, alsoBreached: readonly Breach[]): Severity {
  const order: readonly Severity[] = ['low', 'medium', 'high', 'critical'];
  const worst = Math.max(...[breach, ...alsoBreached].map((each) => order.indexOf(ownSeverity(each))));
  return order[worst] ?? 'high';
}

function ownSeverity(breach: Breach): Severity {
  switch (breach.reason) {
    case 'enforcement.mismatch':
    case 'enforcement.lost':
      return 'critical';
    case 'egress.forbidden':
    case 'budget.denials':
      return breach.denial !== null && isGrave(breach.denial) ? 'critical' : 'high';
    case 'budget.egress':
    case 'limit.gpu':
    case 'supervisor.lost':
      return 'high';
    case 'budget.cpu':
    case 'budget.gpu':
    case 'budget.ingress':
    case 'budget.connections':
    case 'limit.pids':
    case 'limit.disk':
      return 'medium';
    default:
      return 'low';
  }
}

/** A false source address, or the metadata service of a cloud: nobody gets there by mistake. */
function isGrave(denial: Denial): boolean {
  return denial.kind === 'spoof' || (denial.kind === 'packet' && denial.destination.startsWith('169.254.'));
}

/** `4.2 ms`, for the time from detection to an empty cgroup. */
export function latencyText(incident: Incident): string {
  const ms = incident.times.detectedToEmptyMs;
  if (ms === null) return 'not known';
  return ms < 1_000 ? `${ms} ms` : formatDuration(ms);
}
