import type { Command } from 'commander';

import type { Approval } from '../api/service.ts';
import { shortAge, shortDuration } from './amounts.ts';
import type { Invoke } from './commands.ts';
import { renderTable, type Column } from './table.ts';
import { isTty } from './terminal.ts';

const COLUMNS: readonly Column[] = [
  { head: 'ID' },
  { head: 'AGENT', charsMin: 8 },
  { head: 'RUN' },
  { head: 'WANTS', charsMin: 20 },
  { head: 'RULE', charsMin: 8 },
  { head: 'WAITS', align: 'right' },
  { head: 'THEN', charsMin: 10 },
];

export function define(command: Command, invoke: Invoke): void {
  command.option('-a, --all', 'also what was decided lately').action((options: { readonly all?: boolean }) =>
    invoke(async (context) => {
      const { stdout, nowMs } = context.terminal;
      const approvals = await (await context.client()).approvals({ all: options.all === true });
      await context.answer({
        json: approvals,
        text: () =>
          approvals.length === 0
            ? 'nothing waits for a person'
            : renderApprovals(approvals, { nowMs: nowMs(), columnsMax: isTty(stdout) ? stdout.columns : null }),
      });
      return 0;
    }),
  );
}

function renderApprovals(
  approvals: readonly Approval[],
  options: { readonly nowMs: number; readonly columnsMax: number | null },
): string {
  const rows = approvals.map((approval) => [
    approval.id,
    approval.profile,
    approval.runId,
    approval.wants,
    approval.request.rule,
    shortAge(waitedMs(approval, options.nowMs)),
    fateOf(approval, options.nowMs),
  ]);
  return renderTable(COLUMNS, rows, options.columnsMax);
}

function waitedMs({ requestedAt, decidedAt }: Approval, nowMs: number): number {
  return (decidedAt === null ? nowMs : Date.parse(decidedAt)) - Date.parse(requestedAt);
}

function fateOf(approval: Approval, nowMs: number): string {
  const by = approval.decidedBy === null ? '' : ` by user ${approval.decidedBy.uid}`;
  switch (approval.state) {
    case 'pending':
      return `denied in ${shortAge(Date.parse(approval.expiresAt) - nowMs)}`;
    case 'approved':
      return `approved${by}${approval.forMs === null ? '' : ` for ${shortDuration(approval.forMs)}`}`;
    case 'denied':
      return `denied${by}${approval.reason === null ? '' : `: ${approval.reason}`}`;
    case 'expired':
      return 'denied, nobody came';
    case 'withdrawn':
      return approval.reason === null ? 'withdrawn' : `withdrawn: ${approval.reason}`;
    default:
      return String(approval.state);
  }
}
