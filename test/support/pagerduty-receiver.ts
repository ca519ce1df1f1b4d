import type { ServiceAnswer, ServiceReceiver, ServiceRequest } from './service-receiver.ts';
import { isMoment, isObject, startService, unknownKey } from './service-receiver.ts';

/**
 * A stand-in for the Events API v2 with the rules of its documentation: required fields, a summary of at most 1,024 characters, a
 * key of at most 255, 512 kB in all, 202 for what is taken and 400 with reasons for what is not. It keeps the
 * alerts, so that a test can count how often somebody was called.
 */
export const ROUTING_KEY = 'R0123456789abcdef0123456789abcde';

export type PagerDutyReceiver = ServiceReceiver & {
  readonly url: string;
  /** By dedup key. */
  readonly alerts: ReadonlyMap<string, 'triggered' | 'acknowledged' | 'resolved'>;
  /** Triggers that opened something new: each calls somebody. */
  readonly pages: readonly string[];
};

const ACTIONS = ['trigger', 'acknowledge', 'resolve'];
const SEVERITIES = ['critical', 'error', 'warning', 'info'];
const KEYS = ['routing_key', 'event_action', 'dedup_key', 'payload', 'client', 'client_url', 'links', 'images'];
const PAYLOAD_KEYS = ['summary', 'source', 'severity', 'timestamp', 'component', 'group', 'class', 'custom_details'];

export async function startPagerDuty(): Promise<PagerDutyReceiver> {
  const alerts = new Map<string, 'triggered' | 'acknowledged' | 'resolved'>();
  const pages: string[] = [];
  const service = await startService((request) => {
    const errors = errorsOf(request);
    if (errors.length > 0) {
      const body = JSON.stringify({ status: 'invalid event', message: 'Event object is invalid', errors });
      return { status: 400, body };
    }
    const event = request.json as { event_action: string; dedup_key: string };
    apply(event, alerts, pages);
    const body = JSON.stringify({ status: 'success', message: 'Event processed', dedup_key: event.dedup_key });
    return { status: 202, body } satisfies ServiceAnswer;
  });
  return { ...service, url: `http://127.0.0.1:${service.port}/v2/enqueue`, alerts, pages };
}

function apply(
  event: { readonly event_action: string; readonly dedup_key: string },
  alerts: Map<string, 'triggered' | 'acknowledged' | 'resolved'>,
  pages: string[],
): void {
  const before = alerts.get(event.dedup_key);
  const open = before === 'triggered' || before === 'acknowledged';
  if (event.event_action === 'trigger') {
    if (open) return;
    pages.push(event.dedup_key);
    alerts.set(event.dedup_key, 'triggered');
  } else if (open) alerts.set(event.dedup_key, event.event_action === 'resolve' ? 'resolved' : 'acknowledged');
}

function errorsOf(request: ServiceRequest): readonly string[] {
  const { json } = request;
  if (request.method !== 'POST' || request.path !== '/v2/enqueue') return ['not found'];
  if (request.bytes > 512 * 1024) return ['the event is larger than 512 kB'];
  if (!isObject(json)) return ['JSON cannot be parsed'];
  const errors: string[] = [];
  const check = (fine: boolean, error: string): void => {
    if (!fine) errors.push(error);
  };
  check(unknownKey(json, KEYS) === null, `unknown key ${String(unknownKey(json, KEYS))}`);
  check(json['routing_key'] === ROUTING_KEY, "'routing_key' is invalid");
  check(ACTIONS.includes(String(json['event_action'])), "'event_action' is invalid");
  const key = json['dedup_key'];
  check(typeof key === 'string' && key.length > 0 && key.length <= 255, "'dedup_key' is invalid");
  return json['event_action'] === 'trigger' ? [...errors, ...payloadErrors(json['payload'])] : errors;
}

function payloadErrors(payload: unknown): readonly string[] {
  if (!isObject(payload)) return ["'payload' is missing or blank"];
  const errors: string[] = [];
  const { summary, source, severity, timestamp, custom_details: details } = payload;
  const unknown = unknownKey(payload, PAYLOAD_KEYS);
  if (unknown !== null) errors.push(`unknown key payload.${unknown}`);
  if (typeof summary !== 'string' || summary === '') errors.push("'payload.summary' is missing or blank");
  else if (summary.length > 1_024) errors.push("'payload.summary' is too long");
  if (typeof source !== 'string' || source === '') errors.push("'payload.source' is missing or blank");
  if (!SEVERITIES.includes(String(severity))) errors.push("'payload.severity' is invalid");
  if (timestamp !== undefined && !isMoment(timestamp)) errors.push("'payload.timestamp' is invalid");
  if (details !== undefined && !isObject(details)) errors.push("'payload.custom_details' is invalid");
  return errors;
}
