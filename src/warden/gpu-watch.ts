import type { Breach } from '../core/outcome.ts';
import type { GpuBounds, GpuTold } from '../core/ports/warden.ts';
import { killBreach } from './breaches.ts';

/**
 * What a run does on GPUs, against what it may. Memory is a level that only the driver knows; a device that was not
 * granted may not be used at all; and a run whose devices nobody can measure is not held, so its silence has a limit.
 */
export type GpuWatch = {
  note(told: GpuTold, nowMs: number): void;
  change(bounds: GpuBounds | null): void;
  breach(nowMs: number): Breach | null;
};

export function createGpuWatch(first: GpuBounds | null): GpuWatch {
  let bounds = first;
  let told: GpuTold | null = null;
  /** Silence begins when the run is judged for the first time: before, it had no process that could use a device. */
  let heardAtMs: number | null = null;
  return {
    note: (next, nowMs) => {
      // That nothing could be read is no news of the devices; what was seen before stands.
      if (next.busyMs === null) return;
      told = next;
      heardAtMs = nowMs;
    },
    change: (next) => {
      bounds = next;
    },
    breach: (nowMs) => {
      heardAtMs ??= nowMs;
      if (told !== null && told.ungranted !== null) return deviceBreach();
      if (bounds === null) return null;
      const { memoryBytesMax, hostMemoryBytesMax, silentMsMax } = bounds;
      if (memoryBytesMax !== null && told !== null && told.memoryBytes > memoryBytesMax)
        return memoryBreach('limits.gpu.memory', told.memoryBytes, memoryBytesMax);
      if (told !== null && told.hostMemoryBytes > hostMemoryBytesMax)
        return memoryBreach('limits.memory', told.hostMemoryBytes, hostMemoryBytesMax);
      const silentMs = nowMs - heardAtMs;
      return silentMsMax !== null && silentMs >= silentMsMax ? silenceBreach(silentMs, silentMsMax) : null;
    },
  };
}

function deviceBreach(): Breach {
  return killBreach({ reason: 'limit.gpu', rule: 'limits.gpu', measured: 1, limit: 0, unit: 'devices' });
}

function memoryBreach(rule: string, measured: number, limit: number): Breach {
  return killBreach({ reason: 'limit.gpu', rule, measured, limit, unit: 'bytes' });
}

function silenceBreach(measured: number, limit: number): Breach {
  return killBreach({ reason: 'enforcement.lost', rule: 'on.telemetry.lost', measured, limit, unit: 'ms' });
}
