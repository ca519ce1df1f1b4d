import type { GpuReading } from '../core/ports/gpu.ts';
import type { GpuSourcePlan } from './source.ts';

/** Between the daemon and the process that reads GPUs, over its IPC channel. */
export type GpuRequest =
  | { readonly kind: 'start'; readonly source: GpuSourcePlan; readonly everyMs: number }
  | { readonly kind: 'pace'; readonly everyMs: number };

export type GpuReport =
  | { readonly kind: 'read'; readonly reading: GpuReading }
  /** The library is there and does not answer as it should; the process stays and asks again. */
  | { readonly kind: 'unreadable'; readonly message: string }
  /** The process is of no use and ends. */
  | { readonly kind: 'failed'; readonly message: string };
