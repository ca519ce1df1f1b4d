import type { Approval, Explanation, Incident } from '../api/service.ts';
import type { Breach, Denial, Outcome } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { formatDuration } from '../core/units.ts';
import { allowLines, cureFor } from './cure.ts';
import { destinationOf, formatAmount, formatBreach } from './measure.ts';
import { latencyText } from './incident.ts';
import { usageLine } from './render.ts';

/** Lines of evidence; `--json` and `ringfence events` have the rest. */
const DENIALS_SHOWN_MAX = 5;

/** Why a run ended and what would change that: for a breach from its incident, else from how it exited. */
export function explainOutcome(
  outcome: Outcome,
  incident: Incident | null,
  denials: readonly Denial[] = [],
): Explanation {
  const subject = `run ${outcome.runId} of ${outcome.profile}`;
  if (incident !== null) return { ...explainIncident(incident), subject: `${subject}, incident ${incident.id}` };
  const exit = explainEnd(outcome);
  const refusals = denials.length > 0 && mattersTo(outcome) ? allowLines(denials) : [];
  return {
    subject,
    headline: exit.headline,
    rule: outcome.rule,
    evidence: [...exit.evidence, ...denialEvidence(denials, outcome.usage.denials), ...usageEvidence(outcome)],
    change: [...exit.change, ...refusals],
  };
}

/** Nothing has ended: what was denied so far, and what waits for a person. */
export function explainAlive(
  runId: string,
  facts: { readonly denied: readonly string[]; readonly pending: readonly Approval[] },
): Explanation {
  const { denied, pending } = facts;
  const waits = pending.map(({ id, wants }) => `${wants} waits for a person: \`ringfence approve ${id}\``);
  const headline =
    denied.length > 0
      ? 'The run is alive; these were denied.'
      : waits.length > 0
        ? 'The run is alive and waits for a person.'
        : 'The run is alive and nothing was denied.';
  return { subject: runId, headline, rule: null, evidence: [...waits, ...denied], change: [] };
}

/** A breach is told from its incident, which holds more than the outcome does. */
function explainIncident(incident: Incident): Explanation {
  const { evidence, action } = incident;
  const denials = evidence.lastDenials.filter((denial) => denial !== null);
  const left = action.survivors === 0 ? 'no process left' : `${action.survivors} processes still there`;
  return {
    subject: `incident ${incident.id}, run ${incident.subject.runId} of ${incident.subject.profile}`,
    headline: incident.what.summary,
    rule: incident.what.rule,
    evidence: [
      incident.what.explanation,
      `measured: ${formatBreach(evidence.breach)}`,
      ...evidence.alsoBreached.map((breach) => `also crossed: ${breach.rule}, ${formatBreach(breach)}`),
      ...denialEvidence(denials, evidence.usage.denials),
      `action: ${action.taken}, ${latencyText(incident)} from detection to the end, ${left}`,
      `used: ${usageLine(evidence.usage)}`,
    ],
    change: incident.cure.split('\n'),
  };
}

function mattersTo(outcome: Outcome): boolean {
  return outcome.reason === 'exited' && outcome.exitCode !== 0;
}

function denialEvidence(denials: readonly Denial[], total: number): readonly string[] {
  const count = Math.max(total, denials.length);
  if (count === 0) return [];
  const lines = new Set(denials.toReversed().map((denial) => `${destinationOf(denial)}: ${denial.explanation}`));
  const attempts = count === 1 ? '1 attempt to leave was refused' : `${count} attempts to leave were refused`;
  return [attempts, ...[...lines].slice(0, DENIALS_SHOWN_MAX).map((line) => `refused ${printable(line)}`)];
}

function usageEvidence(outcome: Outcome): readonly string[] {
  return outcome.startedAt === null ? [] : [`used: ${usageLine(outcome.usage)}`];
}

type End = {
  readonly headline: string;
  readonly evidence: readonly string[];
  readonly change: readonly string[];
};

function explainEnd(outcome: Outcome): End {
  const name = outcome.profile;
  const detail = printable(outcome.detail, 400);
  switch (outcome.reason) {
    case 'exited':
      return explainExit(outcome);
    case 'stopped':
      return { headline: `${name} was stopped by a person.`, evidence: [detail], change: [] };
    case 'killed':
      return { headline: `${name} was killed by a person.`, evidence: [detail], change: [] };
    case 'refused':
      return { headline: `${name} was refused before it started: ${detail}`, evidence: [], change: [] };
    case 'engine.failed':
      return {
        headline: `${name} could not be run, because the container engine failed.`,
        evidence: [detail],
        change: ['nothing in the profile: `ringfence doctor` checks the engine'],
      };
    default:
      return explainBreachWithoutIncident(outcome, detail);
  }
}

/** The outcome names the bound, so the cure can be told although the incident itself is gone. */
function explainBreachWithoutIncident(outcome: Outcome, detail: string): End {
  const bound = outcome.limits.find((each) => each.path === outcome.rule);
  const limit = bound?.value ?? null;
  const headline = `${outcome.profile} was ended by ${outcome.rule ?? outcome.reason}.`;
  if (bound === undefined || limit === null) return { headline, evidence: [detail], change: [] };
  const breach: Breach = {
    reason: outcome.reason,
    rule: bound.path,
    measured: limit,
    limit,
    unit: bound.unit,
    action: 'kill',
    denial: null,
  };
  const held = `${bound.path} is ${formatAmount(limit, bound.unit)}, held by: ${bound.rung}`;
  return { headline, evidence: [detail, held], change: cureFor({ breach, denials: [], denialBudget: null }) };
}

const SIGNALS: Readonly<Record<number, string>> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  3: 'SIGQUIT',
  4: 'SIGILL',
  6: 'SIGABRT',
  7: 'SIGBUS',
  8: 'SIGFPE',
  9: 'SIGKILL',
  11: 'SIGSEGV',
  13: 'SIGPIPE',
  14: 'SIGALRM',
  15: 'SIGTERM',
  24: 'SIGXCPU',
  25: 'SIGXFSZ',
  31: 'SIGSYS',
};

/** 126, 127 and 128 + signal are what shells and container runtimes mean by those codes. */
function explainExit(outcome: Outcome): End {
  const name = outcome.profile;
  const code = outcome.exitCode;
  const ran = formatDuration(outcome.usage.wallMs);
  const detail = printable(outcome.detail, 400);
  if (code === null) {
    return { headline: `${name} ended after ${ran}; its exit code is not known.`, evidence: [detail], change: [] };
  }
  if (code === 0) return { headline: `${name} finished by itself after ${ran}.`, evidence: [], change: [] };
  if (code === 126 || code === 127) {
    const what = code === 127 ? 'was not found in the image' : 'cannot be executed';
    return {
      headline: `${name} ended with code ${code}: its command, or one that it called, ${what}.`,
      evidence: [detail],
      change: ['correct `command` in the profile, or what follows `--`, or build the program into the image'],
    };
  }
  const signal = code > 128 ? SIGNALS[code - 128] : undefined;
  if (signal === undefined) {
    return { headline: `${name} ended by itself with code ${code} after ${ran}.`, evidence: [], change: [] };
  }
  const headline = `${name} was ended by ${signal} (code ${code}) that the supervisor did not send.`;
  return { headline, evidence: [SIGNAL_HINTS[signal] ?? detail], change: [] };
}

const SIGNAL_HINTS: Readonly<Record<string, string>> = {
  SIGKILL: 'it was killed by itself, by another process in its container, or by somebody on the host',
  SIGTERM: 'a process of the container or somebody on the host asked it to end',
  SIGSYS: 'it made a system call that the default seccomp profile does not let through',
  SIGSEGV: 'it crashed: it read or wrote memory that is not its own',
  SIGXFSZ: 'it wrote a file larger than it may',
};
