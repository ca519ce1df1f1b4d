import type { Approval } from '../api/service.ts';
import type { AlertDraft } from '../core/ports/alert.ts';
import type { Breach } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { formatBreach } from './measure.ts';

/** A person is asked: what, for whom, until when, and the two commands that answer. */
export function approvalNotice(approval: Approval, { host }: { readonly host: string }): AlertDraft {
  const type = 'approval.requested';
  const { id, profile, runId, wants, request, requestedAt, expiresAt } = approval;
  const commands = { approve: `ringfence approve ${id}`, deny: `ringfence deny ${id}` };
  return {
    id,
    type,
    subject: profile,
    severity: 'medium',
    key: id,
    summary: `${profile} asks to reach ${wants}.`,
    facts: [
      { name: 'approve', value: commands.approve },
      { name: 'deny', value: commands.deny },
      { name: 'denied at', value: expiresAt },
      { name: 'rule', value: printable(request.rule) },
      { name: 'run', value: runId },
      { name: 'host', value: host },
    ],
    body: JSON.stringify({ type, timestamp: requestedAt, data: { ...approval, host, commands } }),
  };
}

/** A run lives on, slower or not at all, until a person looks. */
export function heldNotice(held: {
  readonly id: string;
  readonly at: string;
  readonly host: string;
  readonly runId: string;
  readonly profile: string;
  readonly breach: Breach;
}): AlertDraft {
  const type = 'run.held';
  const { id, at, host, runId, profile, breach } = held;
  const paused = breach.action === 'pause';
  const next = paused ? `ringfence resume ${runId}` : `ringfence inspect ${runId}`;
  return {
    id,
    type,
    subject: profile,
    severity: paused ? 'high' : 'medium',
    key: id,
    summary: `${profile} was ${paused ? 'paused' : 'slowed down'} by ${breach.rule}: ${formatBreach(breach)}.`,
    facts: [
      { name: paused ? 'let it go on' : 'look', value: next },
      { name: 'run', value: runId },
      { name: 'host', value: host },
    ],
    body: JSON.stringify({ type, timestamp: at, data: { runId, profile, host, breach, command: next } }),
  };
}
