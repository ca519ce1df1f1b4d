import type { Breach } from '../core/outcome.ts';
import type { BudgetPlan, CgroupPaths } from '../core/ports/warden.ts';
import { openFreezer } from '../meter/freezer.ts';
import type { Freezer } from '../meter/freezer.ts';
import { canThrottle, throttleCpu } from '../meter/throttle.ts';
import type { CpuThrottle } from '../meter/throttle.ts';

/**
 * The steps between a warning and an end. Each is read back from the kernel before it is told:
 *
 *   running ──throttle──▶ slow (CPU at the parent cgroup, until no such budget is used up any more)
 *   running ──pause──▶ freezing ──every process stands──▶ paused ──resume──▶ running
 *                         └──deadline──▶ failed: whoever asked ends the run instead
 *
 * Slow and paused are independent of each other. An ending of the run thaws it. Bandwidth is lowered by the fence,
 * which the daemon tells when it hears of the throttle.
 */
export type Ladder = {
  /** Takes the action of a breach, `throttle` or `pause`; `settle` says what became of it. */
  take(breach: Breach, at: { readonly nowMs: number; readonly cpuMillisMax: number | null }): void;
  /** What has been decided since the last call. */
  settle(nowMs: number): readonly LadderStep[];
  /** Something was taken that is not settled. */
  readonly pending: boolean;
  /** Every process stands still, and that has been told. */
  readonly paused: boolean;
  /** Looks whether a slow run is still held to it, and holds it again; what cannot be held is for `settle` to say. */
  keep(): void;
  thaw(): void;
  /** Gives the run its CPU back. */
  speedUp(): void;
  close(): void;
};

export type LadderStep = { readonly breach: Breach; readonly held: boolean };

/** A process that waits for the next period of its CPU quota freezes up to 100 ms late; nothing honest takes longer. */
const FREEZE_MS_MAX = 1_000;
/** What a throttled run keeps of its CPU limit, and at least. */
const THROTTLE_SHARE = 0.25;
const THROTTLE_MILLIS_MIN = 50;

/** What the kernel cannot do here of the actions that these budgets ask for; null when it can do all. */
export function impossibleAction(paths: CgroupPaths, budgets: readonly BudgetPlan[]): string | null {
  const asks = (action: 'throttle' | 'pause'): BudgetPlan | undefined => budgets.find((plan) => plan.action === action);
  const [slow, pause] = [asks('throttle'), asks('pause')];
  if (slow !== undefined && !canThrottle(paths.cpu)) return refusal(slow, 'cannot lower the CPU of a cgroup');
  if (pause === undefined) return null;
  const freezer = openFreezer(paths);
  freezer?.close();
  return freezer === null ? refusal(pause, 'cannot freeze a cgroup') : null;
}

function refusal({ action, budget }: BudgetPlan, why: string): string {
  return `the action ${action} of budget.${budget} is not enforceable here: this kernel ${why}`;
}

export function createLadder(options: { readonly paths: CgroupPaths; readonly cpusOnline: number }): Ladder {
  const { paths, cpusOnline } = options;
  let freezer: Freezer | null = null;
  let throttle: { readonly cpu: CpuThrottle; readonly breach: Breach } | null = null;
  let paused = false;
  let freezing: { readonly breaches: Breach[]; readonly deadlineMs: number } | null = null;
  let steps: LadderStep[] = [];

  const slowDown = (breach: Breach, cpuMillisMax: number | null): boolean => {
    if (throttle !== null) return true;
    const cpu = throttleCpu(
      paths.cpu,
      Math.max(THROTTLE_MILLIS_MIN, (cpuMillisMax ?? cpusOnline * 1000) * THROTTLE_SHARE),
    );
    if (cpu !== null) throttle = { cpu, breach };
    return cpu !== null;
  };

  const settleFreezing = (nowMs: number): void => {
    if (freezing === null) return;
    const frozen = freezer?.frozen() === true;
    if (!frozen && nowMs < freezing.deadlineMs) return;
    steps.push(...freezing.breaches.map((breach) => ({ breach, held: frozen })));
    paused = frozen;
    freezing = null;
  };

  return {
    take: (breach, { nowMs, cpuMillisMax }) => {
      if (breach.action === 'throttle') {
        steps.push({ breach, held: slowDown(breach, cpuMillisMax) });
        return;
      }
      freezer ??= openFreezer(paths);
      freezer?.freeze();
      freezing = {
        breaches: [...(freezing?.breaches ?? []), breach],
        deadlineMs: freezing?.deadlineMs ?? nowMs + FREEZE_MS_MAX,
      };
    },
    settle: (nowMs) => {
      settleFreezing(nowMs);
      const settled = steps;
      steps = [];
      return settled;
    },
    get pending() {
      return freezing !== null || steps.length > 0;
    },
    get paused() {
      return paused;
    },
    keep: () => {
      if (throttle === null || throttle.cpu.keep()) return;
      steps.push({ breach: throttle.breach, held: false });
      throttle = null;
    },
    thaw: () => {
      freezer?.thaw();
      freezing = null;
      paused = false;
    },
    speedUp: () => {
      throttle?.cpu.lift();
      throttle = null;
    },
    close: () => {
      freezer?.close();
      freezer = null;
    },
  };
}
