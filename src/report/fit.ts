import type { AllowedDestination, CurvePoint, Incident, ProcessEvidence } from '../api/service.ts';
import type { Breach, Denial } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { redactArgv, redactText } from './redact.ts';

/**
 * An incident goes into one line of the ledger and one webhook, and agents choose much of what is in it. So each text
 * has a bound, and the lists are cut together until the whole fits: the first of each list says most.
 */
const INCIDENT_CHARS_MAX = 32_000;

const LINE_CHARS_MAX = 300;

type Lengths = {
  readonly denials: number;
  readonly breaches: number;
  readonly processes: number;
  readonly words: number;
  readonly labels: number;
  readonly allowed: number;
  readonly points: number;
  readonly lines: number;
};

const LENGTHS: readonly Lengths[] = [
  { denials: 20, breaches: 16, processes: 10, words: 64, labels: 32, allowed: 16, points: 49, lines: 100 },
  { denials: 10, breaches: 6, processes: 5, words: 24, labels: 32, allowed: 8, points: 24, lines: 20 },
  { denials: 5, breaches: 3, processes: 2, words: 8, labels: 16, allowed: 4, points: 12, lines: 5 },
  { denials: 1, breaches: 1, processes: 0, words: 4, labels: 4, allowed: 1, points: 2, lines: 1 },
];

export function fitIncident(incident: Incident): Incident {
  let fitted = incident;
  for (const lengths of LENGTHS) {
    fitted = cutTo(incident, lengths);
    if (JSON.stringify(fitted).length <= INCIDENT_CHARS_MAX) break;
  }
  return fitted;
}

function cutTo(incident: Incident, lengths: Lengths): Incident {
  const { evidence, subject } = incident;
  const cutProcess = (process: ProcessEvidence): ProcessEvidence => ({
    ...process,
    argv: process.argv.slice(0, lengths.words),
    parents: process.parents.slice(0, lengths.words),
  });
  return {
    ...incident,
    subject: {
      ...subject,
      command: subject.command.slice(0, lengths.words),
      labels: boundedLabels(subject.labels, lengths.labels),
    },
    evidence: {
      ...evidence,
      alsoBreached: evidence.alsoBreached.slice(0, lengths.breaches),
      process: evidence.process === null ? null : cutProcess(evidence.process),
      lastDenials: evidence.lastDenials.slice(-lengths.denials),
      topProcesses: evidence.topProcesses.slice(0, lengths.processes).map(cutProcess),
      lastAllowed: evidence.lastAllowed.slice(0, lengths.allowed),
      curve: thinned(evidence.curve, lengths.points),
      logLines: evidence.logLines.slice(-lengths.lines),
    },
  };
}

/** Evenly fewer points, the last one always among them. */
function thinned(points: readonly CurvePoint[], countMax: number): readonly CurvePoint[] {
  const every = Math.ceil(points.length / countMax);
  return points.filter((_, index) => (points.length - 1 - index) % every === 0);
}

/** Escaping makes a hostile character up to ten times as long, so its result has a bound too. */
function shown(text: string, charsMax = 256): string {
  const escaped = printable(text, charsMax);
  return escaped.length > charsMax * 2 ? `${escaped.slice(0, charsMax * 2)}…` : escaped;
}

export function boundedDenial(denial: Denial): Denial {
  return {
    ...denial,
    destination: shown(denial.destination),
    protocol: shown(denial.protocol, 16),
    rule: shown(denial.rule, 64),
    explanation: shown(denial.explanation),
  };
}

export function boundedBreach(breach: Breach): Breach {
  return breach.denial === null ? breach : { ...breach, denial: boundedDenial(breach.denial) };
}

export function boundedAllowed(allowed: AllowedDestination): AllowedDestination {
  const name = allowed.name === null ? null : shown(allowed.name);
  return { ...allowed, destination: shown(allowed.destination), name };
}

/** A line of the agent's output: bounded, printable, and without what looks like a secret. */
export function boundedLine(line: string): string {
  return shown(redactText(line), LINE_CHARS_MAX);
}

/** A command line: bounded, printable, and without what looks like a secret. */
export function boundedArgv(argv: readonly string[]): readonly string[] {
  return redactArgv(argv).map((argument) => shown(argument));
}

/** What an agent runs: bounded, printable, and without what looks like a secret. */
export function boundedProcess(process: ProcessEvidence): ProcessEvidence {
  return {
    pid: process.pid,
    executable: shown(process.executable),
    argv: boundedArgv(process.argv),
    argvSource: process.argvSource,
    parents: process.parents.map((parent) => shown(redactText(parent), 100)),
    cpuMs: process.cpuMs,
  };
}

function boundedLabels(labels: Readonly<Record<string, string>>, countMax: number): Readonly<Record<string, string>> {
  const entries = Object.entries(labels).slice(0, countMax);
  return Object.fromEntries(entries.map(([key, value]) => [shown(key, 64), shown(value)]));
}
