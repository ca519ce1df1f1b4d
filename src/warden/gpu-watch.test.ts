import { describe, expect, it } from 'vitest';
import type { GpuBounds, GpuTold } from '../core/ports/warden.ts';
import { createGpuWatch } from './gpu-watch.ts';

const BOUNDS: GpuBounds = { memoryBytesMax: 1_000, hostMemoryBytesMax: 3_000, silentMsMax: 10_000 };
const told = (changes: Partial<GpuTold>): GpuTold => ({
  busyMs: 1,
  memoryBytes: 0,
  hostMemoryBytes: 0,
  ungranted: null,
  ...changes,
});
const ruleAt = (watch: ReturnType<typeof createGpuWatch>, nowMs: number): string | null =>
  watch.breach(nowMs)?.rule ?? null;

describe('what a run does on GPUs', () => {
  it('may hold its memory and no byte more', () => {
    const watch = createGpuWatch(BOUNDS);
    watch.note(told({ memoryBytes: 1_000 }), 0);
    expect(watch.breach(0)).toBeNull();
    watch.note(told({ memoryBytes: 1_001 }), 0);
    expect(watch.breach(0)).toEqual({
      reason: 'limit.gpu',
      rule: 'limits.gpu.memory',
      measured: 1_001,
      limit: 1_000,
      unit: 'bytes',
      action: 'kill',
      denial: null,
    });
  });

  it('may make its driver hold as much memory of the host and no byte more, whatever else is bounded', () => {
    for (const memoryBytesMax of [1_000, null]) {
      const watch = createGpuWatch({ ...BOUNDS, memoryBytesMax });
      watch.note(told({ memoryBytes: 1_000, hostMemoryBytes: 3_000 }), 0);
      expect(watch.breach(0)).toBeNull();
      watch.note(told({ hostMemoryBytes: 3_001 }), 0);
      expect(watch.breach(0)).toMatchObject({
        reason: 'limit.gpu',
        rule: 'limits.memory',
        measured: 3_001,
        limit: 3_000,
      });
    }
  });

  it('may not be on a device that was not granted, whether it has one or none', () => {
    for (const bounds of [BOUNDS, null]) {
      const watch = createGpuWatch(bounds);
      watch.note(told({}), 0);
      expect(watch.breach(0)).toBeNull();
      watch.note(told({ ungranted: 'GPU-1' }), 0);
      expect(watch.breach(0)).toMatchObject({ reason: 'limit.gpu', rule: 'limits.gpu', limit: 0 });
    }
  });

  it('is told of again and again, from the first look on, or is not held', () => {
    const watch = createGpuWatch(BOUNDS);
    expect([5_000, 14_999, 15_000].map((nowMs) => ruleAt(watch, nowMs))).toEqual([null, null, 'on.telemetry.lost']);
    watch.note(told({}), 20_000);
    expect([29_999, 30_000].map((nowMs) => ruleAt(watch, nowMs))).toEqual([null, 'on.telemetry.lost']);
  });

  it('is not told of by news that nothing could be read', () => {
    const watch = createGpuWatch(BOUNDS);
    watch.note(told({}), 0);
    watch.note(told({ busyMs: null, memoryBytes: 9_999 }), 9_000);
    expect([9_999, 10_000].map((nowMs) => ruleAt(watch, nowMs))).toEqual([null, 'on.telemetry.lost']);
  });

  it('may stay untold where the profile says so, or without a GPU', () => {
    for (const bounds of [{ ...BOUNDS, silentMsMax: null }, null]) {
      const watch = createGpuWatch(bounds);
      expect([0, 1e9].map((nowMs) => ruleAt(watch, nowMs))).toEqual([null, null]);
    }
  });

  it('is held to other bounds from the moment they are given', () => {
    const watch = createGpuWatch({ ...BOUNDS, memoryBytesMax: null });
    watch.note(told({ memoryBytes: 5_000 }), 0);
    expect(watch.breach(0)).toBeNull();
    watch.change(BOUNDS);
    expect(ruleAt(watch, 0)).toBe('limits.gpu.memory');
  });
});
