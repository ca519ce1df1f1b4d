import type {
  AllowedDestination,
  CurvePoint,
  Explanation,
  Incident,
  IncidentSummary,
  ProcessEvidence,
  Severity,
} from '../api/service.ts';
import type { Breach, Denial, Usage } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { formatBytes, formatDuration } from '../core/units.ts';
import { latencyText } from './incident.ts';
import type { Row, TextOptions } from './lines.ts';
import { PLAIN, renderRows, renderTable, styled } from './lines.ts';
import { destinationOf, formatAmount, formatBreach } from './measure.ts';

/** So that an incident stays on one screen; `--json` has all of them. */
const DENIALS_SHOWN_MAX = 5;
const PROCESSES_SHOWN_MAX = 3;
const ALLOWED_SHOWN_MAX = 4;
const LINES_SHOWN_MAX = 10;

/** One incident on one screen. */
export function renderIncident(incident: Incident, options: TextOptions = PLAIN): string {
  const { subject, what, evidence, action, times, context, trust } = incident;
  const head = [
    styled(`Incident ${incident.id}`, 'bold', options),
    styled(what.severity.toUpperCase(), colourOf(what.severity), options),
    times.detectedAt,
    printable(incident.host, 64),
  ].join('  ');
  const rows: Row[] = [
    ['agent', `${subject.profile}, run ${subject.runId}${subject.owner === '' ? '' : `, owner ${subject.owner}`}`],
    ...rowOf('trace', subject.traceparent === null ? [] : [subject.traceparent]),
    ['profile', subject.profileDigest],
    ['image', subject.imageDigest ?? 'not known'],
    ...rowOf('command', subject.command.length === 0 ? [] : [printable(subject.command.join(' '), 200)]),
    ...labelRow(subject.labels),
    ['rule', what.rule === what.reason ? what.rule : `${what.rule} (${what.reason})`],
    ['why', what.explanation],
    ...rowOf('known as', what.tags.length === 0 ? [] : [what.tags.join(', ')]),
    ['measured', formatBreach(evidence.breach)],
    ...rowOf('also', evidence.alsoBreached.map(breachLine)),
    ...rowOf('process', evidence.process === null ? [] : processLines(evidence.process)),
    ...rowOf('refused', denialLines(evidence.lastDenials)),
    ...rowOf('allowed', allowedLines(evidence.lastAllowed)),
    ['used', usageLine(evidence.usage)],
    ...rowOf('curve', curveLines(evidence.curve)),
    ...rowOf(
      'busiest',
      evidence.topProcesses.slice(0, PROCESSES_SHOWN_MAX).map((each) => processLines(each)[0] ?? ''),
    ),
    ...rowOf(
      'output',
      evidence.logLines.slice(-LINES_SHOWN_MAX).map((line) => printable(line, 200)),
    ),
    ['action', actionLine(action, latencyText(incident))],
    ...rowOf('crossed', times.crossedAt === null ? [] : [times.crossedAt]),
    ['earlier', earlierLine(context)],
    ['now', stateLine(incident)],
    ['ledger', `records ${trust.fromSeq} to ${trust.toSeq}, ${trust.hash}${signedText(trust.checkpoint)}`],
    ['cure', 'if the agent was right:', ...incident.cure.split('\n').map((line) => printable(line))],
  ];
  return `${head}\n${what.summary}\n\n${renderRows(rows, options)}\n`;
}

function colourOf(severity: Severity): 'red' | 'yellow' | 'dim' {
  if (severity === 'critical' || severity === 'high') return 'red';
  return severity === 'medium' ? 'yellow' : 'dim';
}

function rowOf(label: string, values: readonly string[]): readonly Row[] {
  return values.length === 0 ? [] : [[label, ...values]];
}

function labelRow(labels: Readonly<Record<string, string>>): readonly Row[] {
  const pairs = Object.entries(labels).map(([key, value]) => `${printable(key, 64)}=${printable(value)}`);
  return pairs.length === 0 ? [] : [['labels', pairs.join(' ')]];
}

function breachLine(breach: Breach): string {
  const where = breach.denial === null ? '' : `, ${destinationOf(breach.denial)}`;
  return `${printable(breach.rule, 64)}: ${formatBreach(breach)}${where}`;
}

function processLines(process: ProcessEvidence): readonly string[] {
  const argv = process.argv.length === 0 ? '' : `: ${printable(process.argv.join(' '), 200)}`;
  const own = `${process.pid} ${printable(process.executable, 100)}${argv} (${formatDuration(process.cpuMs)} of CPU)`;
  const unread = process.argvSource?.kind === 'unread' ? [`command line not read: ${process.argvSource.why}`] : [];
  if (process.parents.length === 0) return [own, ...unread];
  return [own, ...unread, `started by ${process.parents.map((parent) => printable(parent, 100)).join(' ← ')}`];
}

/** Equal attempts count as one line, latest first. */
function denialLines(denials: readonly (Denial | null)[]): readonly string[] {
  const counts = new Map<string, number>();
  for (const denial of denials.toReversed()) {
    if (denial === null) continue;
    const line = `${destinationOf(denial)}, by ${printable(denial.rule, 64)}`;
    counts.set(line, (counts.get(line) ?? 0) + 1);
  }
  const lines = [...counts].map(([line, count]) => (count === 1 ? line : `${line} (${count} times)`));
  const more = lines.length - DENIALS_SHOWN_MAX;
  return more > 0 ? [...lines.slice(0, DENIALS_SHOWN_MAX), `and ${more} more destinations`] : lines;
}

function allowedLines(allowed: readonly AllowedDestination[]): readonly string[] {
  const lines = allowed.map((each) => {
    const called = each.name === null || each.name === each.destination ? '' : ` (${printable(each.name)})`;
    return `${printable(each.destination)}:${each.port}/${each.protocol}${called}, ${formatBytes(each.egressBytes)} out`;
  });
  const more = lines.length - ALLOWED_SHOWN_MAX;
  return more > 0 ? [...lines.slice(0, ALLOWED_SHOWN_MAX), `and ${more} more`] : lines;
}

const BARS = '▁▂▃▄▅▆▇█';

/** CPU and memory from the start to the end, each as one row of bars. */
function curveLines(points: readonly CurvePoint[]): readonly string[] {
  if (points.length < 3) return [];
  const cores = points.slice(1).map((point, index) => {
    const before = points[index] ?? point;
    return (point.cpuMs - before.cpuMs) / Math.max(1, point.wallMs - before.wallMs);
  });
  const memory = points.slice(1).map((point) => point.memoryBytes);
  return [
    `cpu     ${bars(cores)}  up to ${Math.max(...cores).toFixed(1)} cores`,
    `memory  ${bars(memory)}  up to ${formatBytes(Math.max(...memory))}`,
  ];
}

function bars(values: readonly number[]): string {
  const highest = Math.max(...values, Number.MIN_VALUE);
  return values.map((value) => BARS[Math.max(0, Math.ceil((value / highest) * BARS.length) - 1)]).join('');
}

function earlierLine({ earlierIncidents, last }: Incident['context']): string {
  const before = last === null ? '' : `, the last ${last.id} at ${last.at}`;
  return `${earlierIncidents} incidents of this agent before${before}`;
}

function stateLine({ context, subject }: Incident): string {
  const { closed, quarantined } = context;
  if (closed?.how === 'clean-run') return `over since ${closed.at}, when a run of this agent ended well`;
  if (closed !== null) return `over since ${closed.at}, released${closed.by === null ? '' : ` by ${closed.by}`}`;
  return quarantined
    ? `open, in quarantine until \`ringfence release ${subject.profile}\``
    : `open; a new run may start, and ends it if it ends well`;
}

function signedText(checkpoint: Incident['trust']['checkpoint']): string {
  return checkpoint === null ? '' : `; signed up to ${checkpoint.seq}`;
}

/** What a run has used, on one line. */
export function usageLine(usage: Usage): string {
  const parts = [
    `${formatDuration(usage.wallMs)} wall`,
    `${formatDuration(usage.cpuMs)} CPU`,
    `peak ${formatBytes(usage.memoryBytesPeak)} and ${formatAmount(usage.pidsPeak, 'processes')}`,
    `${formatBytes(usage.egressBytes)} out`,
    `${formatBytes(usage.ingressBytes)} in`,
    `${usage.denials} refused`,
  ];
  if (usage.oomKills > 0) parts.push(`${usage.oomKills} OOM kills`);
  return parts.join(', ');
}

function actionLine(action: Incident['action'], latency: string): string {
  const signal = action.signal === null ? '' : ` with ${action.signal}`;
  const left = action.survivors === 0 ? 'no process left' : `${action.survivors} processes still there`;
  return `${action.taken}${signal}, ${latency} from detection to the end, ${left}`;
}

/** The list of `ringfence incidents`. */
export function renderIncidentList(incidents: readonly IncidentSummary[]): string {
  if (incidents.length === 0) return 'no incidents\n';
  const rows = incidents.map((each) => [
    each.at,
    each.id,
    each.severity,
    each.profile,
    each.rule,
    each.quarantined ? 'quarantined' : each.closedAt === null ? 'open' : 'over',
    printable(each.summary, 160),
  ]);
  return `${renderTable([['TIME', 'INCIDENT', 'SEVERITY', 'PROFILE', 'RULE', 'STATE', 'SUMMARY'], ...rows])}\n`;
}

export function summaryOfIncident(incident: Incident): IncidentSummary {
  return {
    id: incident.id,
    at: incident.times.detectedAt,
    profile: incident.subject.profile,
    runId: incident.subject.runId,
    reason: incident.what.reason,
    rule: incident.what.rule,
    severity: incident.what.severity,
    summary: incident.what.summary,
    quarantined: incident.context.quarantined,
    closedAt: incident.context.closed?.at ?? null,
  };
}

/** The answer of `ringfence why`. */
export function renderExplanation(explanation: Explanation, options: TextOptions = PLAIN): string {
  const rows: Row[] = [
    ...rowOf('rule', explanation.rule === null ? [] : [printable(explanation.rule)]),
    ...rowOf(
      'evidence',
      explanation.evidence.map((line) => printable(line, 400)),
    ),
    ...rowOf(
      'change',
      explanation.change.map((line) => printable(line, 400)),
    ),
  ];
  const head = `${styled(printable(explanation.subject), 'bold', options)}\n${printable(explanation.headline, 400)}\n`;
  return rows.length === 0 ? head : `${head}\n${renderRows(rows, options)}\n`;
}
