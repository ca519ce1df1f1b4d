import type { GpuReading } from '../core/ports/gpu.ts';

/** One way to read GPUs. What fails for one device is that device's problem; what fails for all is thrown. */
export type GpuSource = {
  /** Throws an Error in words when nothing can be told of any device. */
  read(): GpuReading;
  close(): void;
};

/** Which way, for the process that reads. */
export type GpuSourcePlan =
  /** `library`: absolute, or a name that the loader finds by itself. */
  | { readonly kind: 'nvml'; readonly library: string }
  /** `root`: where `sys`, `proc` and `dev` lie; empty for the host's own. */
  | { readonly kind: 'drm'; readonly root: string };
