import { hostname } from 'node:os';
import type { AlertDraft } from '../core/ports/alert.ts';

const SUMMARIES = {
  test: 'This is a test of the alerts of Ringfence. Nothing happened.',
  heartbeat: 'Ringfence is there.',
} as const;

/** A test, or a heartbeat that says no more than that the daemon is there. */
export function plainDraft(
  type: keyof typeof SUMMARIES,
  { id, nowMs }: { readonly id: string; readonly nowMs: number },
): AlertDraft {
  const data = { host: hostname(), summary: SUMMARIES[type] };
  return {
    id,
    type,
    subject: 'ringfence',
    severity: 'info',
    key: id,
    summary: SUMMARIES[type],
    facts: [{ name: 'host', value: data.host }],
    body: JSON.stringify({ type, timestamp: new Date(nowMs).toISOString(), data }),
  };
}
