import type { CgroupPaths } from '../core/ports/warden.ts';
import { dmemRegionOf, holdDmem, isDmemHeld, type DmemBound } from '../meter/dmem.ts';
import { detectLayout } from '../meter/layout.ts';
import type { Spec } from '../profile/spec.ts';

/** A run's limit of GPU memory in the kernel, where the kernel can hold it; everywhere else the watchdog does. */
export type GpuMemory = {
  /** Before there is a container in the run's cgroup. */
  hold(paths: CgroupPaths): void;
  /** Read back from the kernel. */
  isHeld(): boolean;
};

export function gpuMemoryOf(spec: Spec, pciAddress: string | null): GpuMemory {
  const bytesMax = spec.limits.gpu?.memoryBytesMax ?? null;
  let bound: DmemBound | null = null;
  return {
    hold: ({ unified: directory }) => {
      const mount = bytesMax === null || pciAddress === null ? null : detectLayout().mounts.unified;
      const region = dmemRegionOf(pciAddress ?? '', mount);
      if (bytesMax === null || directory === null || mount === null || region === null) return;
      bound = { directory, mount, region, bytesMax };
      holdDmem(bound);
    },
    isHeld: () => bound !== null && isDmemHeld(bound),
  };
}
