import type { Incident } from '../api/service.ts';
import type { AlertDraft, AlertFact } from '../core/ports/alert.ts';
import { printable } from '../core/text.ts';
import { latencyText } from './incident.ts';
import { formatBreach } from './measure.ts';

/** What goes to the sinks about an incident: `{ type, timestamp, data }`, here with the whole incident. */
export function incidentNotice(incident: Incident): AlertDraft {
  const type = 'incident.opened';
  const { subject, what, times } = incident;
  return {
    id: incident.id,
    type,
    subject: subject.profile,
    severity: what.severity,
    key: incident.id,
    summary: what.summary,
    facts: factsOf(incident),
    body: JSON.stringify({ type, timestamp: times.detectedAt, data: incident }),
  };
}

/** How an incident goes on after it was opened. */
export type IncidentTurn = {
  /** `released`: a person ended the quarantine; `resolved`: it is over. */
  readonly kind: 'released' | 'resolved';
  readonly at: string;
  /** Who, such as `user 1000`, or null when nobody did. */
  readonly by: string | null;
};

/** The same key, subject and severity as when it was opened: that is how receivers find what they have. */
export function incidentTurnNotice(incident: Incident, turn: IncidentTurn): AlertDraft {
  const type = `incident.${turn.kind}` as const;
  const { id, subject, what } = incident;
  const by = turn.by === null ? '' : ` by ${printable(turn.by, 64)}`;
  const done = turn.kind === 'released' ? `was released from quarantine${by}` : `is over${by}`;
  const data = {
    incidentId: id,
    profile: subject.profile,
    runId: subject.runId,
    severity: what.severity,
    by: turn.by === null ? null : printable(turn.by, 64),
  };
  return {
    id: `${id}_${turn.kind}`,
    type,
    subject: subject.profile,
    severity: what.severity,
    key: id,
    summary: turn.kind === 'released' ? `${subject.profile} ${done}.` : `The incident of ${subject.profile} ${done}.`,
    facts: [
      { name: 'incident', value: id },
      { name: 'run', value: subject.runId },
      { name: 'rule', value: what.rule },
      { name: 'host', value: printable(incident.host, 64) },
    ],
    body: JSON.stringify({ type, timestamp: turn.at, data }),
  };
}

/** Where the ledger stood, signed: once it has left the host, nobody there can change what came before it. */
export function checkpointNotice(
  checkpoint: { readonly seq: number; readonly hash: string; readonly note: string; readonly key: string },
  from: { readonly host: string; readonly at: string },
): AlertDraft {
  const type = 'ledger.checkpoint';
  const id = `checkpoint_${checkpoint.seq}`;
  return {
    id,
    type,
    subject: 'ledger',
    severity: 'info',
    key: id,
    summary: `The ledger of ${printable(from.host, 64)} stands at record ${checkpoint.seq}.`,
    facts: [
      { name: 'record', value: String(checkpoint.seq) },
      { name: 'hash', value: checkpoint.hash },
      { name: 'key', value: checkpoint.key },
    ],
    body: JSON.stringify({ type, timestamp: from.at, data: { ...checkpoint, host: from.host } }),
  };
}

/**
 * Every alert says where the ledger was last signed, in the form that `ledger verify --checkpoint` takes: who keeps any of
 * them can tell later that what came before is still the same. An incident's own body is left as the record has it.
 */
export function withCheckpoint<Draft extends AlertDraft>(
  draft: Draft,
  checkpoint: { readonly seq: number; readonly hash: string } | null,
): Draft {
  if (checkpoint === null || draft.type === 'ledger.checkpoint') return draft;
  const { seq, hash } = checkpoint;
  const facts = [...draft.facts, { name: 'checkpoint', value: `${seq}:${hash}` }];
  if (draft.type === 'incident.opened') return { ...draft, facts };
  const { data, ...body } = JSON.parse(draft.body) as { readonly data: object };
  return { ...draft, facts, body: JSON.stringify({ ...body, data: { ...data, checkpoint: { seq, hash } } }) };
}

function factsOf(incident: Incident): readonly AlertFact[] {
  const { subject, what, evidence, action, context } = incident;
  const { process } = evidence;
  return [
    { name: 'rule', value: what.rule },
    { name: 'measured', value: formatBreach(evidence.breach) },
    { name: 'why', value: what.explanation },
    { name: 'run', value: subject.runId },
    ...(subject.traceparent === null ? [] : [{ name: 'trace', value: subject.traceparent }]),
    ...(what.tags.length === 0 ? [] : [{ name: 'known as', value: what.tags.join(', ') }]),
    ...(process === null ? [] : [{ name: 'process', value: `${process.executable} (pid ${process.pid})` }]),
    { name: 'action', value: action.survivors > 0 ? `${action.taken}, ${action.survivors} survivors` : action.taken },
    { name: 'dead after', value: latencyText(incident) },
    ...(subject.owner === '' ? [] : [{ name: 'owner', value: subject.owner }]),
    { name: 'earlier', value: `${context.earlierIncidents} incidents of this agent before` },
    ...(context.quarantined ? [{ name: 'quarantine', value: `ends with: ringfence release ${subject.profile}` }] : []),
    { name: 'host', value: incident.host },
    { name: 'look', value: `ringfence incident ${incident.id}` },
    { name: 'ledger', value: `record ${incident.trust.toSeq}, ${incident.trust.hash}` },
  ];
}
