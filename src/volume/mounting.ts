import { chmod, chown, mkdtemp, readFile, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { assertNever } from '../core/assert.ts';
import { parseMountInfo } from '../run/mountinfo.ts';
import { fdPath, openFolder, refuseOther } from './folder.ts';
import { checkImage, loopOf, tool, TOOL_MS_MAX, type Owner } from './image.ts';

/**
 * What needs the power to mount, and the mounts of the host: whoever calls this has both. Each act looks for itself at
 * what it is given, because between the daemon's look and this one the folder's owner may have exchanged it.
 */
export type MountAct =
  /** Gives the root of a new image the owner and mode of the folder that it will replace. */
  | ({ readonly act: 'dress'; readonly image: string } & Owner)
  /** Mounts the image over the folder, which must be empty and the one that was checked. */
  | { readonly act: 'mount'; readonly image: string; readonly folder: string; readonly inode: number }
  /** Unmounts it at once for everybody who comes; whoever is in it keeps it. */
  | { readonly act: 'detach'; readonly image: string };

/** `remount-ro`: after damage nothing is written any more. */
const MOUNT_OPTIONS = 'nosuid,nodev,noatime,noinit_itable,errors=remount-ro';

/** Throws HOST_CANNOT_ENFORCE or MOUNT_REFUSED. */
export async function perform(act: MountAct): Promise<void> {
  switch (act.act) {
    case 'dress':
      return await dress(act.image, act);
    case 'mount':
      return await mountOnFolder(act);
    case 'detach':
      return await detach(act.image);
    default:
      return assertNever(act);
  }
}

async function dress(image: string, owner: Owner): Promise<void> {
  const place = await mkdtemp(`${image}-`);
  try {
    await mountImage({ image, target: place });
    try {
      await rmdir(join(place, 'lost+found'));
      await chown(place, owner.uid, owner.gid);
      await chmod(place, owner.mode & 0o7777);
    } finally {
      await tool('umount', [place]);
    }
  } finally {
    await rmdir(place);
  }
}

async function mountOnFolder(wanted: {
  readonly image: string;
  readonly folder: string;
  readonly inode: number;
}): Promise<void> {
  const { image, folder, inode } = wanted;
  const target = await openFolder(folder);
  try {
    await refuseOther(target, { path: folder, inode });
    // The dot makes it a folder to look in: newer kernels let nothing be mounted on what is itself a link of /proc.
    await mountImage({ image, target: `${fdPath(target)}/.` });
  } finally {
    await target.close();
  }
}

/** By a loop device that goes away by itself when the last mount of it does, also after a crash. */
async function mountImage({ image, target }: { readonly image: string; readonly target: string }): Promise<void> {
  const there = await loopOf(image);
  // A container that is not quite gone still has it: a second device on one image would write over the first.
  if (there === null) await checkImage(image, []);
  const path = there?.path ?? (await attach(image));
  try {
    // The target is a descriptor of a folder or a folder of ours, and is not to be followed anywhere.
    await tool('mount', ['--no-canonicalize', '-t', 'ext4', '-o', MOUNT_OPTIONS, path, target]);
  } finally {
    // Of a device in use this only says that it goes with its last user (loop(4), LO_FLAGS_AUTOCLEAR).
    if (there === null) await tool('losetup', ['--detach', path]);
  }
}

/** Past the page cache of the host, so that nothing is kept in memory twice; not every filesystem can do that. */
async function attach(image: string): Promise<string> {
  const args = ['--find', '--show', image];
  const direct = await execa('losetup', ['--direct-io=on', ...args], { reject: false, timeout: TOOL_MS_MAX });
  const path = direct.failed ? await tool('losetup', args) : direct.stdout;
  return path.trim();
}

async function detach(image: string): Promise<void> {
  const loop = await loopOf(image);
  if (loop === null) return;
  const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  for (const { device, target } of mounts) {
    if (device !== loop.device) continue;
    const folder = await openFolder(target);
    try {
      // Another mount may cover it by now, or its path lead elsewhere: that is not ours to take away.
      if ((await folder.stat()).dev === loop.dev) await tool('umount', ['--no-canonicalize', '--lazy', fdPath(folder)]);
    } finally {
      await folder.close();
    }
  }
}
