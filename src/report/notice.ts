import type { Incident } from '../api/service.ts';

/** What goes to the sinks: one alert, whose body is the same bytes at every attempt. */
export type Notice = {
  /** The same at every attempt: the receiver drops what it has seen. */
  readonly id: string;
  readonly type: string;
  /** What alerts are kept in order for: the profile. */
  readonly subject: string;
  readonly body: string;
};

/** Standard Webhooks: `{ type, timestamp, data }`, here with the whole incident. */
export function incidentNotice(incident: Incident): Notice {
  const type = 'incident.opened';
  const body = JSON.stringify({ type, timestamp: incident.times.detectedAt, data: incident });
  return { id: incident.id, type, subject: incident.subject.profile, body };
}
