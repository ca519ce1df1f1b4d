import { chmod, chown, mkdtemp, open, readdir, readFile, readlink, rename, rm, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { execa } from 'execa';
import { fail } from '../core/errors.ts';

/** The image of a volume and the tools that make, check, size and mount it. Every failure is HOST_CANNOT_ENFORCE. */
const TOOL_MS_MAX = 30_000;
/** A filesystem that was detached goes when its last user has closed it. */
const LOOP_GONE_MS_MAX = 5_000;
const LOOP_GONE_LOOK_MS = 10;

const JOURNAL_BYTES_MIN = 64 * 2 ** 20;
/** One file for each of so many bytes: as in scratch, what holds many small ones is bounded as well. */
const BYTES_PER_INODE = 8192;

/** `remount-ro`: after damage nothing is written any more. */
const MOUNT_OPTIONS = 'nosuid,nodev,noatime,noinit_itable,errors=remount-ro';

export type Loop = {
  readonly path: string;
  /** `7:0`, as mount tables have it. */
  readonly device: string;
  /** The same as stat(2) has it. */
  readonly dev: number;
};

/** Why this daemon cannot mount what the engine would see, or null: asked before anything is made. */
export async function whyNoVolumes(): Promise<string | null> {
  const [status, own, first] = await Promise.all([
    readFile('/proc/self/status', 'latin1'),
    readlink('/proc/self/ns/mnt').catch(() => ''),
    readlink('/proc/1/ns/mnt').catch(() => ''),
  ]);
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  if (((capabilities >> CAP_SYS_ADMIN) & 1n) === 0n) return 'the daemon runs without CAP_SYS_ADMIN, so it cannot mount';
  // Where the first process does not show its own, the read-back of the launch tells it.
  if (first !== '' && own !== first)
    return 'the daemon has mounts of its own, which the engine does not see (PrivateMounts, a container)';
  try {
    await (await open(LOOP_CONTROL, 'r+')).close();
  } catch (error) {
    return `${LOOP_CONTROL} cannot be opened (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`;
  }
  return null;
}

const CAP_SYS_ADMIN = 21n;
const LOOP_CONTROL = '/dev/loop-control';

/**
 * The image is made whole under another name first. Its space is reserved (fallocate) and not given back (nodiscard):
 * agents that fill their volumes would otherwise fill the host's disk together, and an agent would meet damage where it
 * should meet ENOSPC. `owner` is the folder that the volume replaces.
 */
export async function makeImage(options: {
  readonly image: string;
  readonly bytes: number;
  readonly owner: { readonly uid: number; readonly gid: number; readonly mode: number };
}): Promise<void> {
  const { image, bytes, owner } = options;
  const draft = `${image}.new`;
  await rm(draft, { force: true });
  try {
    await tool('fallocate', ['--length', String(bytes), draft]);
    await chmod(draft, 0o600);
    const features = `nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=${owner.uid}:${owner.gid}`;
    const layout = ['-m', '0', '-b', '4096', '-i', String(BYTES_PER_INODE), ...journal(bytes)];
    await tool('mkfs.ext4', ['-q', '-F', ...layout, '-E', features, draft]);
    await likeFolder(draft, owner);
    await rename(draft, image);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}

/** What is kept from the agent is small: a journal of the least size, and none where a full check takes no time. */
function journal(bytes: number): readonly string[] {
  return bytes < JOURNAL_BYTES_MIN ? ['-O', '^has_journal'] : ['-J', 'size=4'];
}

/** The root of the new filesystem gets what the folder has, and nothing that was not there before. */
async function likeFolder(
  image: string,
  owner: { readonly uid: number; readonly gid: number; readonly mode: number },
): Promise<void> {
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
    await untilLoopGone(image);
  } finally {
    await rmdir(place);
  }
}

/** Not while it is mounted. Refused by the filesystem's own tool when less is wanted than is used. */
export async function growOrShrink({
  image,
  bytes,
}: {
  readonly image: string;
  readonly bytes: number;
}): Promise<void> {
  await untilLoopGone(image);
  await check(image, ['-f']);
  const pages = `${bytes / 1024}K`;
  const { size } = await stat(image);
  if (bytes > size) await tool('fallocate', ['--length', String(bytes), image]);
  await tool('resize2fs', [image, pages]);
  if (bytes < size) await tool('truncate', ['--size', String(bytes), image]);
}

/** By a loop device that goes away by itself when the last mount of it does, also after a crash. */
export async function mountImage({
  image,
  target,
}: {
  readonly image: string;
  readonly target: string;
}): Promise<void> {
  const there = await loopOf(image);
  // A container that is not quite gone still has it: a second device on one image would write over the first.
  if (there === null) await check(image, []);
  const path = there?.path ?? (await attach(image));
  try {
    // The target is a descriptor of a folder or a folder of ours, and is not to be followed anywhere.
    await tool('mount', ['--no-canonicalize', '-t', 'ext4', '-o', MOUNT_OPTIONS, path, target]);
  } finally {
    // Of a device in use this only says that it goes with its last user (loop(4), LO_FLAGS_AUTOCLEAR).
    if (there === null) await tool('losetup', ['--detach', path]);
  }
}

/** At once for everybody who comes; whoever is in it keeps it. */
export async function detachFolder(path: string): Promise<void> {
  await tool('umount', ['--no-canonicalize', '--lazy', path]);
}

/** The loop device of an image, or null. */
export async function loopOf(image: string): Promise<Loop | null> {
  const names = (await readdir('/sys/block')).filter((name) => /^loop\d+$/.test(name));
  for (const name of names) {
    const file = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => null);
    if (file?.trimEnd() !== image) continue;
    const device = (await readFile(`/sys/block/${name}/dev`, 'utf8')).trim();
    const [major = 0, minor = 0] = device.split(':').map(Number);
    return { path: `/dev/${name}`, device, dev: makedev({ major, minor }) };
  }
  return null;
}

/** As glibc packs them (makedev(3)), for the low 32 bits that a loop device has. */
function makedev({ major, minor }: { readonly major: number; readonly minor: number }): number {
  return (major << 8) | (minor & 0xff) | ((minor & ~0xff) << 12);
}

/** Past the page cache of the host, so that nothing is kept in memory twice; not every filesystem can do that. */
async function attach(image: string): Promise<string> {
  const args = ['--find', '--show', image];
  const direct = await execa('losetup', ['--direct-io=on', ...args], { reject: false, timeout: TOOL_MS_MAX });
  const path = direct.failed ? await tool('losetup', args) : direct.stdout;
  return path.trim();
}

async function untilLoopGone(image: string): Promise<void> {
  const deadline = performance.now() + LOOP_GONE_MS_MAX;
  while ((await loopOf(image)) !== null) {
    if (performance.now() > deadline) throw failure('its volume is still used by a run that is not quite over', '');
    await delay(LOOP_GONE_LOOK_MS);
  }
}

/** 0: clean, 1: repaired (fsck(8)). A clean one costs milliseconds. */
async function check(image: string, more: readonly string[]): Promise<void> {
  const result = await execa('e2fsck', ['-p', ...more, image], { reject: false, timeout: TOOL_MS_MAX });
  if (result.exitCode === 0 || result.exitCode === 1) return;
  throw failure('its volume is damaged', `look with \`e2fsck ${image}\``, said(result));
}

async function tool(file: string, args: readonly string[]): Promise<string> {
  const result = await execa(file, args, { reject: false, timeout: TOOL_MS_MAX });
  if (!result.failed) return result.stdout;
  if (result.code === 'ENOENT') throw failure(`${file} is not installed`, 'apt-get install e2fsprogs mount util-linux');
  throw failure(`${file} failed`, 'see `ringfence doctor`', said(result));
}

function said({ stderr, stdout }: { readonly stderr?: unknown; readonly stdout?: unknown }): string {
  const text = typeof stderr === 'string' && stderr !== '' ? stderr : stdout;
  return typeof text === 'string' ? `: ${text.trim().split('\n').slice(0, 3).join('; ')}` : '';
}

function failure(what: string, hint: string, more = ''): Error {
  const detail = `the size cannot be held: ${what}${more}`;
  return fail('HOST_CANNOT_ENFORCE', { detail, ...(hint === '' ? {} : { hint }) });
}
