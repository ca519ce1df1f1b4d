import { assertNever } from '../core/assert.ts';
import type { Bound, BudgetName, Rung } from '../core/outcome.ts';
import { BUDGETS } from '../core/outcome.ts';
import type { BudgetPlan } from '../core/ports/warden.ts';
import type { Spec } from '../profile/spec.ts';

/** What depends on the host, and on what of it a run reaches. */
export type HostRungs = { readonly io: Rung };

/**
 * Every bound of a run with what holds it on a host where the launch was read back: levels by the kernel, amounts by
 * the warden's sampling and killing, except for bytes and connections, which the kernel itself cuts off.
 */
export function boundsOf(spec: Spec, rungs: HostRungs = { io: 'none' }): readonly Bound[] {
  const { limits } = spec;
  return [
    { path: 'limits.cpu', value: limits.cpuMillis, unit: 'millicores', rung: 'kernel' },
    { path: 'limits.memory', value: limits.memoryBytesMax, unit: 'bytes', rung: 'kernel' },
    { path: 'limits.pids', value: limits.pidsMax, unit: 'count', rung: 'kernel' },
    { path: 'limits.disk', value: limits.diskBytesMax, unit: 'bytes', rung: 'kernel' },
    { path: 'limits.files', value: limits.filesMax, unit: 'count', rung: 'kernel' },
    ...bandwidthBound(spec),
    ...ioBound(spec, rungs),
    ...sizeBounds(spec),
    ...gpuBounds(spec),
    ...BUDGETS.flatMap((budget) => budgetBound(spec, budget)),
    { path: 'egress', value: spec.egress.allow.length, unit: 'rules', rung: 'kernel' },
  ];
}

/** The same bounds with what holds them as it was found at the launch: a change of the profile changes no host. */
export function boundsAfterChange(spec: Spec, before: readonly Bound[]): readonly Bound[] {
  const rungs = new Map(before.map(({ path, rung }) => [path, rung]));
  return boundsOf(spec).map((bound) => ({ ...bound, rung: rungs.get(bound.path) ?? bound.rung }));
}

function ioBound({ limits }: Spec, { io: rung }: HostRungs): readonly Bound[] {
  const { ioBytesPerSecond: value } = limits;
  return value === null ? [] : [{ path: 'limits.io', value, unit: 'byte/s', rung }];
}

function sizeBounds({ mounts }: Spec): readonly Bound[] {
  return mounts.flatMap(({ sizeBytesMax: value }, index) =>
    value === null
      ? []
      : [{ path: `mounts[${index}].size` as const, value, unit: 'bytes' as const, rung: 'kernel' as const }],
  );
}

/** Which devices: the device cgroup. Of their memory the driver tells, and the warden kills. */
function gpuBounds({ limits: { gpu } }: Spec): readonly Bound[] {
  if (gpu === null) return [];
  const value = gpu.count ?? Math.max(1, gpu.devices.length);
  const memory = gpu.memoryBytesMax;
  return [
    { path: 'limits.gpu', value, unit: 'count', rung: 'kernel' },
    ...(memory === null
      ? []
      : [{ path: 'limits.gpu.memory', value: memory, unit: 'bytes', rung: 'watchdog' } as const]),
  ];
}

function bandwidthBound({ limits }: Spec): readonly Bound[] {
  const { bandwidthBitsPerSecond: value } = limits;
  return value === null ? [] : [{ path: 'limits.bandwidth', value, unit: 'bit/s', rung: 'kernel' }];
}

function budgetBound({ budget }: Spec, name: BudgetName): readonly Bound[] {
  switch (name) {
    case 'wall':
      return [{ path: 'budget.wall', value: budget.wallMs, unit: 'ms', rung: 'watchdog' }];
    case 'cpu':
      return budget.cpuMs === null ? [] : [{ path: 'budget.cpu', value: budget.cpuMs, unit: 'ms', rung: 'watchdog' }];
    case 'egress':
      return budget.egressBytes === null
        ? []
        : [{ path: 'budget.egress', value: budget.egressBytes, unit: 'bytes', rung: 'kernel' }];
    case 'denials':
      return budget.denials === null
        ? []
        : [{ path: 'budget.denials', value: budget.denials.count, unit: 'count', rung: 'watchdog' }];
    case 'ingress':
      return budget.ingressBytes === null
        ? []
        : [{ path: 'budget.ingress', value: budget.ingressBytes, unit: 'bytes', rung: 'kernel' }];
    case 'connections':
      return budget.connections === null
        ? []
        : [{ path: 'budget.connections', value: budget.connections, unit: 'count', rung: 'kernel' }];
    case 'gpu':
      return budget.gpuMs === null ? [] : [{ path: 'budget.gpu', value: budget.gpuMs, unit: 'ms', rung: 'watchdog' }];
    default:
      return assertNever(name);
  }
}

/** The budgets as the warden judges them. */
export function budgetPlansOf({ budget, on }: Spec): readonly BudgetPlan[] {
  const plans: BudgetPlan[] = [{ budget: 'wall', limitMs: budget.wallMs, action: on.wall }];
  if (budget.cpuMs !== null) plans.push({ budget: 'cpu', limitMs: budget.cpuMs, action: on.cpu });
  if (budget.gpuMs !== null) plans.push({ budget: 'gpu', limitMs: budget.gpuMs, action: on.gpu });
  if (budget.egressBytes !== null) plans.push({ budget: 'egress', limitBytes: budget.egressBytes, action: on.egress });
  if (budget.ingressBytes !== null)
    plans.push({ budget: 'ingress', limitBytes: budget.ingressBytes, action: on.ingress });
  if (budget.connections !== null)
    plans.push({ budget: 'connections', count: budget.connections, action: on.connections });
  if (budget.denials !== null) plans.push({ budget: 'denials', ...budget.denials, action: on.denials });
  return plans;
}
