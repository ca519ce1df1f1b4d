import { chmod, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { execa } from 'execa';
import { fail } from '../core/errors.ts';

/** The image of a volume and the tools that make, check and size it. Every failure is HOST_CANNOT_ENFORCE. */
export const TOOL_MS_MAX = 30_000;
/** A filesystem that was detached goes when its last user has closed it. */
const LOOP_GONE_MS_MAX = 5_000;
const LOOP_GONE_LOOK_MS = 10;

const JOURNAL_BYTES_MIN = 64 * 2 ** 20;
/** One file for each of so many bytes: as in scratch, what holds many small ones is bounded as well. */
const BYTES_PER_INODE = 8192;

export type Loop = {
  readonly path: string;
  /** `7:0`, as mount tables have it. */
  readonly device: string;
  /** The same as stat(2) has it. */
  readonly dev: number;
};

/** Of the folder that the volume replaces: its root gets the same. */
export type Owner = { readonly uid: number; readonly gid: number; readonly mode: number };

/**
 * The image is made whole under another name first. Its space is reserved (fallocate) and not given back (nodiscard):
 * agents that fill their volumes would otherwise fill the host's disk together, and an agent would meet damage where it
 * should meet ENOSPC. `dress` gives the new root the owner and mode of the folder that it replaces.
 */
export async function makeImage(options: {
  readonly image: string;
  readonly bytes: number;
  readonly owner: Owner;
  readonly dress: (draft: string) => Promise<void>;
}): Promise<void> {
  const { image, bytes, owner, dress } = options;
  const draft = `${image}.new`;
  await rm(draft, { force: true });
  try {
    await tool('fallocate', ['--length', String(bytes), draft]);
    await chmod(draft, 0o600);
    const features = `nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=${owner.uid}:${owner.gid}`;
    const layout = ['-m', '0', '-b', '4096', '-i', String(BYTES_PER_INODE), ...journal(bytes)];
    await tool('mkfs.ext4', ['-q', '-F', ...layout, '-E', features, draft]);
    await dress(draft);
    await untilLoopGone(draft);
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

/** Not while it is mounted. Refused by the filesystem's own tool when less is wanted than is used. */
export async function growOrShrink({
  image,
  bytes,
}: {
  readonly image: string;
  readonly bytes: number;
}): Promise<void> {
  await untilLoopGone(image);
  await checkImage(image, ['-f']);
  const pages = `${bytes / 1024}K`;
  const { size } = await stat(image);
  if (bytes > size) await tool('fallocate', ['--length', String(bytes), image]);
  await tool('resize2fs', [image, pages]);
  if (bytes < size) await tool('truncate', ['--size', String(bytes), image]);
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

async function untilLoopGone(image: string): Promise<void> {
  const deadline = performance.now() + LOOP_GONE_MS_MAX;
  while ((await loopOf(image)) !== null) {
    if (performance.now() > deadline) throw failure('its volume is still used by a run that is not quite over', '');
    await delay(LOOP_GONE_LOOK_MS);
  }
}

/** 0: clean, 1: repaired (fsck(8)). A clean one costs milliseconds. */
export async function checkImage(image: string, more: readonly string[]): Promise<void> {
  const result = await execa('e2fsck', ['-p', ...more, image], { reject: false, timeout: TOOL_MS_MAX });
  if (result.exitCode === 0 || result.exitCode === 1) return;
  throw failure('its volume is damaged', `look with \`e2fsck ${image}\``, said(result));
}

export async function tool(file: string, args: readonly string[]): Promise<string> {
  const result = await execa(file, args, { reject: false, timeout: TOOL_MS_MAX });
  if (!result.failed) return result.stdout;
  if (result.code === 'ENOENT') throw failure(`${file} is not installed`, 'apt-get install e2fsprogs mount util-linux');
  throw failure(`${file} failed`, 'see `ringfence doctor`', said(result));
}

export function said({ stderr, stdout }: { readonly stderr?: unknown; readonly stdout?: unknown }): string {
  const text = typeof stderr === 'string' && stderr !== '' ? stderr : stdout;
  return typeof text === 'string' ? `: ${text.trim().split('\n').slice(0, 3).join('; ')}` : '';
}

export function failure(what: string, hint: string, more = ''): Error {
  const detail = `the size cannot be held: ${what}${more}`;
  return fail('HOST_CANNOT_ENFORCE', { detail, ...(hint === '' ? {} : { hint }) });
}
