import type { GpuDevice, GpuProcess, GpuReading } from '../core/ports/gpu.ts';

/**
 * GPU-seconds out of utilisation. A sample says how busy a process kept a device from one moment to another; the sum of
 * those times is what a run has used. Each moment of a device counts once for a run, however many of its processes or
 * samples speak of it, and never for more than has passed. Pure.
 *
 * Where a device does not tell processes apart, all of its work counts for each run that is on it; where it tells
 * nothing (a slice), being on it counts as work. A time that nobody measured counts with the busier of its two ends.
 */
export type GpuUse = {
  readonly busyMs: number;
  readonly memoryBytes: number;
  readonly hostMemoryBytes: number;
  /** Of the busiest of its devices since the reading before; what the pattern of misuse is made of. */
  readonly percent: number;
};

export type GpuMeterState = {
  readonly devices: ReadonlyMap<string, DeviceState>;
  readonly runs: ReadonlyMap<string, GpuUse>;
};

type DeviceState = {
  readonly atMs: number;
  /** Up to when its samples have been counted, in the driver's microseconds. */
  readonly lastUs: number;
  readonly sampledAtMs: number;
  readonly percentByRun: ReadonlyMap<string, number>;
};

const NO_USE: GpuUse = { busyMs: 0, memoryBytes: 0, hostMemoryBytes: 0, percent: 0 };

export const GPU_METER_NONE: GpuMeterState = { devices: new Map(), runs: new Map() };

/** Samples reach back for a second; a longer time between two readings has a part that nobody measured. */
const GAP_MS = 1_500;
/** How far a sample may reach back beyond the reading before it. */
const SAMPLE_LATE_MS = 1_000;
const CLOCK_BACK_US = 5_000_000;

export function integrate(state: GpuMeterState, reading: GpuReading): GpuMeterState {
  const devices = new Map<string, DeviceState>();
  const runs = new Map<string, GpuUse>(
    [...state.runs].map(([runId, use]) => [runId, { ...NO_USE, busyMs: use.busyMs }]),
  );
  for (const device of reading.devices) {
    const before = state.devices.get(device.uuid);
    if (device.problem !== null) {
      // Its time goes on unread, and counts as a gap when it can be read again.
      if (before !== undefined) devices.set(device.uuid, before);
      continue;
    }
    const found = readDevice(device, before, reading.atMs);
    devices.set(device.uuid, found.state);
    for (const [runId, use] of found.uses) {
      const sum = runs.get(runId) ?? NO_USE;
      runs.set(runId, plus(sum, use));
    }
  }
  return { devices, runs };
}

function plus(one: GpuUse, other: GpuUse): GpuUse {
  return {
    busyMs: one.busyMs + other.busyMs,
    memoryBytes: one.memoryBytes + other.memoryBytes,
    hostMemoryBytes: one.hostMemoryBytes + other.hostMemoryBytes,
    percent: Math.max(one.percent, other.percent),
  };
}

/** Over all of its meters: each source counts its own devices. */
export function usedBy(meters: Iterable<GpuMeterState>, runId: string): GpuUse {
  let sum: GpuUse = NO_USE;
  for (const { runs } of meters) {
    const use = runs.get(runId) ?? NO_USE;
    sum = plus(sum, use);
  }
  return sum;
}

/** What a run had used before this meter began: a daemon that starts again counts on. */
export function withUsed(state: GpuMeterState, runId: string, busyMs: number): GpuMeterState {
  const use = state.runs.get(runId) ?? NO_USE;
  return { ...state, runs: new Map([...state.runs, [runId, { ...use, busyMs: use.busyMs + busyMs }]]) };
}

export function withoutRun(state: GpuMeterState, runId: string): GpuMeterState {
  return { ...state, runs: new Map([...state.runs].filter(([other]) => other !== runId)) };
}

function readDevice(
  device: GpuDevice,
  before: DeviceState | undefined,
  atMs: number,
): { readonly state: DeviceState; readonly uses: ReadonlyMap<string, GpuUse> } {
  const passedMs = before === undefined ? 0 : Math.max(0, atMs - before.atMs);
  const fromUs = beginOf(device, before?.lastUs ?? 0);
  const untilUs = newestOf(device, fromUs);
  const sampledAtMs = untilUs > fromUs ? atMs : (before?.sampledAtMs ?? atMs);
  const mostMs = before === undefined ? 0 : atMs - before.sampledAtMs + SAMPLE_LATE_MS;
  const uses = new Map<string, GpuUse>();
  const percentByRun = new Map<string, number>();
  for (const [runId, processes] of byRun(device.processes)) {
    const earlier = before?.percentByRun.get(runId);
    const found = device.tellsProcesses
      ? sampled(processes, { fromUs, untilUs, deviceMax: device.percent ?? 100 })
      : onDevice(device, earlier === undefined ? 0 : passedMs);
    // Between two samples of the driver the last one stands.
    const isQuiet = device.tellsProcesses && untilUs === fromUs && atMs - sampledAtMs < GAP_MS;
    const percent = isQuiet ? (earlier ?? 0) : found.percent;
    const isGap = passedMs > GAP_MS && earlier !== undefined;
    const busyMs = isGap ? (Math.max(earlier, percent) / 100) * passedMs : Math.min(found.busyMs, mostMs);
    percentByRun.set(runId, percent);
    const hostMemoryBytes = processes.reduce((sum, process) => sum + process.hostMemoryBytes, 0);
    uses.set(runId, { busyMs, memoryBytes: memoryOf(device, processes), hostMemoryBytes, percent });
  }
  return { state: { atMs, lastUs: untilUs, sampledAtMs, percentByRun }, uses };
}

/** Where the last reading ended; a clock that was set back by much begins anew. */
function beginOf({ sinceUs }: GpuDevice, lastUs: number): number {
  return lastUs > sinceUs + CLOCK_BACK_US ? sinceUs : Math.max(lastUs, sinceUs);
}

function onDevice({ percent }: GpuDevice, passedMs: number): { readonly busyMs: number; readonly percent: number } {
  const share = percent ?? 100;
  return { busyMs: (share / 100) * passedMs, percent: share };
}

function byRun(processes: readonly GpuProcess[]): ReadonlyMap<string, readonly GpuProcess[]> {
  const runs = new Map<string, GpuProcess[]>();
  for (const process of processes) {
    if (process.runId === null) continue;
    runs.set(process.runId, [...(runs.get(process.runId) ?? []), process]);
  }
  return runs;
}

function newestOf(device: GpuDevice, fromUs: number): number {
  const stamps = device.processes.flatMap(({ samples }) => samples.map(({ atUs }) => atUs));
  return Math.max(fromUs, ...stamps);
}

/** Each sample from the one before it of the same process, the first from where the last reading ended. */
function sampled(
  processes: readonly GpuProcess[],
  span: { readonly fromUs: number; readonly untilUs: number; readonly deviceMax: number },
): { readonly busyMs: number; readonly percent: number } {
  const { fromUs, untilUs, deviceMax } = span;
  let busyUs = 0;
  for (const { samples } of processes) {
    let from = fromUs;
    for (const { atUs, percent } of samples.toSorted((a, b) => a.atUs - b.atUs)) {
      if (atUs <= from) continue;
      // Drivers have been seen to tell absurd shares; then the device's own is as much as it can be.
      busyUs += ((atUs - from) * (percent > 100 ? deviceMax : percent)) / 100;
      from = atUs;
    }
  }
  const spanUs = untilUs - fromUs;
  const busy = Math.min(busyUs, spanUs);
  return { busyMs: busy / 1000, percent: spanUs === 0 ? 0 : (busy / spanUs) * 100 };
}

/** Where the driver does not know what a process holds, it may be all that is held. */
function memoryOf(device: GpuDevice, processes: readonly GpuProcess[]): number {
  if (processes.some(({ memoryBytes }) => memoryBytes === null)) return device.memoryBytesUsed;
  return processes.reduce((sum, { memoryBytes }) => sum + (memoryBytes ?? 0), 0);
}
