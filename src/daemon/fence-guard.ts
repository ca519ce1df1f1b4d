import { setTimeout as delay } from 'node:timers/promises';
import { messageOf } from '../core/errors.ts';
import type { Fence } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import { fenceFindings } from './run-ports.ts';
import type { RunTable } from './run-table.ts';
import type { Supervisor } from './supervisor.ts';

/** How often the base rules are read back while runs are alive, where the kernel does not tell that they were changed. */
const VERIFY_INTERVAL_MS = 1_000;
/**
 * Between two readings in any case, because a launch changes rules several times; and twice as long as the last one took, so
 * that a busy host does something else as well.
 */
const REST_MS = { min: 200, max: 800 } as const;
const REST_PER_READING = 2;

export type FenceGuardOptions = {
  readonly fence: Fence;
  readonly supervisor: Pick<Supervisor, 'endAll'>;
  readonly ledger: Ledger;
  readonly log: Log;
  readonly table: RunTable;
  readonly signal: AbortSignal;
};

/** Reads the base rules back as long as a run depends on them; puts them back once, and ends the runs if they do not hold. */
export class FenceGuard {
  private readonly options: FenceGuardOptions;
  private verified: number | null = null;
  private wake = new AbortController();

  constructor(options: FenceGuardOptions) {
    this.options = options;
  }

  /** When the rules were last found right; null before the first run. */
  get verifiedAtMs(): number | null {
    return this.verified;
  }

  /** Reads back at once, or once more after the reading that is under way. */
  lookNow(): void {
    this.wake.abort();
  }

  async run(): Promise<void> {
    const { signal, table, fence } = this.options;
    let restMs: number = REST_MS.min;
    while (!signal.aborted) {
      await delay(restMs, undefined, { signal }).catch(() => undefined);
      const either = AbortSignal.any([signal, this.wake.signal]);
      await delay(VERIFY_INTERVAL_MS - restMs, undefined, { signal: either }).catch(() => undefined);
      if (this.wake.signal.aborted) this.wake = new AbortController();
      if (signal.aborted || table.alive().length === 0) continue;
      const startedAtMs = performance.now();
      const findings = await fenceFindings(fence);
      const tookMs = performance.now() - startedAtMs;
      restMs = Math.min(REST_MS.max, Math.max(REST_MS.min, REST_PER_READING * tookMs));
      if (findings.length === 0) this.verified = Date.now();
      else await this.putBack(findings);
    }
  }

  private async putBack(findings: readonly string[]): Promise<void> {
    const { fence, supervisor, ledger, log } = this.options;
    log.error({ findings }, 'the egress rules are not in force');
    ledger.append({ kind: 'enforcement.lost', what: 'egress', findings }).flushed.catch(() => undefined);
    const left = await fence.install().then(
      () => fenceFindings(fence),
      (error: unknown) => [messageOf(error)],
    );
    if (left.length > 0) {
      supervisor.endAll({
        reason: 'enforcement.lost',
        rule: 'egress',
        detail: `the egress rules are not in force: ${left.slice(0, 3).join('; ')}`,
      });
      return;
    }
    this.verified = Date.now();
    const what = 'the egress rules were changed from outside and have been put back';
    ledger.append({ kind: 'drift.detected', what, findings }).flushed.catch(() => undefined);
  }
}
