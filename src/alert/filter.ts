import type { Alert, AlertSeverity, AlertType, Sink, SinkKind, SinkRules } from '../core/ports/alert.ts';
import type { Deliverer } from './deliverer.ts';

export const SEVERITIES: readonly AlertSeverity[] = ['info', 'low', 'medium', 'high', 'critical'];

const INCIDENTS: readonly AlertType[] = ['incident.opened', 'incident.released', 'incident.resolved'];
const FOR_PEOPLE: readonly AlertType[] = [...INCIDENTS, 'approval.requested', 'run.held'];
const EVERYTHING: readonly AlertType[] = [...FOR_PEOPLE, 'ledger.checkpoint'];

/** A chat gets what people read, a pager what they get up for, a machine everything. */
const TYPES: Readonly<Record<SinkKind, readonly AlertType[]>> = {
  webhook: EVERYTHING,
  slack: FOR_PEOPLE,
  pagerduty: INCIDENTS,
  alertmanager: INCIDENTS,
  journald: EVERYTHING,
  exec: EVERYTHING,
};

const STORM_WINDOW_MS = 60_000;
const STORM_AFTER = 10;
/** Who has been woken once reads the rest when awake. */
const STORM_AFTER_PAGE = 1;

/** The rules of a sink, with what its kind usually has where the configuration says nothing. */
export function rulesOf(sink: Sink): SinkRules {
  return {
    minSeverity: sink.minSeverity ?? 'info',
    types: sink.types ?? TYPES[sink.type],
    stormAfter: sink.stormAfter ?? (sink.type === 'pagerduty' ? STORM_AFTER_PAGE : STORM_AFTER),
    stormWindowMs: sink.stormWindowMs ?? STORM_WINDOW_MS,
    heartbeatMs: sink.heartbeatMs ?? null,
  };
}

export function wants(alert: Alert, rules: SinkRules, deliverer: Deliverer): boolean {
  if (!deliverer.says(alert.type) || !rules.types.includes(alert.type)) return false;
  return alert.type === 'ledger.checkpoint' || severityRank(alert.severity) >= severityRank(rules.minSeverity);
}

export function severityRank(severity: AlertSeverity): number {
  return SEVERITIES.indexOf(severity);
}

/** What a storm is made of: checkpoints come at a rate of ours, and the end of an alert rings no bell at these receivers. */
export function countsInStorm(type: AlertType, kind: SinkKind): boolean {
  if (type === 'incident.opened' || type === 'approval.requested' || type === 'run.held') return true;
  if (type !== 'incident.released' && type !== 'incident.resolved') return false;
  return kind !== 'pagerduty' && kind !== 'alertmanager';
}
