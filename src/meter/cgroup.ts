import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '../core/assert.ts';
import { fail, messageOf } from '../core/errors.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { runProgram } from '../kernel/programs.ts';
import { isGone } from './counters.ts';
import { SOCKETS_V1 } from './limits.ts';
import { detectLayout } from './layout.ts';
import type { CgroupLayout } from './layout.ts';

/**
 * A cgroup for each run, made before its container and above it, so that the counters outlive the container and one
 * file kills everything of the run. The engine's driver decides its place: a directory below `ringfence`, or a slice
 * that systemd must make itself, because systemd removes what it does not know.
 */
export type CgroupDriver = 'cgroupfs' | 'systemd';

const TOP = 'ringfence';
const CONTAINER_ID = /^[0-9a-f]{64}$/;
const SYSTEMCTL_BOUNDS = { msMax: 10_000, charsMax: 64 * 1024 };
const REMOVE_MS_MAX = 5_000;
const REMOVE_TRY_MS = 10;
/** The container, and what an engine may have made in it. */
const DEPTH_MAX = 4;

/** What the container is created with as CgroupParent. */
export function cgroupParentOf(runId: string, driver: CgroupDriver): string {
  return driver === 'cgroupfs' ? `/${TOP}/${runId}` : `${TOP}-${runId}.slice`;
}

/** The run's parent cgroup in every hierarchy that is read. Making it again returns the same one. */
export async function makeRunCgroup(
  runId: string,
  driver: CgroupDriver,
  layout: CgroupLayout = detectLayout(),
): Promise<CgroupPaths> {
  assert(RUN_ID_PATTERN.test(runId), 'a run id is safe in a path and a unit name');
  const parent = cgroupParentOf(runId, driver);
  const paths = pathsBelow(layout, driver === 'cgroupfs' ? parent : join(`${TOP}.slice`, parent));
  try {
    if (driver === 'systemd') await startSlice(parent);
    // On v1 systemd joins only the hierarchies that it manages; the others are made here, in the same place.
    for (const directory of new Set(Object.values(paths))) if (directory !== null) makeDirectory(directory);
    if (layout.version === 2 && driver === 'cgroupfs')
      delegateControllers([layout.mounts.cpu, join(layout.mounts.cpu, TOP)]);
    if (layout.version === 2 && driver === 'systemd') refuseSwap(paths.memory);
  } catch (cause) {
    const detail = `the cgroup of run ${runId} cannot be made: ${messageOf(cause)}`;
    throw fail('METER_FAILED', { detail, runId }, { cause });
  }
  return paths;
}

/**
 * On v1 what an agent leaves in the buffers of its sockets counts against nothing until a limit is written, and runc has
 * not written any since 1.0: half a gigabyte beside 64 MiB of memory. It counts for sockets that are made afterwards, so the
 * container's cgroup is made before the container is started. Where systemd makes it, it is left alone.
 */
export function holdSockets(
  { memory }: CgroupPaths,
  {
    containerId,
    bytesMax,
    driver,
  }: { readonly containerId: string; readonly bytesMax: number; readonly driver: CgroupDriver },
): void {
  assert(CONTAINER_ID.test(containerId), 'a container id is safe in a path');
  if (driver === 'systemd' || !existsSync(join(memory, SOCKETS_V1))) return;
  const leaf = join(memory, containerId);
  try {
    mkdirSync(leaf, { recursive: true });
    writeFileSync(join(leaf, SOCKETS_V1), String(bytesMax));
  } catch (cause) {
    const detail = `the buffers of sockets cannot be bounded in ${leaf}: ${messageOf(cause)}`;
    throw fail('METER_FAILED', { detail }, { cause });
  }
}

/** Removes the run's cgroups in every hierarchy of the host. Throws METER_FAILED when processes are still in them. */
export async function removeRunCgroup(runId: string, layout: CgroupLayout = detectLayout()): Promise<void> {
  assert(RUN_ID_PATTERN.test(runId), 'a run id is safe in a path');
  const unit = cgroupParentOf(runId, 'systemd');
  const slices = layout.directories.map((mount) => join(mount, `${TOP}.slice`, unit));
  if (slices.some((slice) => existsSync(slice))) {
    await runProgram('systemctl', ['stop', unit], SYSTEMCTL_BOUNDS);
  }
  const directories = [...layout.directories.map((mount) => join(mount, TOP, runId)), ...slices];
  const deadline = performance.now() + REMOVE_MS_MAX;
  for (;;) {
    const left = directories.filter((directory) => !removeTree(directory, 0));
    if (left.length === 0) break;
    if (performance.now() > deadline) {
      throw fail('METER_FAILED', { detail: `the cgroup of run ${runId} is not empty: ${left.join(', ')}`, runId });
    }
    await delay(REMOVE_TRY_MS);
  }
  for (const mount of layout.directories) removeOne(join(mount, TOP));
}

/** Runs whose cgroups exist, for the collection of what a crash left. */
export function listRunCgroups(layout: CgroupLayout = detectLayout()): readonly string[] {
  const runIds = new Set<string>();
  for (const mount of layout.directories) {
    for (const name of namesIn(join(mount, TOP))) if (RUN_ID_PATTERN.test(name)) runIds.add(name);
    for (const name of namesIn(join(mount, `${TOP}.slice`))) {
      const runId = name.slice(`${TOP}-`.length, -'.slice'.length);
      if (name === cgroupParentOf(runId, 'systemd') && RUN_ID_PATTERN.test(runId)) runIds.add(runId);
    }
  }
  return [...runIds].toSorted();
}

/**
 * systemd must hear of the slice, or it removes it together with the container. It also puts back what it knows of each
 * unit whenever it reloads, and engines do not tell it that a container has no swap (runc before 1.2): so the slice
 * above says it, in words of systemd's own. With a weight, even the usual one, it has the files of the CPU controller
 * before there is a container, and can be throttled.
 */
async function startSlice(unit: string): Promise<void> {
  const limits = ['MemorySwapMax', 't', '0', 'CPUWeight', 't', '100'];
  const properties = [...limits, ...ACCOUNTING.flatMap((name) => [name, 'b', 'true'])];
  const count = String(properties.length / 3);
  const call = ['StartTransientUnit', 'ssa(sv)a(sa(sv))', unit, 'fail', count, ...properties, '0'];
  // It answers before the slice is there, and refuses one that exists; the next line waits for either.
  await runProgram('busctl', ['call', '--quiet', ...MANAGER, ...call], SYSTEMCTL_BOUNDS);
  const started = await runProgram('systemctl', ['start', unit], SYSTEMCTL_BOUNDS);
  if (started.exitCode !== 0) throw new Error(`systemctl start ${unit} failed: ${started.stderr.trim()}`);
}

const ACCOUNTING = ['CPUAccounting', 'MemoryAccounting', 'TasksAccounting', 'IOAccounting'];
const MANAGER = ['org.freedesktop.systemd1', '/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager'];

/** Read back: only a kernel that counts no swap has no such file. */
function refuseSwap(directory: string): void {
  const file = join(directory, 'memory.swap.max');
  if (!existsSync(file) || readFileSync(file, 'latin1').trim() === '0') return;
  throw new Error('systemd does not hold its slice to no swap');
}

function pathsBelow(layout: CgroupLayout, path: string): CgroupPaths {
  const { cpu, cpuacct, memory, pids, freezer, unified } = layout.mounts;
  return {
    cpu: join(cpu, path),
    cpuacct: join(cpuacct, path),
    memory: join(memory, path),
    pids: join(pids, path),
    freezer: freezer === null ? null : join(freezer, path),
    unified: unified === null ? null : join(unified, path),
  };
}

/** Twice, because another run may remove the empty folder above between the two steps of a recursive mkdir. */
function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { recursive: true });
  } catch (error) {
    if (!isGone(error)) throw error;
    mkdirSync(directory, { recursive: true });
  }
}

/**
 * A v2 controller counts in a cgroup only when every cgroup above hands it down. Nothing is checked here: a controller
 * that is missing after this leaves no file to read, and then the meter refuses the run.
 */
function delegateControllers(directories: readonly string[]): void {
  for (const directory of directories) {
    for (const controller of ['cpu', 'memory', 'pids', 'io']) {
      try {
        writeFileSync(join(directory, 'cgroup.subtree_control'), `+${controller}`);
      } catch {
        // Refused one by one, so that a kernel without `io` still hands down the other three.
      }
    }
  }
}

/** True when nothing is left of it. Deepest first; a cgroup cannot be removed while anything is in it. */
function removeTree(directory: string, depth: number): boolean {
  if (depth < DEPTH_MAX) {
    for (const name of namesIn(directory)) removeTree(join(directory, name), depth + 1);
  }
  return removeOne(directory);
}

function removeOne(directory: string): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    return isGone(error);
  }
}

function namesIn(directory: string): string[] {
  try {
    const entries = readdirSync(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}
