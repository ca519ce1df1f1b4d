import { BUDGETS } from '../core/outcome.ts';
import type { QuotaState } from '../policy/quotas.ts';

/**
 * What one warden tells the next of a run, because nothing else knows it: the kernel counts what was used, but not what
 * was refused, said, or granted by a person. Moments are milliseconds since the boot of the host, which both share.
 */
export type RunNote = Pick<QuotaState, 'denials' | 'warned' | 'raised'> & {
  readonly denialsTotal: number;
  /** OOM kills that the bounds of their time let pass. */
  readonly oomKillsPassed: number;
};

/** Written by a warden of ours, and read as what it must be; null when it is not. */
export function parseNote(text: string): RunNote | null {
  const { denials, warned, raised, denialsTotal, oomKillsPassed } = JSON.parse(text) as Partial<RunNote>;
  if (!isCount(denialsTotal) || !isCount(oomKillsPassed)) return null;
  if (!Array.isArray(denials) || !denials.every(({ atMs, count }) => isCount(atMs) && isCount(count))) return null;
  if (!Array.isArray(warned) || !warned.every((step) => typeof step === 'string')) return null;
  if (!Array.isArray(raised) || !raised.every(({ budget, limit }) => BUDGETS.includes(budget) && isCount(limit)))
    return null;
  return { denials, warned, raised, denialsTotal, oomKillsPassed };
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}
