import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { GpuDevice, GpuProcess, GpuReading } from '../core/ports/gpu.ts';
import { GPU_METER_NONE, integrate, usedBy, withoutRun, withUsed } from './integrate.ts';

const RUN = 'r000000000001';
const OTHER = 'r000000000002';
const CARD = 'GPU-1';
/** The driver's clock at the moment 0 of the tests. */
const EPOCH_US = 1_790_000_000_000_000;
const us = (ms: number): number => EPOCH_US + ms * 1000;

function deviceAt(ms: number, changes: Partial<GpuDevice>): GpuDevice {
  return {
    uuid: CARD,
    name: 'Card',
    vendor: 'nvidia',
    driver: 'nvidia',
    withheld: null,
    nodes: [],
    pciAddress: '0000:3b:00.0',
    parentUuid: null,
    migProfile: null,
    mig: 'off',
    memoryBytes: 1_000,
    memoryBytesUsed: 600,
    percent: 50,
    tellsProcesses: true,
    sinceUs: us(ms - 1_000),
    processes: [],
    problem: null,
    ...changes,
  };
}

function reading(ms: number, ...devices: readonly Partial<GpuDevice>[]): GpuReading {
  return { atMs: ms, source: 'nvml', versions: [], devices: devices.map((each) => deviceAt(ms, each)) };
}

/** `[500, 40]`: 40 % busy until the moment 500. */
function process(runId: string | null, samples: readonly (readonly [number, number])[], pid = 7): GpuProcess {
  return {
    pid,
    startTicks: 1,
    runId,
    memoryBytes: 100,
    hostMemoryBytes: 0,
    samples: samples.map(([ms, percent]) => ({ atUs: us(ms), percent })),
  };
}

function busyMs(readings: readonly GpuReading[], runId = RUN): number {
  return readings.reduce(integrate, GPU_METER_NONE).runs.get(runId)?.busyMs ?? 0;
}

const IDLE = reading(0, {});

describe('GPU-seconds', () => {
  it('are the utilisation over the time of each sample', () => {
    const readings = [
      IDLE,
      reading(500, { sinceUs: us(0), processes: [process(RUN, [[400, 50]])] }),
      reading(1_000, {
        sinceUs: us(400),
        processes: [
          process(RUN, [
            [600, 100],
            [900, 10],
          ]),
        ],
      }),
    ];
    expect(busyMs(readings)).toBeCloseTo(400 * 0.5 + 200 + 300 * 0.1);
  });

  it('count a sample that reaches back beyond the reading before it whole', () => {
    const quiet = [200, 400, 600, 800].map((ms) => reading(ms, { sinceUs: us(0), processes: [process(RUN, [])] }));
    expect(
      busyMs([IDLE, ...quiet, reading(1_000, { sinceUs: us(0), processes: [process(RUN, [[950, 80]])] })]),
    ).toBeCloseTo(760);
  });

  it('count no sample twice', () => {
    const same = { sinceUs: us(0), processes: [process(RUN, [[400, 50]])] };
    expect(busyMs([IDLE, reading(500, same), reading(700, same), reading(900, same)])).toBeCloseTo(200);
  });

  it('count nothing of the time before the device was seen', () => {
    expect(busyMs([reading(500, { sinceUs: us(-500), processes: [process(RUN, [[400, 50]])] })])).toBe(0);
  });

  it('are never more than the time for all processes of a run together, and each run has its own', () => {
    const both = [process(RUN, [[400, 90]], 7), process(RUN, [[400, 90]], 8), process(OTHER, [[400, 20]], 9)];
    const readings = [IDLE, reading(400, { sinceUs: us(0), processes: both })];
    expect(busyMs(readings)).toBeCloseTo(400);
    expect(busyMs(readings, OTHER)).toBeCloseTo(80);
  });

  it('add up over devices', () => {
    const worked = { sinceUs: us(0), processes: [process(RUN, [[400, 50]])] };
    const readings = [reading(0, {}, { uuid: 'GPU-2' }), reading(400, worked, { ...worked, uuid: 'GPU-2' })];
    expect(busyMs(readings)).toBeCloseTo(400);
  });

  it('take the share of the device for one that cannot be', () => {
    const absurd = [process(RUN, [[400, 4_000]])];
    expect(busyMs([IDLE, reading(400, { sinceUs: us(0), percent: 30, processes: absurd })])).toBeCloseTo(120);
  });

  it('count all work of a device that does not tell processes apart, and being there on one that tells nothing', () => {
    const there = { tellsProcesses: false, processes: [process(RUN, [])] };
    const blind = (percent: number | null) => [200, 400, 600].map((ms) => reading(ms, { ...there, percent }));
    expect(busyMs(blind(25))).toBeCloseTo(100);
    expect(busyMs(blind(null))).toBeCloseTo(400);
    expect(busyMs([200, 400].map((ms) => reading(ms, { tellsProcesses: false, percent: null })))).toBe(0);
  });

  it('count a time that nobody measured with the busier of its ends', () => {
    const busy = reading(400, { sinceUs: us(0), processes: [process(RUN, [[400, 60]])] });
    const later = (percent: number) =>
      reading(5_400, { sinceUs: us(4_400), processes: [process(RUN, [[5_300, percent]])] });
    expect(busyMs([IDLE, busy, later(10)])).toBeCloseTo(240 + 3_000);
    expect(busyMs([IDLE, busy, later(90)])).toBeCloseTo(240 + 4_500);
    const broken = reading(2_000, { problem: 'lost' });
    expect(busyMs([IDLE, busy, broken, later(10)])).toBeCloseTo(240 + 3_000);
  });

  it('go on when the clock of the driver is set', () => {
    const hour = 3_600_000;
    const before = reading(400, { sinceUs: us(0), processes: [process(RUN, [[400, 50]])] });
    const back = reading(800, { sinceUs: us(400 - hour), processes: [process(RUN, [[800 - hour, 50]])] });
    expect(busyMs([IDLE, before, back])).toBeCloseTo(400);
    const ahead = reading(800, { sinceUs: us(hour), processes: [process(RUN, [[hour + 400, 50]])] });
    expect(busyMs([IDLE, before, ahead])).toBeCloseTo(400);
  });

  it('of processes of the host are nobody’s', () => {
    const state = integrate(
      integrate(GPU_METER_NONE, IDLE),
      reading(400, { sinceUs: us(0), processes: [process(null, [[400, 90]])] }),
    );
    expect([...state.runs]).toEqual([]);
  });

  it('count on from what an earlier daemon had counted, until the run is forgotten', () => {
    const worked = reading(400, { sinceUs: us(0), processes: [process(RUN, [[400, 50]])] });
    const state = integrate(integrate(withUsed(GPU_METER_NONE, RUN, 1_000), IDLE), worked);
    expect(state.runs.get(RUN)?.busyMs).toBeCloseTo(1_200);
    expect(withoutRun(state, RUN).runs.get(RUN)).toBeUndefined();
  });

  it('are at least nothing and at most the time, and never fall, for all samples', () => {
    const steps = fc.array(
      fc.record({
        passed: fc.integer({ min: 1, max: 1_400 }),
        shares: fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.integer({ min: 0, max: 120 })), {
          maxLength: 4,
        }),
        pid: fc.integer({ min: 1, max: 3 }),
      }),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(steps, (all) => {
        let state = integrate(GPU_METER_NONE, IDLE);
        let [nowMs, sinceMs, before] = [0, 0, 0];
        for (const { passed, shares, pid } of all) {
          nowMs += passed;
          const span = nowMs - sinceMs;
          const samples = shares.map(([share, percent]) => [sinceMs + share * span, percent] as const);
          state = integrate(state, reading(nowMs, { sinceUs: us(sinceMs), processes: [process(RUN, samples, pid)] }));
          sinceMs = Math.max(sinceMs, nowMs - 1_000, ...samples.map(([at]) => at));
          const used = state.runs.get(RUN)?.busyMs ?? 0;
          expect(used).toBeGreaterThanOrEqual(before);
          expect(used).toBeLessThanOrEqual(nowMs + 1e-6);
          before = used;
        }
      }),
    );
  });
});

describe('memory', () => {
  it('is that of all processes of a run, and all of the device where the driver does not know', () => {
    const both = [process(RUN, [], 7), process(RUN, [], 8), process(OTHER, [], 9)];
    const known = integrate(GPU_METER_NONE, reading(0, { processes: both }));
    expect([known.runs.get(RUN)?.memoryBytes, known.runs.get(OTHER)?.memoryBytes]).toEqual([200, 100]);
    const unknown = integrate(GPU_METER_NONE, reading(0, { processes: [{ ...process(RUN, []), memoryBytes: null }] }));
    expect(unknown.runs.get(RUN)?.memoryBytes).toBe(600);
  });

  it('of the host is summed over all processes and cards of a run', () => {
    const holding = (runId: string, hostMemoryBytes: number, pid: number): GpuProcess => ({
      ...process(runId, [], pid),
      hostMemoryBytes,
    });
    const state = integrate(
      GPU_METER_NONE,
      reading(
        0,
        { processes: [holding(RUN, 5, 7), holding(RUN, 30, 8), holding(OTHER, 1, 9)] },
        { uuid: 'GPU-2', processes: [holding(RUN, 700, 7)] },
      ),
    );
    expect([RUN, OTHER].map((runId) => usedBy([state, state], runId).hostMemoryBytes)).toEqual([1_470, 2]);
  });

  it('is gone when the processes are', () => {
    const busy = { ...process(RUN, []), hostMemoryBytes: 9 };
    const state = [reading(0, { processes: [busy] }), reading(200, {})].reduce(integrate, GPU_METER_NONE);
    expect(state.runs.get(RUN)).toMatchObject({ memoryBytes: 0, hostMemoryBytes: 0 });
  });
});
