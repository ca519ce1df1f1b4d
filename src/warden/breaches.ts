import type { Breach } from '../core/outcome.ts';
import type { WatchBounds } from '../core/ports/warden.ts';

/** Breaches that are no budget's: memory, the meter and the daemon itself. Each ends the run at once. */

export function oomBreach(facts: {
  readonly onOom: WatchBounds['onOom'];
  /** Since `agent` was in force. */
  readonly oomKills: number;
  readonly memoryBytesPeak: number;
  readonly memoryBytesMax: number;
}): Breach | null {
  const { onOom, oomKills, memoryBytesPeak: measured, memoryBytesMax: limit } = facts;
  if (onOom !== 'agent' || oomKills <= 0) return null;
  return killBreach({ reason: 'oom', rule: 'limits.memory', measured, limit, unit: 'bytes' });
}

export function lostDaemonBreach(lostForMs: number | null, limit: number | null): Breach | null {
  if (limit === null || lostForMs === null || lostForMs < limit) return null;
  const rule = 'on.supervisor.lost';
  return killBreach({ reason: 'supervisor.lost', rule, measured: lostForMs, limit, unit: 'ms' });
}

export function lostMeterBreach(): Breach {
  return killBreach({ reason: 'enforcement.lost', rule: 'meter', measured: 0, limit: 0, unit: '' });
}

/** Somebody gave the run a road out on which no rule of ours stands. */
export function foreignNetworkBreach(): Breach {
  return killBreach({ reason: 'enforcement.lost', rule: 'network', measured: 0, limit: 0, unit: 'none' });
}

export function killBreach(facts: Omit<Breach, 'action' | 'denial'>): Breach {
  return { ...facts, action: 'kill', denial: null };
}
