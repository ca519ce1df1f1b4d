import { hostname } from 'node:os';
import { fail } from '../../core/errors.ts';
import type { Alert, AlertmanagerSink, AlertType } from '../../core/ports/alert.ts';
import type { Deliverer, Delivery } from '../deliverer.ts';
import type { Answer, HttpOptions } from '../http.ts';
import { openEndpoint } from '../http.ts';
import { boundedFacts, oneLine, timestampOf } from '../wording.ts';

const SUMMARY_CHARS_MAX = 1_000;
const LABEL_PATTERN = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
/** A test is over soon, and so is a heartbeat that is not followed by the next: then a rule on its absence fires. */
const TEST_MS = 300_000;
const HEARTBEATS_MISSED_MAX = 3;
/** Alertmanager takes an end in its future for one that may still move; so an end is given in the past of either clock. */
const CLOCKS_APART_MS = 30_000;

const NAMES: Readonly<Partial<Record<AlertType, string>>> = {
  'incident.opened': 'RingfenceIncident',
  'incident.resolved': 'RingfenceIncident',
  'approval.requested': 'RingfenceApprovalRequested',
  'run.held': 'RingfenceRunHeld',
  digest: 'RingfenceDigest',
  heartbeat: 'RingfenceHeartbeat',
  test: 'RingfenceTest',
};

/**
 * Pushes to Alertmanager's API v2. An alert is its labels there, so opening and ending an incident give the same ones. An
 * incident gets an end far ahead, so that it needs no repeating, and its real end when it is over.
 */
export function openAlertmanager(sink: AlertmanagerSink, options: HttpOptions, heartbeatMs: number | null): Deliverer {
  const bad = Object.keys(sink.labels).find((name) => !LABEL_PATTERN.test(name));
  if (bad !== undefined) throw fail('CONFIG_INVALID', { detail: `"${bad}" is not the name of a label` });
  const base = sink.url.replace(/\/+$/, '');
  const secrets = sink.bearerToken === null ? [] : [sink.bearerToken];
  const endpoint = openEndpoint({ ...sink, url: `${base}/api/v2/alerts` }, { ...options, secrets });
  const headers: Readonly<Record<string, string>> =
    sink.bearerToken === null ? {} : { authorization: `Bearer ${sink.bearerToken}` };
  const lengths = { firingMs: sink.firingMs, heartbeatMs: heartbeatMs ?? TEST_MS };
  return {
    kind: 'alertmanager',
    says: (type) => NAMES[type] !== undefined,
    async send(alert, signal) {
      const body = JSON.stringify([postableAlert(alert, { labels: sink.labels, nowMs: options.nowMs(), lengths })]);
      return await endpoint.post({ body, headers }, judge, signal);
    },
  };
}

function judge({ status, message }: Answer): Delivery | null {
  return status === 400 ? { kind: 'rejected', message } : null;
}

type Lengths = { readonly firingMs: number; readonly heartbeatMs: number };

function postableAlert(
  alert: Alert,
  context: {
    readonly labels: Readonly<Record<string, string>>;
    readonly nowMs: number;
    readonly lengths: Lengths;
  },
): Readonly<Record<string, unknown>> {
  const { labels, nowMs, lengths } = context;
  const over = alert.type === 'incident.resolved';
  const saidMs = Date.parse(timestampOf(alert) ?? '');
  // What is over began at some time before; what was made by a clock ahead of the receiver's has not begun there.
  const startsAtMs = Number.isNaN(saidMs) ? nowMs : Math.min(saidMs, nowMs);
  const endsAtMs = over ? nowMs - CLOCKS_APART_MS : nowMs + lengthOf(alert.type, lengths);
  return {
    labels: {
      ...labels,
      alertname: NAMES[alert.type] ?? 'RingfenceAlert',
      severity: alert.severity,
      profile: alert.subject,
      host: hostname(),
      // One heartbeat is the same alert as the next.
      ...(alert.type === 'heartbeat' ? {} : { incident: alert.key }),
    },
    annotations: annotationsOf(alert),
    ...(over ? {} : { startsAt: new Date(startsAtMs).toISOString() }),
    endsAt: new Date(endsAtMs).toISOString(),
  };
}

function lengthOf(type: AlertType, lengths: Lengths): number {
  if (type === 'heartbeat') return lengths.heartbeatMs * HEARTBEATS_MISSED_MAX;
  return type === 'test' ? TEST_MS : lengths.firingMs;
}

function annotationsOf(alert: Alert): Readonly<Record<string, string>> {
  const annotations: Record<string, string> = { summary: oneLine(alert.summary, SUMMARY_CHARS_MAX) };
  for (const { name, value } of boundedFacts(alert)) {
    const key = name.toLowerCase().replace(/[^a-z0-9]+/g, '_');
    if (LABEL_PATTERN.test(key) && key !== 'summary' && value !== '') annotations[key] = value;
  }
  return annotations;
}
