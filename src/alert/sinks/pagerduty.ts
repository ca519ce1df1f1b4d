import { hostname } from 'node:os';
import { fail } from '../../core/errors.ts';
import type { Alert, AlertSeverity, AlertType, PagerDutySink } from '../../core/ports/alert.ts';
import type { Deliverer, Delivery } from '../deliverer.ts';
import { failed } from '../deliverer.ts';
import type { Answer, HttpOptions } from '../http.ts';
import { openEndpoint } from '../http.ts';
import { boundedFacts, oneLine, timestampOf } from '../wording.ts';

const SUMMARY_CHARS_MAX = 1_024;
/** When it limits the rate without saying for how long. */
const PAUSE_MS = 60_000;

const ACTIONS: Readonly<Partial<Record<AlertType, 'trigger' | 'acknowledge' | 'resolve'>>> = {
  'incident.opened': 'trigger',
  'incident.released': 'acknowledge',
  'incident.resolved': 'resolve',
  'approval.requested': 'trigger',
  'run.held': 'trigger',
  digest: 'trigger',
  test: 'trigger',
};

const SEVERITIES: Readonly<Record<AlertSeverity, 'critical' | 'error' | 'warning' | 'info'>> = {
  critical: 'critical',
  high: 'error',
  medium: 'warning',
  low: 'info',
  info: 'info',
};

/** PagerDuty Events API v2. An incident is one alert there, under its key: triggered, acknowledged, resolved. */
export function openPagerDuty(sink: PagerDutySink, options: HttpOptions): Deliverer {
  const { routingKey } = sink;
  if (!/^[A-Za-z0-9]{32}$/.test(routingKey)) {
    throw fail('CONFIG_INVALID', { detail: 'a PagerDuty routing key has 32 letters and digits' });
  }
  const endpoint = openEndpoint(sink, { ...options, secrets: [routingKey] });
  const post = async (event: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<Delivery> => {
    const body = JSON.stringify({ routing_key: routingKey, ...event });
    return await endpoint.post({ body, headers: {} }, judge, signal);
  };
  return {
    kind: 'pagerduty',
    says: (type) => ACTIONS[type] !== undefined,
    async send(alert, signal) {
      const action = ACTIONS[alert.type];
      if (action === undefined) return { kind: 'rejected', message: `PagerDuty has no event for ${alert.type}` };
      const identity = { event_action: action, dedup_key: alert.key };
      const delivery = await post(action === 'trigger' ? { ...identity, ...triggerOf(alert) } : identity, signal);
      if (alert.type !== 'test' || delivery.kind !== 'delivered') return delivery;
      // A test leaves nothing open behind.
      return await post({ event_action: 'resolve', dedup_key: alert.key }, signal);
    },
  };
}

/** Events API v2: 202 is the only yes; 400 means that the event is wrong and will stay so. */
function judge({ status, message, retryAfterMs }: Answer): Delivery | null {
  if (status === 202) return { kind: 'delivered', status };
  if (status === 400) return { kind: 'rejected', message };
  if (status === 429) return failed(message, retryAfterMs ?? PAUSE_MS);
  return status >= 200 && status < 300 ? failed(`${message}, not 202: this is not the Events API`) : null;
}

function triggerOf(alert: Alert): Readonly<Record<string, unknown>> {
  const summary = oneLine(alert.summary, SUMMARY_CHARS_MAX);
  const timestamp = timestampOf(alert);
  return {
    client: 'Ringfence',
    payload: {
      summary: summary === '' ? alert.type : summary,
      source: hostname(),
      severity: SEVERITIES[alert.severity],
      ...(timestamp === null ? {} : { timestamp }),
      component: alert.subject,
      class: alert.type,
      custom_details: {
        alert: alert.id,
        ...Object.fromEntries(boundedFacts(alert).map(({ name, value }) => [name, value])),
      },
    },
  };
}
