import type { RunIds } from '../core/ids.ts';
import { constants } from 'node:fs';
import { chmod, chown, lstat, mkdir, open, readdir, readFile, realpath, rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { assert } from '../core/assert.ts';
import { fail, messageOf } from '../core/errors.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import { printable } from '../core/text.ts';
import type { SecretGrant } from '../profile/spec.ts';
import { secretFileName } from '../run/environment.ts';
import { contains, parseMountInfo } from '../run/mountinfo.ts';

/**
 * Secrets go from a file of the host to a file in memory that only the agent's user can read, mounted read-only into its
 * container. They are never in the container's configuration, where `inspect` would show them, nor in an argument.
 */
export const SECRET_BYTES_MAX = 64 * 1024;

export type SecretReader = {
  /** Whose word grants it: the owner of the profile. */
  readonly grantor: { readonly uid: number };
  /** Folders of root whose secrets every caller may grant, such as /etc/ringfence/secrets. */
  readonly sharedFolders: readonly string[];
};

/** `fileName` is the name in the agent's folder of secrets. */
export type Secret = { readonly fileName: string; readonly value: Uint8Array };

/** All secrets, or SECRET_UNREADABLE for the first that cannot be read safely. Values are in no error. */
export async function readSecrets(grants: readonly SecretGrant[], reader: SecretReader): Promise<readonly Secret[]> {
  return await Promise.all(
    grants.map(async (grant) => ({
      fileName: secretFileName(grant.env),
      value: await readSecret(grant, reader),
    })),
  );
}

async function readSecret(grant: SecretGrant, reader: SecretReader): Promise<Uint8Array> {
  const shown = printable(grant.file);
  const refuse = (why: string): never => {
    throw fail('SECRET_UNREADABLE', { detail: `the secret ${grant.env} in ${shown} ${why}`, file: shown });
  };
  // Neither a link nor a pipe may stand in for the file: the one leads elsewhere, the other never ends.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await open(grant.file, flags).catch((error: unknown) => {
    const { code } = error as NodeJS.ErrnoException;
    return refuse(code === 'ELOOP' ? 'is a symbolic link' : `cannot be opened (${code ?? 'unknown error'})`);
  });
  try {
    const found = await handle.stat();
    if (!found.isFile()) refuse('is not a regular file');
    if ((found.mode & 0o077) !== 0) refuse(`can be read by others (mode ${(found.mode & 0o777).toString(8)})`);
    const ownerFits = found.uid === reader.grantor.uid || (found.uid === 0 && (await isShared(grant.file, reader)));
    if (!ownerFits) refuse(`belongs to user ${found.uid}, and the profile to user ${reader.grantor.uid}`);
    if (found.size > SECRET_BYTES_MAX) refuse(`is larger than ${SECRET_BYTES_MAX} bytes`);
    const buffer = new Uint8Array(SECRET_BYTES_MAX + 1);
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
    if (bytesRead > SECRET_BYTES_MAX) refuse(`is larger than ${SECRET_BYTES_MAX} bytes`);
    const bytes = buffer.subarray(0, bytesRead);
    // An editor ends a file with a newline; a second one was meant.
    const value = bytes.at(-1) === 0x0a ? bytes.subarray(0, -1) : bytes;
    if (value.length === 0) refuse('is empty');
    if (value.includes(0)) refuse('holds a NUL byte, which no variable can');
    return Uint8Array.from(value);
  } finally {
    await handle.close();
  }
}

async function isShared(file: string, reader: SecretReader): Promise<boolean> {
  const real = await realpath(file);
  const folders = await Promise.all(reader.sharedFolders.map((folder) => realpath(folder).catch(() => null)));
  return folders.some((folder) => folder !== null && contains(folder, real));
}

/** Where secrets stay in memory while their runs live. */
export class SecretStore {
  private readonly folder: string;
  private mounted: boolean;

  private constructor(folder: string, mounted: boolean) {
    this.folder = folder;
    this.mounted = mounted;
  }

  /** `folder` is made if need be, belongs to root alone, and is in memory: a tmpfs is mounted where it is not. */
  static async open(folder: string): Promise<SecretStore> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const found = await lstat(folder);
    if (!found.isDirectory() || found.uid !== process.getuid?.()) {
      throw fail('SECRET_UNREADABLE', {
        detail: `${folder} is not a folder of the supervisor, so no secret goes there`,
      });
    }
    await chmod(folder, 0o700);
    // A supervisor that was killed has left its own mount behind: it is taken over, and unmounted in the end.
    const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
    const leftOver = mounts.some((mount) => mount.source === STORE_SOURCE && mount.target === folder);
    if (leftOver || (await isInMemory(folder))) return new SecretStore(folder, leftOver);
    await mountMemory(folder);
    return new SecretStore(folder, true);
  }

  /** Writes the secrets of a run, readable by its user alone. Returns the folder to mount. */
  async stage(options: {
    readonly runId: string;
    readonly user: { readonly uid: number; readonly gid: number };
    readonly secrets: readonly Secret[];
  }): Promise<string> {
    const { uid, gid } = options.user;
    const folder = this.folderOf(options.runId);
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { mode: 0o700 });
    try {
      for (const secret of options.secrets) {
        const file = join(folder, secret.fileName);
        await writeFile(file, secret.value, { mode: 0o400, flag: 'wx' });
        await chown(file, uid, gid);
      }
      await chown(folder, uid, gid);
      await chmod(folder, 0o500);
      return folder;
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw fail('SECRET_UNREADABLE', { detail: `the secrets could not be put in memory: ${messageOf(error)}` });
    }
  }

  /** Where the secrets of a run are that an earlier daemon staged. */
  staged(runId: string): string {
    return this.folderOf(runId);
  }

  /** Idempotent. */
  async unstage(runId: string): Promise<void> {
    await rm(this.folderOf(runId), { recursive: true, force: true });
  }

  /** Removes the secrets of every run that is not named: what a crash left. Returns their run ids. */
  async collectGarbage(runIdsToKeep: RunIds): Promise<readonly string[]> {
    const stale = (await readdir(this.folder)).filter((name) => RUN_ID_PATTERN.test(name) && !runIdsToKeep.has(name));
    for (const runId of stale) await this.unstage(runId);
    return stale;
  }

  /** Unmounts what was mounted. Runs that outlive the supervisor keep their own mount of their folder. */
  async close(): Promise<void> {
    if (!this.mounted) return;
    this.mounted = false;
    await execa('umount', ['--lazy', this.folder], { timeout: MOUNT_MS_MAX });
  }

  private folderOf(runId: string): string {
    assert(RUN_ID_PATTERN.test(runId), 'a folder of secrets is named by a run id');
    return join(this.folder, runId);
  }
}

const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;
const STORE_SOURCE = 'ringfence-secrets';
const MOUNT_MS_MAX = 10_000;
const STORE_OPTIONS = 'nosuid,nodev,noexec,mode=0700,size=64m';

async function isInMemory(folder: string): Promise<boolean> {
  const { type } = await statfs(folder);
  return type === TMPFS_MAGIC || type === RAMFS_MAGIC;
}

/** `noswap` keeps it off the disk altogether; kernels before 6.4 do not know it. */
async function mountMemory(folder: string): Promise<void> {
  for (const options of [`${STORE_OPTIONS},noswap`, STORE_OPTIONS]) {
    const args = ['-t', 'tmpfs', '-o', options, STORE_SOURCE, folder];
    const result = await execa('mount', args, { reject: false, timeout: MOUNT_MS_MAX });
    if (!result.failed) return;
  }
  throw fail('SECRET_UNREADABLE', { detail: `no memory filesystem could be mounted on ${folder} for secrets` });
}
