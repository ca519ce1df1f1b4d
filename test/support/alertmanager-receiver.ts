import type { ServiceAnswer, ServiceReceiver, ServiceRequest } from './service-receiver.ts';
import { isMoment, isObject, startService, unknownKey } from './service-receiver.ts';

/**
 * A stand-in for Alertmanager's API v2: a list of alerts with at least one label, names of labels and annotations by its pattern,
 * moments in RFC 3339, an end that is not before the start. An alert is its labels, so the same labels are the
 * same alert, and it fires until its end.
 */
export type AlertmanagerReceiver = ServiceReceiver & {
  readonly url: string;
  /** The labels of what fires at a moment. */
  firing(nowMs: number): readonly Readonly<Record<string, string>>[];
};

type Known = { readonly labels: Readonly<Record<string, string>>; readonly endsAtMs: number };

const RESOLVE_TIMEOUT_MS = 300_000;
const NAME = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

export async function startAlertmanager(options: { readonly token?: string } = {}): Promise<AlertmanagerReceiver> {
  const known = new Map<string, Known>();
  const service = await startService((request) => {
    const refusal = refusalOf(request, options.token ?? null);
    if (refusal !== null) return refusal;
    for (const alert of request.json as readonly Readonly<Record<string, unknown>>[]) {
      const labels = alert['labels'] as Readonly<Record<string, string>>;
      const end = alert['endsAt'];
      const endsAtMs = typeof end === 'string' ? Date.parse(end) : Date.now() + RESOLVE_TIMEOUT_MS;
      known.set(
        JSON.stringify(
          Object.keys(labels)
            .toSorted((left, right) => (left < right ? -1 : 1))
            .map((name) => [name, labels[name]]),
        ),
        { labels, endsAtMs },
      );
    }
    return { status: 200, body: '' };
  });
  return {
    ...service,
    url: `http://127.0.0.1:${service.port}`,
    firing: (nowMs) => [...known.values()].filter(({ endsAtMs }) => endsAtMs > nowMs).map(({ labels }) => labels),
  };
}

function refusalOf(request: ServiceRequest, token: string | null): ServiceAnswer | null {
  if (request.path !== '/api/v2/alerts') return { status: 404, body: 'path not found' };
  if (request.method !== 'POST') return { status: 405, body: 'method not allowed' };
  if (token !== null && request.headers.authorization !== `Bearer ${token}`)
    return { status: 401, body: 'Unauthorized' };
  if (request.headers['content-type'] !== 'application/json') return { status: 415, body: 'unsupported media type' };
  if (!Array.isArray(request.json)) return { status: 400, body: '{"code":400,"message":"parsing alerts body failed"}' };
  const problems = (request.json as readonly unknown[]).map(problemOf).filter((problem) => problem !== null);
  return problems.length === 0 ? null : { status: 400, body: JSON.stringify(problems.join('; ')) };
}

function problemOf(alert: unknown): string | null {
  if (!isObject(alert)) return 'not an alert';
  const unknown = unknownKey(alert, ['labels', 'annotations', 'startsAt', 'endsAt', 'generatorURL']);
  if (unknown !== null) return `unknown key ${unknown}`;
  const { labels, annotations = {}, startsAt, endsAt } = alert;
  if (!isObject(labels) || Object.values(labels).every((value) => value === ''))
    return 'at least one label pair required';
  for (const pairs of [labels, annotations]) {
    if (!isObject(pairs)) return 'annotations';
    for (const [name, value] of Object.entries(pairs)) {
      if (!NAME.test(name)) return `invalid name ${name}`;
      if (typeof value !== 'string' || !value.isWellFormed()) return `invalid value of ${name}`;
    }
  }
  if (startsAt !== undefined && !isMoment(startsAt)) return 'startsAt';
  if (endsAt !== undefined && !isMoment(endsAt)) return 'endsAt';
  if (typeof startsAt === 'string' && typeof endsAt === 'string' && Date.parse(endsAt) < Date.parse(startsAt)) {
    return 'start time must be before end time';
  }
  return null;
}
