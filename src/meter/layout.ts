import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { fail } from '../core/errors.ts';
import type { CgroupPaths } from '../core/ports/warden.ts';

/** Where the hierarchies of this host are mounted. `directories`: every one of them, for making and removing. */
export type CgroupLayout = {
  readonly version: 1 | 2;
  readonly mounts: CgroupPaths;
  readonly directories: readonly string[];
  /** Controllers (or `name=systemd`) to the place of their mount, as /proc/PID/cgroup names them; `''` is v2. */
  readonly byController: ReadonlyMap<string, string>;
};

export function detectLayout(): CgroupLayout {
  return layoutFrom(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/** From the text of /proc/self/mountinfo. The first mount of a hierarchy counts; later ones are bind mounts of it. */
export function layoutFrom(mountinfo: string): CgroupLayout {
  const byController = new Map<string, string>();
  const directories: string[] = [];
  for (const line of mountinfo.split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const [, , , root, directory] = before.split(' ');
    const [type, , superOptions = ''] = after.split(' ');
    if (root !== '/' || directory === undefined) continue;
    if (type === 'cgroup2' && !byController.has('')) {
      byController.set('', directory);
      directories.push(directory);
    }
    if (type !== 'cgroup') continue;
    const controllers = superOptions.split(',').filter((option) => !GENERIC_OPTIONS.has(option));
    const fresh = controllers.filter((controller) => !byController.has(controller));
    for (const controller of fresh) byController.set(controller, directory);
    if (fresh.length > 0) directories.push(directory);
  }
  const unified = byController.get('') ?? null;
  const v1 = ['cpu', 'cpuacct', 'memory', 'pids'].map((controller) => byController.get(controller));
  const [cpu, cpuacct, memory, pids] = v1;
  if (cpu !== undefined && cpuacct !== undefined && memory !== undefined && pids !== undefined) {
    const freezer = byController.get('freezer') ?? null;
    return { version: 1, mounts: { cpu, cpuacct, memory, pids, freezer, unified }, directories, byController };
  }
  if (unified !== null && v1.every((mount) => mount === undefined)) {
    const mounts = { cpu: unified, cpuacct: unified, memory: unified, pids: unified, freezer: null, unified };
    return { version: 2, mounts, directories, byController };
  }
  throw fail('METER_FAILED', {
    detail: 'the cgroup controllers cpu, cpuacct, memory and pids are neither all mounted as v1 nor all left to v2',
    mounted: [...byController.keys()],
  });
}

const GENERIC_OPTIONS: ReadonlySet<string> = new Set(['rw', 'ro', 'xattr', 'clone_children', 'noprefix']);

/** The cgroups that a process is in, below the mounts of this layout. Throws METER_FAILED when it is gone. */
export function leafPathsOf(pid: number, layout: CgroupLayout = detectLayout()): CgroupPaths {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  } catch (cause) {
    throw fail('METER_FAILED', { detail: `process ${pid} is gone, so its cgroup cannot be found`, pid }, { cause });
  }
  return leafPathsFrom(text, layout);
}

export function leafPathsFrom(procCgroup: string, layout: CgroupLayout): CgroupPaths {
  const paths = new Map<string, string>();
  for (const line of procCgroup.split('\n')) {
    const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (match === null) continue;
    for (const controller of (match[1] ?? '').split(',')) paths.set(controller, match[2] ?? '/');
  }
  const below = (controller: string): string | null => {
    const mount = layout.byController.get(controller);
    const path = paths.get(controller);
    return mount === undefined || path === undefined ? null : join(mount, path);
  };
  const unified = below('');
  const needed = (controller: string): string => {
    const path = layout.version === 2 ? unified : below(controller);
    if (path === null) throw fail('METER_FAILED', { detail: `a process of the run is in no ${controller} cgroup` });
    return path;
  };
  return {
    cpu: needed('cpu'),
    cpuacct: needed('cpuacct'),
    memory: needed('memory'),
    pids: needed('pids'),
    freezer: layout.version === 2 ? null : below('freezer'),
    unified,
  };
}

const CGROUP_KILL_KERNEL = [5, 14] as const;

/** True where one write kills a whole tree: a v2 hierarchy, alone or beside v1, on Linux 5.14 or newer. */
export function hasCgroupKill(layout: CgroupLayout): boolean {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  const recent = major > CGROUP_KILL_KERNEL[0] || (major === CGROUP_KILL_KERNEL[0] && minor >= CGROUP_KILL_KERNEL[1]);
  return recent && layout.mounts.unified !== null && existsSync(layout.mounts.unified);
}

/** The cgroup of a run's container once the runtime has made all of it; null before, and when there is more than one. */
export function onlyLeafOf(parent: CgroupPaths): CgroupPaths | null {
  const names = namesOfFolders(parent.pids);
  const [name] = names;
  if (name === undefined || names.length > 1) return null;
  const below = (path: string | null): string | null => (path === null ? null : join(path, name));
  const leaf = {
    cpu: join(parent.cpu, name),
    cpuacct: join(parent.cpuacct, name),
    memory: join(parent.memory, name),
    pids: join(parent.pids, name),
    freezer: below(parent.freezer),
    unified: below(parent.unified),
  };
  return [leaf.cpu, leaf.cpuacct, leaf.memory, leaf.pids].every((path) => existsSync(path)) ? leaf : null;
}

function namesOfFolders(directory: string): readonly string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    // The run is over and its cgroup gone.
    return [];
  }
}
