import type { Caller } from '../api/service.ts';
import type { AskingRun } from './approvals.ts';
import type { DaemonConfig } from './config.ts';
import { groupIdOf, isInGroup } from './groups.ts';
import type { RunEntry, RunTable } from './run-table.ts';

/** Root, and the members of the configured group; without one, whoever launched the run. */
export async function decidersOf(
  config: DaemonConfig,
): Promise<(caller: Caller, launchedBy: Caller) => Promise<boolean>> {
  const { group } = config.approvals;
  const groupId = group === undefined ? null : await groupIdOf('approvals.group', group);
  return async (caller, launchedBy) =>
    caller.uid === 0 || (groupId === null ? caller.uid === launchedBy.uid : await isInGroup(caller, groupId));
}

/** Only what runs, or is about to, can use an answer. */
export function askingRun(entry: RunEntry | undefined): AskingRun | null {
  if (entry === undefined) return null;
  const { spec, phase, end, empty } = entry.driver.state;
  const alive = (phase === 'running' || phase === 'preparing') && end === null && !empty;
  return alive ? { spec, launchedBy: entry.caller } : null;
}

/** Whose packets and questions come from this address. */
export function runAt(table: RunTable, address: string): string | null {
  return table.byAddress(address)?.driver.state.runId ?? null;
}
