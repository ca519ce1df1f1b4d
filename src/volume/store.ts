import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, realpath, rm, stat, statfs, writeFile } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { fail, messageOf } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import { formatBytes } from '../core/units.ts';
import { Turns } from '../core/turns.ts';
import { hostPathRefusal } from '../profile/mounts.ts';
import { locate, parseMountInfo, type Location } from '../run/mountinfo.ts';
import { fdPath, openFolder, refuseOther, refusal, statOfFolder } from './folder.ts';
import { findHands, type Hands } from './hands.ts';
import { growOrShrink, loopOf, makeImage, type Owner } from './image.ts';

/**
 * A mount with a size is a filesystem of that size: an image below the state folder, reserved on the host's disk when it
 * is made, and mounted over the folder of the host that the profile names. So the kernel holds the size (bytes and
 * files alike), and whoever looks into the folder sees what the agent wrote there.
 *
 *   no image ──first run──▶ mounted, used ◀──runs──▶ mounted, unused ──daemon stops──▶ unmounted
 *                                  ▲                                                       │
 *                                  └──────────────── daemon starts, or the next run ───────┘
 *
 * What is in it outlives runs, daemons and hosts. It is never mounted over a folder with something in it, which would
 * hide that; a folder is always reached by a descriptor of what was checked, never again by its path, because its owner
 * could exchange it for a link to a place of the host.
 */
export type VolumeRequest = {
  /** The folder without symlinks, as it was checked. */
  readonly realPath: string;
  readonly device: number;
  readonly inode: number;
  readonly sizeBytesMax: number;
};

/** The volume as it is mounted: what the agent must see at its mount. */
export type Volume = {
  readonly device: number;
  readonly inode: number;
  readonly location: Location;
  /** Its root by a descriptor, for statfs(2) while the run uses it. */
  readonly statPath: string;
};

type OpenVolume = Volume & {
  readonly root: FileHandle;
  /** What its image takes on the host: the size of the profile that made it, or made it another size. */
  readonly imageBytes: number;
  /** The folder below it. Who asked before it was mounted has seen that one. */
  readonly folderInode: number;
  readonly users: Set<string>;
};

type Recorded = { readonly folder: string; readonly inode: number };

const BLOCK_BYTES = 4096;
/** Less has no room for the tables of a filesystem. */
const SIZE_BYTES_MIN = 4 * 2 ** 20;
const RECORD_BYTES_MAX = 64 * 1024;

export class VolumeStore {
  private readonly directory: string;
  private readonly hands: Hands;
  private readonly turns = new Turns();
  private readonly volumes = new Map<string, OpenVolume>();

  private constructor(directory: string, hands: Hands) {
    this.directory = directory;
    this.hands = hands;
  }

  /** Takes over what is mounted and mounts the rest again where that is still safe; what is not stays unmounted. */
  static async open(options: {
    readonly directory: string;
    readonly log: Log;
    readonly hands?: Hands;
  }): Promise<VolumeStore> {
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    const store = new VolumeStore(await realpath(options.directory), options.hands ?? (await findHands()));
    for (const key of await store.keys()) {
      await store
        .restore(key)
        .catch((error: unknown) => options.log.warn({ volume: key, message: messageOf(error) }, 'volume not mounted'));
    }
    return store;
  }

  /** Throws what would stand in the way of `acquire`: MOUNT_REFUSED or HOST_CANNOT_ENFORCE. Makes nothing. */
  async check(request: VolumeRequest): Promise<void> {
    if (this.hands.kind === 'none') throw noHands(this.hands);
    const wanted = imageBytesOf(request);
    const key = keyOf(request.realPath);
    if ((await this.mounted(key, request)) === null) await ownerOf(request.realPath, null);
    await this.refuseSize(key, { wanted, folder: request.realPath });
  }

  /** The volume of this folder in this size, mounted. The run uses it until `release`. */
  acquire(runId: string, request: VolumeRequest): Promise<Volume> {
    const key = keyOf(request.realPath);
    return this.turns.take(key, async () => {
      const imageBytes = imageBytesOf(request);
      await this.refuseSize(key, { wanted: imageBytes, folder: request.realPath });
      const mounted = await this.mounted(key, request);
      if (mounted !== null && mounted.imageBytes === imageBytes) {
        mounted.users.add(runId);
        return mounted;
      }
      // The folder below is the one that was recorded when the volume was made over it.
      const inode = mounted?.folderInode ?? request.inode;
      const folder = request.realPath;
      if (mounted !== null) await this.unmount(key, mounted);
      try {
        const volume = await this.mount(key, { folder, inode, imageBytes });
        volume.users.add(runId);
        return volume;
      } catch (error) {
        // Another size failed: what is in it is shown as before.
        if (mounted !== null)
          await this.mount(key, { folder, inode, imageBytes: mounted.imageBytes }).catch(() => undefined);
        throw error;
      }
    });
  }

  /** The volume stays mounted, so that what the agent wrote is found in the folder. Idempotent. */
  async release(runId: string): Promise<void> {
    for (const volume of this.volumes.values()) volume.users.delete(runId);
  }

  /** Unmounts every volume that no run uses. Runs that outlive the daemon keep theirs. */
  async close(): Promise<void> {
    for (const [key, volume] of this.volumes) {
      if (volume.users.size === 0) await this.unmount(key, volume);
      else await volume.root.close();
    }
    this.volumes.clear();
  }

  /** The volume that is mounted where the folder is, or null. Anything else there was put there by somebody else. */
  private async mounted(key: string, request: VolumeRequest): Promise<OpenVolume | null> {
    const volume = this.volumes.get(key);
    if (volume === undefined) return null;
    const wasSeen = request.inode === volume.folderInode || request.device === volume.device;
    const now = await statOfFolder(request.realPath);
    if (wasSeen && now.dev === volume.device && now.ino === volume.inode) return volume;
    throw refusal(request.realPath, 'something else is there now than the volume that was mounted on it', null);
  }

  private async refuseSize(key: string, size: { readonly wanted: number; readonly folder: string }): Promise<void> {
    const { wanted, folder } = size;
    if (wanted < SIZE_BYTES_MIN) {
      const detail = `must be at least ${formatBytes(SIZE_BYTES_MIN)}, or there is no room for a filesystem`;
      throw fail('HOST_CANNOT_ENFORCE', { detail, hint: 'raise the size' });
    }
    const volume = this.volumes.get(key);
    const has = await sizeOf(this.image(key));
    if (has === wanted) return;
    if (volume !== undefined && volume.users.size > 0) {
      const why = `another run uses its volume, which has ${formatBytes(has)}`;
      throw refusal(folder, why, 'write the same size, or wait until that run is over');
    }
    const { bavail, bsize } = await statfs(this.directory);
    const free = bavail * bsize;
    if (wanted - has > free) {
      const detail = `must be at most ${formatBytes(has + free)}, what the disk of this host has left, got ${formatBytes(wanted)}`;
      throw fail('HOST_CANNOT_ENFORCE', { detail, hint: `free space below ${this.directory}, or write less` });
    }
    if (volume === undefined) return;
    const { blocks, bfree, bsize: unit } = await statfs(fdPath(volume.root));
    const used = (blocks - bfree) * unit;
    if (wanted < used) {
      const why = `it holds ${formatBytes(used)} already, more than the size of ${formatBytes(wanted)}`;
      throw refusal(folder, why, 'delete what is not needed in it, or write a larger size');
    }
  }

  private async mount(
    key: string,
    wanted: { readonly folder: string; readonly inode: number; readonly imageBytes: number },
  ): Promise<OpenVolume> {
    const { folder, inode, imageBytes } = wanted;
    const { hands } = this;
    if (hands.kind === 'none') throw noHands(hands);
    const owner = await ownerOf(folder, inode);
    const image = this.image(key);
    const has = await sizeOf(image);
    if (has === 0) {
      await makeImage({
        image,
        bytes: imageBytes,
        owner,
        dress: (draft) => hands.act({ act: 'dress', image: draft, ...owner }),
      });
    } else if (has !== imageBytes) await growOrShrink({ image, bytes: imageBytes });
    // Said before it is mounted, so that a crash in between leaves nothing that nobody knows.
    await writeFile(this.record(key), JSON.stringify({ folder, inode } satisfies Recorded), { mode: 0o600 });
    await hands.act({ act: 'mount', image, folder, inode });
    return await this.keep(key, { folder, inode, imageBytes });
  }

  /** Holds the root of a volume that is mounted on the folder. */
  private async keep(
    key: string,
    mounted: { readonly folder: string; readonly inode: number; readonly imageBytes: number },
  ): Promise<OpenVolume> {
    const { folder, inode, imageBytes } = mounted;
    const root = await openFolder(folder);
    try {
      const [found, loop, mounts] = await Promise.all([
        root.stat(),
        loopOf(this.image(key)),
        readFile('/proc/self/mountinfo', 'utf8'),
      ]);
      const location = locate(parseMountInfo(mounts), folder);
      const isIts =
        loop !== null && location?.device === loop.device && location.path === '/' && found.dev === loop.dev;
      if (!isIts || location === null) throw refusal(folder, 'its volume is not what is mounted on it', null);
      const { blocks, bsize } = await statfs(fdPath(root));
      if (blocks * bsize > imageBytes) throw refusal(folder, 'its volume is larger than the profile says', null);
      const volume: OpenVolume = {
        device: found.dev,
        inode: found.ino,
        location,
        statPath: fdPath(root),
        root,
        imageBytes,
        folderInode: inode,
        users: new Set(),
      };
      this.volumes.set(key, volume);
      return volume;
    } catch (error) {
      await root.close();
      throw error;
    }
  }

  private async unmount(key: string, { root }: OpenVolume): Promise<void> {
    this.volumes.delete(key);
    try {
      if (this.hands.kind !== 'none') await this.hands.act({ act: 'detach', image: this.image(key) });
    } finally {
      await root.close();
    }
  }

  private async restore(key: string): Promise<void> {
    const { folder, inode } = await this.recorded(key);
    const imageBytes = await sizeOf(this.image(key));
    if (imageBytes === 0) {
      // A daemon ended between the record and the image, or somebody removed the image to forget the volume.
      await rm(this.record(key), { force: true });
      return;
    }
    const loop = await loopOf(this.image(key));
    const location = locate(parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')), folder);
    if (loop !== null && location?.device === loop.device) await this.keep(key, { folder, inode, imageBytes });
    else if (hostPathRefusal(folder) === null) await this.mount(key, { folder, inode, imageBytes });
  }

  private async keys(): Promise<readonly string[]> {
    const names = await readdir(this.directory);
    return names.filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -'.json'.length));
  }

  private async recorded(key: string): Promise<Recorded> {
    const text = await readFile(this.record(key), 'utf8');
    const value: unknown = JSON.parse(text.slice(0, RECORD_BYTES_MAX));
    const { folder, inode } = value as Partial<Recorded>;
    if (typeof folder !== 'string' || typeof inode !== 'number') {
      throw fail('MOUNT_REFUSED', { detail: `the record of the volume ${key} cannot be read` });
    }
    return { folder, inode };
  }

  private image(key: string): string {
    return join(this.directory, `${key}.img`);
  }

  private record(key: string): string {
    return join(this.directory, `${key}.json`);
  }
}

function imageBytesOf({ sizeBytesMax }: VolumeRequest): number {
  return Math.floor(sizeBytesMax / BLOCK_BYTES) * BLOCK_BYTES;
}

/** Of an empty folder; `inode`: that it must have, or null when any will do. */
async function ownerOf(path: string, inode: number | null): Promise<Owner> {
  const folder = await openFolder(path);
  try {
    await refuseOther(folder, { path, inode });
    const { uid, gid, mode } = await folder.stat();
    return { uid, gid, mode };
  } finally {
    await folder.close();
  }
}

function noHands({ why }: { readonly why: string }): Error {
  const detail = `cannot be held on this host: ${why}`;
  return fail('HOST_CANNOT_ENFORCE', { detail, hint: '`ringfence doctor` says how to change that' });
}

function keyOf(folder: string): string {
  return createHash('sha256').update(folder).digest('hex').slice(0, 24);
}

/** 0 when there is none. */
async function sizeOf(image: string): Promise<number> {
  return await stat(image).then(
    ({ size }) => size,
    () => 0,
  );
}
