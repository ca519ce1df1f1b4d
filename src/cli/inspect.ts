import type { Command } from 'commander';

import type { RunDetail } from '../api/service.ts';
import type { Bound } from '../core/outcome.ts';
import { formatBytes, formatDuration } from '../core/units.ts';
import type { Invoke } from './commands.ts';
import { describeOutcome } from './outcome.ts';
import { renderPairs, renderTable } from './table.ts';

export function define(command: Command, invoke: Invoke): void {
  command.argument('<run>', 'run id, the beginning of one, or a profile name').action((run: string) =>
    invoke(async (context) => {
      const detail = await (await context.client()).inspect(run);
      await context.answer({ json: detail, text: () => renderRun(detail) });
      return 0;
    }),
  );
}

function renderRun(run: RunDetail): string {
  const { uid, pid } = run.launchedBy;
  const facts: (readonly [string, string])[] = [
    ['run', run.runId],
    ['profile', `${run.profile} (${run.profilePath})`],
    ['digest', run.profileDigest],
    ['owner', run.owner],
    ['phase', run.phase],
    ['admitted', run.admittedAt],
    ['started', run.startedAt ?? 'not yet'],
    ['launched by', `user ${uid}, process ${pid}`],
    ['image', `${run.image} (${run.imageDigest ?? 'not resolved'})`],
    ['command', run.command.map((word) => JSON.stringify(word)).join(' ')],
    ['container', run.containerId ?? 'none'],
    ['address', run.address === null ? 'none' : `${run.address} on ${run.network ?? 'no network'}`],
    ['process', run.pid === null ? 'none' : String(run.pid)],
    ...run.cgroups.map((path, index) => [index === 0 ? 'cgroups' : '', path] as const),
    ...listed('egress', run.egress.length === 0 ? ['nothing is allowed'] : run.egress),
    ...listed(
      'labels',
      Object.entries(run.labels).map(([key, value]) => `${key}=${value}`),
    ),
    ...listed(
      'denied',
      run.denialsByDestination.map(({ destination, count }) => `${destination}, ${count} times`),
    ),
    ...listed('sent to', run.destinations.map(showDestination)),
    ...listed(
      'waits for',
      run.pending.map(({ id, wants }) => `${wants}; \`ringfence approve ${id}\``),
    ),
    ...(run.held === null ? [] : listed('held', [`${run.held.action} by ${run.held.rule}`])),
  ];
  const bounds = renderTable(
    [{ head: 'BOUND' }, { head: 'USED', align: 'right' }, { head: 'OF', align: 'right' }, { head: 'HELD BY' }],
    run.bounds.map((bound) => [bound.path, usedOf(run, bound), shownValue(bound), bound.rung]),
  );
  const ending = run.outcome === null ? [] : ['', describeOutcome(run.outcome)];
  return [renderPairs(facts), '', bounds, ...ending].join('\n');
}

function showDestination({ address, port, protocol, egressBytes }: RunDetail['destinations'][number]): string {
  return `${address}:${port}/${protocol}, ${formatBytes(egressBytes)}`;
}

function listed(name: string, values: readonly string[]): (readonly [string, string])[] {
  return values.map((value, index) => [index === 0 ? name : '', value]);
}

function shownValue({ value, unit }: Bound): string {
  if (value === null) return 'none';
  switch (unit) {
    case 'bytes':
      return formatBytes(value);
    case 'ms':
      return formatDuration(value);
    case 'millicores':
      return `${value / 1000} cores`;
    case 'byte/s':
      return `${formatBytes(value)}/s`;
    case 'bit/s':
      return `${value / 1e6} Mbit/s`;
    case 'count':
    case 'rules':
      return String(value);
    default:
      return `${value} ${String(unit)}`;
  }
}

/** What the kernel has counted against a bound; empty where a bound has no counter of its own. */
function usedOf({ usage }: RunDetail, { path }: Bound): string {
  switch (path) {
    case 'limits.memory':
      return `${formatBytes(usage.memoryBytes)} (peak ${formatBytes(usage.memoryBytesPeak)})`;
    case 'limits.pids':
      return `${usage.pids} (peak ${usage.pidsPeak})`;
    case 'limits.disk':
      return usage.diskBytes === null ? '' : formatBytes(usage.diskBytes);
    case 'budget.wall':
      return formatDuration(usage.wallMs);
    case 'budget.cpu':
      return formatDuration(usage.cpuMs);
    case 'budget.egress':
      return formatBytes(usage.egressBytes);
    case 'budget.ingress':
      return formatBytes(usage.ingressBytes);
    case 'budget.denials':
      return String(usage.denials);
    default: {
      const bytes = usage.mountBytes[path];
      return bytes === undefined ? '' : formatBytes(bytes);
    }
  }
}
