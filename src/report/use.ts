import type { Bound, Usage } from '../core/outcome.ts';

/** How much of one bound is used: a level now, or an amount so far. */
export type Use = {
  readonly path: Bound['path'];
  readonly used: number;
  readonly limit: number;
  readonly unit: Bound['unit'];
  /** `used` of `limit`; 0 where nothing is allowed and nothing used. */
  readonly ratio: number;
};

/** The use of every bound that has a counter. A bound without one (open files, say) is held, but shows no use. */
export function usesOf(run: { readonly usage: Usage; readonly bounds: readonly Bound[] }): readonly Use[] {
  return run.bounds.flatMap(({ path, value, unit }) => {
    const used = usedOf(run.usage, path);
    if (used === null || value === null) return [];
    const ratio = value === 0 ? Math.min(1, used) : used / value;
    return [{ path, used, limit: value, unit, ratio }];
  });
}

/** The bound that is nearest to its end, or null when none is counted. */
export function nearest(uses: readonly Use[]): Use | null {
  return uses.reduce<Use | null>((most, use) => (most === null || use.ratio > most.ratio ? use : most), null);
}

function usedOf(usage: Usage, path: Bound['path']): number | null {
  switch (path) {
    case 'limits.memory':
      return usage.memoryBytes;
    case 'limits.pids':
      return usage.pids;
    case 'limits.disk':
      return usage.diskBytes;
    case 'budget.wall':
      return usage.wallMs;
    case 'budget.cpu':
      return usage.cpuMs;
    case 'budget.gpu':
      return usage.gpuMs;
    case 'limits.gpu.memory':
      return usage.gpuMemoryBytes;
    case 'budget.egress':
      return usage.egressBytes;
    case 'budget.ingress':
      return usage.ingressBytes;
    case 'budget.connections':
      return usage.connections;
    case 'budget.denials':
      return usage.denials;
    default:
      return usage.mountBytes[path] ?? null;
  }
}
