import type { Command } from 'commander';

import type { Bound, Outcome } from '../core/outcome.ts';
import type { RunView } from '../api/service.ts';
import { shortAge, shortBytes, shortDuration } from './amounts.ts';
import type { Invoke } from './commands.ts';
import { renderTable, type Column } from './table.ts';
import { isTty } from './terminal.ts';

const COLUMNS: readonly Column[] = [
  { head: 'RUN' },
  { head: 'PROFILE', charsMin: 8 },
  { head: 'PHASE' },
  { head: 'AGE', align: 'right' },
  { head: 'CPU', align: 'right' },
  { head: 'MEM', align: 'right' },
  { head: 'EGRESS', align: 'right' },
  { head: 'DENIED', align: 'right' },
  { head: 'ENDS', charsMin: 6 },
];

export function define(command: Command, invoke: Invoke): void {
  command.option('-a, --all', 'also the runs that are over').action((options: { readonly all?: boolean }) =>
    invoke(async (context) => {
      const { stdout, nowMs } = context.terminal;
      const runs = await (await context.client()).list({ all: options.all === true });
      await context.answer({
        json: runs,
        text: () => renderRuns(runs, { nowMs: nowMs(), columnsMax: isTty(stdout) ? stdout.columns : null }),
      });
      return 0;
    }),
  );
}

/** Use against every bound that a person watches; `ENDS` is when the wall budget ends a run, or what ended it. */
export function renderRuns(
  runs: readonly RunView[],
  options: { readonly nowMs: number; readonly columnsMax: number | null },
): string {
  const rows = runs.map((run) => [
    run.runId,
    run.profile,
    phaseOf(run),
    shortAge(options.nowMs - Date.parse(run.admittedAt)),
    against(shortDuration(run.usage.cpuMs), bound(run, 'budget.cpu'), shortDuration),
    against(shortBytes(run.usage.memoryBytes), bound(run, 'limits.memory'), shortBytes),
    against(shortBytes(run.usage.egressBytes), bound(run, 'budget.egress'), shortBytes),
    String(run.usage.denials),
    run.outcome === null ? remaining(run) : ended(run.outcome),
  ]);
  return renderTable(COLUMNS, rows, options.columnsMax);
}

function phaseOf({ phase, held }: RunView): string {
  if (phase !== 'running' || held === null) return phase;
  return held.action === 'pause' ? 'paused' : 'slowed';
}

function bound(run: RunView, path: Bound['path']): number | null {
  return run.bounds.find((one) => one.path === path)?.value ?? null;
}

function against(used: string, limit: number | null, show: (amount: number) => string): string {
  return limit === null ? used : `${used}/${show(limit)}`;
}

function remaining(run: RunView): string {
  const wallMs = bound(run, 'budget.wall');
  return wallMs === null || run.startedAt === null ? '' : `in ${shortAge(wallMs - run.usage.wallMs)}`;
}

function ended(outcome: Outcome): string {
  return outcome.reason === 'exited' ? `exited ${outcome.exitCode ?? '?'}` : outcome.reason;
}
