import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { isGone } from './counters.ts';

/** A limit as the kernel holds it. `absent`: this kernel has no such file here, so nothing holds it. */
export type HeldLimit = number | 'unlimited' | 'absent';

export type HeldLimits = {
  readonly memoryBytesMax: HeldLimit;
  /** Memory and swap together, however the kernel splits them. Equal to `memoryBytesMax`: no swap. */
  readonly memorySwapBytesMax: HeldLimit;
  readonly cpuMillis: HeldLimit;
  readonly pidsMax: HeldLimit;
  /** Of buffers of sockets, where the kernel counts them apart from the rest (v1); otherwise they are memory like any. */
  readonly socketBytesMax: HeldLimit;
};

/** v1 writes its "no limit" as the largest multiple of a page; nobody has half of that. */
const UNLIMITED_BYTES_MIN = 2 ** 62;

/** What the kernel enforces on the container's own cgroup, to be compared with the plan after launch. */
export function readLimits(leaf: CgroupPaths): HeldLimits {
  const v2Memory = readLimit(leaf.memory, 'memory.max');
  if (v2Memory === 'absent') {
    return {
      memoryBytesMax: readLimit(leaf.memory, 'memory.limit_in_bytes'),
      memorySwapBytesMax: readLimit(leaf.memory, 'memory.memsw.limit_in_bytes'),
      cpuMillis: cpuMillisV1(leaf.cpu),
      pidsMax: readLimit(leaf.pids, 'pids.max'),
      socketBytesMax: readLimit(leaf.memory, SOCKETS_V1),
    };
  }
  return {
    memoryBytesMax: v2Memory,
    memorySwapBytesMax: sum(v2Memory, swapBytesMax(leaf.memory)),
    cpuMillis: cpuMillisV2(leaf.cpu),
    pidsMax: readLimit(leaf.pids, 'pids.max'),
    socketBytesMax: 'absent',
  };
}

/**
 * What the container's cgroup or the one above it allows, whichever is less: engines do not tell systemd of the swap, so its
 * next reload sets that free on the container's own, and the run's own cgroup holds it.
 */
function swapBytesMax(leaf: string): HeldLimit {
  const own = readLimit(leaf, 'memory.swap.max');
  const above = readLimit(dirname(leaf), 'memory.swap.max');
  if (typeof own !== 'number') return typeof above === 'number' ? above : own;
  return typeof above === 'number' ? Math.min(own, above) : own;
}

/** Before 2016 only TCP, hence the name; today every protocol whose memory the kernel counts. */
export const SOCKETS_V1 = 'memory.kmem.tcp.limit_in_bytes';

function cpuMillisV1(directory: string): HeldLimit {
  const quota = readText(directory, 'cpu.cfs_quota_us');
  const period = readText(directory, 'cpu.cfs_period_us');
  if (quota === null || period === null) return 'absent';
  return Number(quota) < 0 ? 'unlimited' : Math.round((Number(quota) / Number(period)) * 1000);
}

function cpuMillisV2(directory: string): HeldLimit {
  const text = readText(directory, 'cpu.max');
  if (text === null) return 'absent';
  const [quota, period] = text.split(' ');
  return quota === 'max' ? 'unlimited' : Math.round((Number(quota) / Number(period)) * 1000);
}

function sum(left: HeldLimit, right: HeldLimit): HeldLimit {
  if (left === 'absent' || right === 'absent') return 'absent';
  return left === 'unlimited' || right === 'unlimited' ? 'unlimited' : left + right;
}

function readLimit(directory: string, file: string): HeldLimit {
  const text = readText(directory, file);
  if (text === null) return 'absent';
  if (text === 'max' || Number(text) >= UNLIMITED_BYTES_MIN) return 'unlimited';
  return Number(text);
}

function readText(directory: string, file: string): string | null {
  try {
    return readFileSync(join(directory, file), 'latin1').trim();
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}
