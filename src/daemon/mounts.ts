import { constants } from 'node:fs';
import { lstat, open, readFile, realpath, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fail } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import { hostPathRefusal } from '../profile/mounts.ts';
import { contains, locate, parseMountInfo } from '../run/mountinfo.ts';
import type { Location, Mount } from '../run/mountinfo.ts';
import { findSocket } from './socket-scan.ts';

/**
 * Asks the real filesystem whether an agent may have a folder. Every symlink is followed first, and places are compared
 * where they really are (filesystem and folder in it), so that neither `..`, a link, nor a bind mount of /etc elsewhere
 * leads around a refusal. What was checked is kept by file number and location and compared again after the launch.
 */
export type MountRequest = {
  readonly hostPath: string;
  readonly mode: 'ro' | 'rw';
  /** Whose word grants it: the owner of the profile. Nobody can grant what is not theirs to read or write. */
  readonly grantor: { readonly uid: number; readonly gid: number };
  /** The profile itself: an agent that can write it writes its own boundary. */
  readonly profilePath: string;
};

export type HostPlaces = {
  /** Folders of this host besides the built-in ones: the state and socket folders, the engine's root. */
  readonly forbidden: readonly string[];
};

export type CheckedMount = {
  readonly hostPath: string;
  readonly mode: 'ro' | 'rw';
  /** The path without symlinks: what the engine is given. */
  readonly realPath: string;
  readonly device: number;
  readonly inode: number;
  readonly location: Location;
};

const FORBIDDEN_PLACES = [
  '/boot',
  '/dev',
  '/etc',
  '/proc',
  '/root',
  '/run',
  '/sys',
  '/var/lib/containerd',
  '/var/lib/containers',
  '/var/lib/docker',
  '/var/lib/kubelet',
  '/var/lib/ringfence',
  '/var/run',
  '/var/spool/cron',
];

/** The system's own programs: reading them is harmless, writing them is owning the host. */
const FORBIDDEN_PLACES_WRITABLE = ['/bin', '/lib', '/lib64', '/sbin', '/usr'];

/** Filesystems that are the kernel and not files. */
const FORBIDDEN_FILESYSTEMS = new Set([
  'autofs',
  'binfmt_misc',
  'bpf',
  'cgroup',
  'cgroup2',
  'configfs',
  'debugfs',
  'devpts',
  'devtmpfs',
  'efivarfs',
  'mqueue',
  'nsfs',
  'proc',
  'pstore',
  'securityfs',
  'selinuxfs',
  'sysfs',
  'tracefs',
]);

const MODE_EXECUTE = 1;
const MODE_WRITE = 2;
const MODE_READ = 4;

/** Throws MOUNT_REFUSED, which names the place as written and the reason. */
export async function checkMount(request: MountRequest, places: HostPlaces): Promise<CheckedMount> {
  const refuse = (why: string, hint?: string): never => {
    throw fail('MOUNT_REFUSED', {
      detail: `the mount of ${printable(request.hostPath)} is refused: ${why}`,
      hostPath: printable(request.hostPath),
      ...(hint === undefined ? {} : { hint }),
    });
  };
  if (!request.hostPath.startsWith('/') || request.hostPath.includes('\0')) refuse('it is not an absolute path');
  const realPath = await realpath(request.hostPath).catch((error: unknown) =>
    refuse(
      `it cannot be followed to a folder (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`,
      HINT_MISSING,
    ),
  );
  const shown = realPath === request.hostPath ? 'it' : `it leads to ${printable(realPath)}, which`;
  const written = hostPathRefusal(realPath);
  if (written !== null) refuse(`${shown} ${written}`);
  const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  const location = locate(mounts, realPath) ?? refuse('its filesystem is unknown');
  if (FORBIDDEN_FILESYSTEMS.has(location.type)) refuse(`${shown} is in a ${location.type} filesystem of the kernel`);
  const place = await forbiddenPlace({ realPath, location, mounts, ...request }, places);
  if (place !== null) refuse(`${shown} reaches ${place}`);
  const handle = await openChecked(realPath).catch((error: unknown) => {
    const { code } = error as NodeJS.ErrnoException;
    // A socket cannot be opened at all (open(2)).
    if (code === 'ENXIO') return refuse(`${shown} is a socket, a device or a pipe`);
    return refuse(`it cannot be opened as a folder or file (${code ?? 'unknown error'})`);
  });
  try {
    const found = await handle.stat();
    if (!found.isDirectory() && !found.isFile()) refuse(`${shown} is a socket, a device or a pipe`);
    const barred = await accessRefusal(realPath, request);
    if (barred !== null) refuse(barred, HINT_ACCESS);
    if (request.mode === 'rw') await refuseProfile({ ...request, realPath, location, mounts, refuse });
    const socket = found.isDirectory() ? await findSocket({ folder: realPath, location, mounts }) : null;
    if (socket !== null) refuse(socket, HINT_SOCKET);
    return { ...request, realPath, device: found.dev, inode: found.ino, location };
  } finally {
    await handle.close();
  }
}

const HINT_MISSING = 'make the folder first, or correct the path in the profile';
const HINT_ACCESS = 'mount a folder that belongs to the owner of the profile';
const HINT_SOCKET = 'remove the socket, or mount a folder without one';

/** After the launch: the path must still be what was checked. Throws MOUNT_REFUSED. */
export async function recheckMount(checked: CheckedMount): Promise<void> {
  const [real, now] = await Promise.all([
    realpath(checked.hostPath).catch(() => null),
    lstat(checked.realPath).catch(() => null),
  ]);
  if (real === checked.realPath && now?.dev === checked.device && now.ino === checked.inode) return;
  throw fail('MOUNT_REFUSED', {
    detail: `the mount of ${printable(checked.hostPath)} is refused: it was replaced while the run was launched`,
    hostPath: printable(checked.hostPath),
  });
}

/** O_NOFOLLOW, because a link put in place of the folder since `realpath` must not be followed. */
function openChecked(realPath: string): Promise<FileHandle> {
  return open(realPath, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
}

async function forbiddenPlace(
  mount: {
    readonly realPath: string;
    readonly location: Location;
    readonly mounts: readonly Mount[];
    readonly mode: 'ro' | 'rw';
  },
  places: HostPlaces,
): Promise<string | null> {
  const forbidden = [
    ...FORBIDDEN_PLACES,
    ...places.forbidden,
    ...(mount.mode === 'rw' ? FORBIDDEN_PLACES_WRITABLE : []),
  ];
  for (const place of forbidden) {
    const real = await realpath(place).catch(() => null);
    if (real === null) continue;
    if (contains(real, mount.realPath) || contains(mount.realPath, real)) return place;
    if (sameTree(locate(mount.mounts, real), mount.location)) return place;
  }
  return null;
}

/** One inside the other on the same filesystem, by whatever path. */
function sameTree(left: Location | null, right: Location): boolean {
  if (left === null || left.device !== right.device) return false;
  // A filesystem's own root holds every place on it, but is only forbidden for the folders that are mounted from it.
  return contains(left.path, right.path) || contains(right.path, left.path);
}

async function refuseProfile(options: {
  readonly profilePath: string;
  readonly realPath: string;
  readonly location: Location;
  readonly mounts: readonly Mount[];
  readonly refuse: (why: string, hint?: string) => never;
}): Promise<void> {
  const profile = await realpath(options.profilePath).catch(() => options.profilePath);
  const location = locate(options.mounts, profile);
  const inside =
    contains(options.realPath, profile) ||
    (location?.device === options.location.device && contains(options.location.path, location.path));
  if (inside) options.refuse('it holds the profile itself, which the agent could then rewrite', HINT_PROFILE);
}

const HINT_PROFILE = 'mount a folder beside the profile, or mount this one with mode: ro';

/**
 * The supervisor is root, so it must not lend its eyes: the grantor must be able to reach the folder and read it by the
 * mode bits, and own it (or be allowed by root) to have it written.
 */
async function accessRefusal(realPath: string, request: MountRequest): Promise<string | null> {
  const { uid, gid } = request.grantor;
  if (uid === 0) return null;
  for (let folder = dirname(realPath); ; folder = dirname(folder)) {
    if (!allows(await stat(folder), { uid, gid, wanted: MODE_EXECUTE })) {
      return `user ${uid}, whose profile grants it, may not enter ${printable(folder)}`;
    }
    if (folder === '/') break;
  }
  const found = await stat(realPath);
  const wanted = MODE_READ | (found.isDirectory() ? MODE_EXECUTE : 0) | (request.mode === 'rw' ? MODE_WRITE : 0);
  if (!allows(found, { uid, gid, wanted })) return `user ${uid}, whose profile grants it, may not use it this way`;
  if (request.mode === 'rw' && found.uid !== uid && found.uid !== 0) {
    return `it belongs to user ${found.uid}, and the profile to user ${uid}`;
  }
  return null;
}

function allows(
  found: { readonly mode: number; readonly uid: number; readonly gid: number },
  who: { readonly uid: number; readonly gid: number; readonly wanted: number },
): boolean {
  const shift = found.uid === who.uid ? 6 : found.gid === who.gid ? 3 : 0;
  return ((found.mode >> shift) & who.wanted) === who.wanted;
}
