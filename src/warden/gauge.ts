import type { Usage } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { onlyLeafOf } from '../meter/layout.ts';
import { readLimits } from '../meter/limits.ts';
import { READING_NONE } from '../meter/meter.ts';
import type { CgroupReading, Meter } from '../meter/meter.ts';
import type { RunTraffic } from '../meter/traffic.ts';

/** What a run has used, put together from its cgroup, the fence's counters and the warden's own count of denials. */
export type Gauge = {
  /** Reads what decides, and now and then the rest. */
  refresh(at: {
    readonly nowMs: number;
    readonly wallMs: number;
    readonly denials: number;
    /** Something happened: what the kernel counts of it is read now. */
    readonly whole?: boolean;
    /** The run is over, so what is read now stays. */
    readonly last?: boolean;
  }): void;
  readonly reading: CgroupReading;
  readonly usage: Usage;
  /** From the container's own cgroup; 0 and null until it is known. */
  readonly memoryBytesMax: number;
  readonly cpuMillisMax: number | null;
  openLeaf(paths: CgroupPaths): void;
  /**
   * The engine's word that the container runs comes some milliseconds late, and an agent that fails at once would take
   * with it the counters that only its own cgroup has (on v1: refused processes and OOM kills). True when it is there.
   */
  openOnlyLeaf(parent: CgroupPaths): boolean;
  /** What the driver told of the run's devices. */
  noteGpu(told: { readonly busyMs: number; readonly memoryBytes: number }): void;
};

type GpuUsage = Pick<Usage, 'gpuMs' | 'gpuMemoryBytes' | 'gpuMemoryBytesPeak'>;

/**
 * What decides nothing while nothing happens (peaks, refusals, throttling), and the file cache that reclaim would drop,
 * which moves slowly and costs more to read than all the rest.
 */
const SLOW_EVERY_MS = 5_000;
/** The counters of all runs are read in one go, and shared for a while. */
const TRAFFIC_AGE_MS = 100;
/** The last reading is a new one, shared only by the runs that end in the same turn of the loop. */
const TRAFFIC_LAST_AGE_MS = 0.001;
export function createGauge(
  meter: Meter,
  traffic: (at: { readonly nowMs: number; readonly ageMsMax: number }) => RunTraffic,
): Gauge {
  let reading = READING_NONE;
  let usage = USAGE_NONE;
  let gpu: GpuUsage = { gpuMs: null, gpuMemoryBytes: null, gpuMemoryBytesPeak: null };
  let memoryBytesMax = 0;
  let leafPids: string | null = null;
  let cpuMillisMax: number | null = null;
  let inactiveBytes = 0;
  let slowAtMs = Number.NEGATIVE_INFINITY;
  /** Where no event tells of an OOM kill, it is looked for every time. */
  const eventsTell = (): boolean => meter.events().some(({ about }) => about === 'memory');
  // Opened once, when it is first seen; its limits are read again when the engine says that it is complete.
  const openLeaf = (paths: CgroupPaths): void => {
    if (leafPids !== paths.pids) meter.openLeaf(paths);
    leafPids = paths.pids;
    const held = readLimits(paths);
    if (typeof held.memoryBytesMax === 'number') memoryBytesMax = held.memoryBytesMax;
    if (typeof held.cpuMillis === 'number') cpuMillisMax = held.cpuMillis;
  };
  return {
    get reading() {
      return reading;
    },
    get usage() {
      return usage;
    },
    get memoryBytesMax() {
      return memoryBytesMax;
    },
    get cpuMillisMax() {
      return cpuMillisMax;
    },
    openLeaf,
    openOnlyLeaf: (parent) => {
      const leaf = onlyLeafOf(parent);
      if (leaf !== null) openLeaf(leaf);
      return leaf !== null;
    },
    noteGpu: ({ busyMs, memoryBytes }) => {
      gpu = {
        // A reader that starts again may know less for a moment than was told before.
        gpuMs: tenths(Math.max(gpu.gpuMs ?? 0, busyMs)),
        gpuMemoryBytes: memoryBytes,
        gpuMemoryBytesPeak: Math.max(gpu.gpuMemoryBytesPeak ?? 0, memoryBytes),
      };
      usage = { ...usage, ...gpu };
    },
    refresh: ({ nowMs, wallMs, denials, last = false, whole = false }) => {
      const slowDue = nowMs - slowAtMs >= SLOW_EVERY_MS;
      reading = last || whole || slowDue || !eventsTell() ? meter.read() : meter.readMoving();
      if (slowDue) {
        slowAtMs = nowMs;
        inactiveBytes = meter.readSlow().inactiveFileBytes;
      }
      const { egressBytes, ingressBytes, connections } = traffic({
        nowMs,
        ageMsMax: last ? TRAFFIC_LAST_AGE_MS : TRAFFIC_AGE_MS,
      });
      usage = {
        wallMs: tenths(wallMs),
        cpuMs: tenths(reading.cpuMs),
        cpuThrottledMs: tenths(reading.cpuThrottledMs),
        memoryBytes: Math.max(0, reading.memoryBytes - inactiveBytes),
        memoryBytesPeak: reading.memoryBytesPeak,
        pids: reading.pids,
        pidsPeak: reading.pidsPeak,
        diskBytes: null,
        mountBytes: {},
        diskFull: [],
        // The fence forgets a run before the last report of it; what it counted stays.
        egressBytes: Math.max(usage.egressBytes, egressBytes),
        ingressBytes: Math.max(usage.ingressBytes, ingressBytes),
        connections: Math.max(usage.connections, connections),
        denials,
        oomKills: reading.oomKills,
        pidsRefusals: reading.pidsRefusals,
        ...gpu,
      };
    },
  };
}

const REPORT_MS = 1_000;
/** An agent that does nothing is told of now and then: hundreds of them wait for a model most of the time. */
const REPORT_SAME_MS = 5_000;

/** How long the use of a run may go unreported, by what was reported last. Time passes for every run alike. */
export function reportEveryMs(reported: Usage, now: Usage): number {
  return MOVING.some((key) => reported[key] !== now[key]) ? REPORT_MS : REPORT_SAME_MS;
}

const MOVING = [
  'cpuMs',
  'memoryBytes',
  'pids',
  'egressBytes',
  'ingressBytes',
  'connections',
  'gpuMs',
  'gpuMemoryBytes',
] as const satisfies readonly (keyof Usage)[];

/** A tenth of a millisecond is as exact as anything here can be. */
export function tenths(ms: number): number {
  return Math.round(ms * 10) / 10;
}
