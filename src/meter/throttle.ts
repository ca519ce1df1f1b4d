import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isGone } from './counters.ts';

/**
 * The CPU of a whole run lowered at its parent cgroup, beside the limit that its container has. A v1 kernel refuses a
 * parent less than a child has, so there the cgroups below it are lowered first and raised last.
 */
export type CpuThrottle = {
  /** As read back from the kernel. */
  readonly cpuMillis: number;
  /**
   * Lowers it again where somebody else has raised it: systemd puts back what it knows of a slice whenever it reloads.
   * False when the kernel does not hold the run to it any more.
   */
  keep(): boolean;
  /** Puts back what was found. */
  lift(): void;
};

const QUOTA_US_MIN = 1_000;
const PERIOD_US = 100_000;
/** The container, and what an engine may have made in it. */
const DEPTH_MAX = 4;

/** Whether the kernel can lower the CPU of a cgroup at all. */
export function canThrottle(directory: string): boolean {
  return existsSync(join(directory, 'cpu.cfs_quota_us')) || existsSync(join(directory, 'cpu.max'));
}

/**
 * Null when the kernel does not hold the run to it afterwards. A parent that has a quota already got it from a warden
 * before this one, and keeps it: lowering it again from what was lowered before would strangle the run.
 */
export function throttleCpu(directory: string, cpuMillis: number): CpuThrottle | null {
  const isV1 = existsSync(join(directory, 'cpu.cfs_quota_us'));
  const held = heldMillis(directory, isV1);
  const changes = held === null ? lower(directory, { cpuMillis, isV1 }) : [];
  const now = heldMillis(directory, isV1);
  const lift = (): void => {
    // The other way round: a child may not have more than its parent.
    for (const { file, before } of changes.toReversed()) tryWrite(file, before);
  };
  if (now !== null && (held !== null || now <= Math.max(cpuMillis, QUOTA_MILLIS_MIN))) {
    const keep = (): boolean => {
      if (!existsSync(directory) || heldMillis(directory, isV1) !== null) return true;
      lower(directory, { cpuMillis: now, isV1 });
      return heldMillis(directory, isV1) !== null;
    };
    return { cpuMillis: now, keep, lift };
  }
  lift();
  return null;
}

const QUOTA_MILLIS_MIN = (QUOTA_US_MIN / PERIOD_US) * 1000;

type Change = { readonly file: string; readonly before: string };

function lower(directory: string, to: { readonly cpuMillis: number; readonly isV1: boolean }): readonly Change[] {
  if (!to.isV1) {
    const change = { file: join(directory, 'cpu.max'), before: 'max' };
    return tryWrite(change.file, `${quotaOf(to.cpuMillis, PERIOD_US)} ${PERIOD_US}`) ? [change] : [];
  }
  const changes: Change[] = [];
  for (const place of deepestFirst(directory, 0)) {
    const file = join(place, 'cpu.cfs_quota_us');
    const before = readText(file);
    const quota = quotaOf(to.cpuMillis, Number(readText(join(place, 'cpu.cfs_period_us')) ?? PERIOD_US));
    if (before === null || (Number(before) > 0 && Number(before) <= quota)) continue;
    if (tryWrite(file, String(quota))) changes.push({ file, before });
  }
  return changes;
}

function quotaOf(cpuMillis: number, periodUs: number): number {
  return Math.max(QUOTA_US_MIN, Math.floor((cpuMillis * periodUs) / 1000));
}

/** Null: the cgroup itself has no quota, or is gone. */
function heldMillis(directory: string, isV1: boolean): number | null {
  const text = isV1
    ? `${readText(join(directory, 'cpu.cfs_quota_us'))} ${readText(join(directory, 'cpu.cfs_period_us'))}`
    : (readText(join(directory, 'cpu.max')) ?? '');
  const [quota, period] = text.split(' ').map(Number);
  if (quota === undefined || period === undefined || !(quota > 0) || !(period > 0)) return null;
  return (quota / period) * 1000;
}

function deepestFirst(directory: string, depth: number): readonly string[] {
  if (depth >= DEPTH_MAX) return [directory];
  return [...foldersIn(directory).flatMap((name) => deepestFirst(join(directory, name), depth + 1)), directory];
}

function foldersIn(directory: string): readonly string[] {
  try {
    const entries = readdirSync(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, 'latin1').trim();
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** What the kernel refuses is seen when it is read back. */
function tryWrite(file: string, text: string): boolean {
  try {
    if (!existsSync(file)) return false;
    writeFileSync(file, text);
    return true;
  } catch {
    return false;
  }
}
