import { constants } from 'node:fs';
import { open, readdir, realpath } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { fail } from '../core/errors.ts';
import { printable } from '../core/text.ts';

/** Folders of the host that become volumes: never followed by path once they were checked. Errors are MOUNT_REFUSED. */
const HINT_CONTENTS =
  'move what is in it elsewhere, start the agent once, then move it back: the folder is the filesystem from then on';

/** A folder and no link, so that its descriptor is the folder whatever its path leads to later. */
export async function openFolder(path: string): Promise<FileHandle> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW).catch(
    (error: unknown) => {
      throw refusal(path, `it is not a folder (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`, null);
    },
  );
  // A folder above it may have been exchanged for a link since: then this is another place than was checked.
  const real = await realpath(fdPath(handle));
  if (real === path) return handle;
  await handle.close();
  throw refusal(path, `it leads to ${printable(real)} now`, null);
}

export async function statOfFolder(path: string): Promise<{ readonly dev: number; readonly ino: number }> {
  const folder = await openFolder(path);
  try {
    return await folder.stat();
  } finally {
    await folder.close();
  }
}

/** `folder` must be the very one that was checked, and empty: a filesystem on it would hide what is in it. */
export async function refuseOther(
  folder: FileHandle,
  checked: { readonly path: string; readonly inode: number | null },
): Promise<void> {
  const { path, inode } = checked;
  if (inode !== null && (await folder.stat()).ino !== inode) {
    throw refusal(path, 'it is not the folder any more that was checked', null);
  }
  const [name] = await readdir(fdPath(folder));
  if (name === undefined) return;
  const why = `a size makes a filesystem on it, which would hide what is in it, such as ${printable(name, 80)}`;
  throw refusal(path, why, HINT_CONTENTS);
}

export function refusal(folder: string, why: string, hint: string | null): Error {
  return fail('MOUNT_REFUSED', {
    detail: `the mount of ${printable(folder)} is refused: ${why}`,
    hostPath: printable(folder),
    ...(hint === null ? {} : { hint }),
  });
}

/** Seen from the tools that are started as well, which have descriptors of their own. */
export function fdPath({ fd }: FileHandle): string {
  return `/proc/${process.pid}/fd/${fd}`;
}
