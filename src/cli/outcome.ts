import type { Client } from '../api/client.ts';
import type { Incident } from '../api/service.ts';
import type { Outcome } from '../core/outcome.ts';
import { printable } from '../core/text.ts';

const DETAIL_CHARS_MAX = 1_000;

/** One line for any ending. */
export function describeOutcome(outcome: Outcome): string {
  const detail = printable(outcome.detail, DETAIL_CHARS_MAX);
  const incident = outcome.incidentId === null ? '' : `; \`ringfence incident ${outcome.incidentId}\``;
  return `${outcome.runId} ended, ${outcome.reason}: ${detail}${incident}`;
}

/** What a person needs when a run did not end by itself: the rule, what was measured, where to read on. */
export async function explainEnding(outcome: Outcome, client: Client): Promise<string> {
  const { runId, reason, rule, incidentId } = outcome;
  const incident = incidentId === null ? null : await incidentOf(incidentId, client);
  const named = rule === null || rule === reason ? reason : `${reason} (${rule})`;
  const detail = printable(outcome.detail, DETAIL_CHARS_MAX);
  if (incidentId === null) return `ringfence: ${runId} ended by ${named}: ${detail}; \`ringfence why ${runId}\``;
  const said = incident === null ? `${detail};` : printable(incident.what.summary, DETAIL_CHARS_MAX);
  return `ringfence: ${runId} ended by ${named}: ${said} Incident ${incidentId}: \`ringfence incident ${incidentId}\``;
}

/** The incident may be a moment away or already gone; the line is useful without it. */
async function incidentOf(id: string, client: Client): Promise<Incident | null> {
  return await client.incident(id).catch(() => null);
}
