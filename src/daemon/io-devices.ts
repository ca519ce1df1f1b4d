import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { readFile, realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Rung } from '../core/outcome.ts';
import type { ContainerPlan, EngineFacts } from '../core/ports/engine.ts';
import { detectLayout } from '../meter/layout.ts';
import { locate, parseMountInfo, type Location } from '../run/mountinfo.ts';

/**
 * Which disks a run reaches, and what holds a rate on them. The root and what is read from the image come from the disk
 * of the engine; a mount from its own; what is in memory from none.
 *
 * With cgroup v2 the kernel knows whose data a flusher writes back. With v1 it does not: reads and direct writes are held
 * there, writes through the page cache are not, so a run that can write to a disk has no bound that holds.
 */
export type IoHold = {
  /** What the engine is asked for; null where no part of it can be held. */
  readonly plan: ContainerPlan['io'];
  readonly rung: Rung;
  /** Why it is not held, for who reads the refusal; null when it is. */
  readonly why: string | null;
};

export type IoQuestion = {
  readonly bytesPerSecond: number;
  readonly engine: Pick<EngineFacts, 'rootDirectory'>;
  readonly mounts: readonly { readonly location: Location; readonly mode: 'ro' | 'rw' }[];
};

/** Stands for a disk that will be made for the run, and that can be limited. */
export const FUTURE_DEVICE = 'future';

const CONTAINERD_ROOT = '/var/lib/containerd';
/** Filesystems without a disk below them. */
const IN_MEMORY = new Set(['tmpfs', 'ramfs']);
/** These tell the kernel whose data is written back (SB_I_CGROUPWB). */
const WRITEBACK_IS_COUNTED = new Set(['ext2', 'ext4', 'f2fs', 'xfs']);

export async function holdIo(question: IoQuestion): Promise<IoHold> {
  const version = ioVersion();
  if (version === null) return unheld('no cgroup controller of this host limits disks (blkio, or io on cgroup v2)');
  const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  const roots = await Promise.all(
    [question.engine.rootDirectory, CONTAINERD_ROOT].map((path) => realpath(path).catch(() => null)),
  );
  const places = [
    ...roots.flatMap((path) => (path === null ? [] : [locate(mounts, path)])),
    ...question.mounts.map(({ location }) => location),
  ];
  const devices = new Map<string, string>();
  for (const place of places) {
    if (place === null || IN_MEMORY.has(place.type) || place.device === FUTURE_DEVICE) continue;
    const disk = diskOf(place.device);
    if (disk === null) return unheld(`a ${place.type} filesystem that the run reads has no disk that can be limited`);
    devices.set(disk.device, disk.path);
  }
  const plan = {
    bytesPerSecond: question.bytesPerSecond,
    devices: [...devices].map(([device, path]) => ({ device, path })),
  };
  const written = question.mounts.filter(({ mode, location }) => mode === 'rw' && !IN_MEMORY.has(location.type));
  const uncounted = written.find(({ location }) => version === 1 || !WRITEBACK_IS_COUNTED.has(location.type));
  if (uncounted === undefined) return { plan, rung: 'kernel', why: null };
  const why =
    version === 1
      ? 'cgroup v1 does not hold what is written through the page cache, and a mount of this profile is rw'
      : `what is written to a ${uncounted.location.type} filesystem through the page cache is not held`;
  return { plan, rung: 'none', why };
}

function unheld(why: string): IoHold {
  return { plan: null, rung: 'none', why };
}

/** The version of the controller that limits disks on this host, or null. */
export function ioVersion(): 1 | 2 | null {
  const layout = detectLayout();
  if (layout.version === 1) {
    const mount = layout.byController.get('blkio');
    return mount !== undefined && existsSync(join(mount, 'blkio.throttle.read_bps_device')) ? 1 : null;
  }
  const controllers = readFileSync(join(layout.mounts.cpu, 'cgroup.controllers'), 'utf8').trim().split(' ');
  return controllers.includes('io') ? 2 : null;
}

type Disk = { readonly device: string; readonly path: string };

/** The whole disk of a filesystem, since a part of one cannot be limited; null where there is none, as for btrfs. */
function diskOf(device: string): Disk | null {
  const link = `/sys/dev/block/${device}`;
  if (!existsSync(link)) return null;
  const folder = realpathSync(link);
  const whole = existsSync(join(folder, 'partition')) ? dirname(folder) : folder;
  const number = readFileSync(join(whole, 'dev'), 'utf8').trim();
  const path = `/dev/${basename(whole).replaceAll('!', '/')}`;
  const node = statSync(path, { throwIfNoEntry: false });
  return node?.isBlockDevice() === true ? { device: number, path } : null;
}
