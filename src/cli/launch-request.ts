import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { resolve } from 'node:path';

import { PROFILE_BYTES_MAX } from '../api/endpoints.ts';
import { fail, messageOf } from '../core/errors.ts';
import { printable } from '../core/text.ts';

/** The profile as the caller can read it: the daemon compares it with what it reads itself. */
export async function readProfile(options: {
  readonly file: string;
  readonly cwd: string;
  /** The command that a hint repeats. */
  readonly command?: string;
}): Promise<{ readonly profilePath: string; readonly profileText: string }> {
  const profilePath = resolve(options.cwd, options.file);
  const shown = printable(options.file);
  let handle: FileHandle;
  try {
    handle = await open(profilePath, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw fail(
      'PROFILE_UNREADABLE',
      { detail: `${shown}: ${reasonOf(cause)}`, ...(await suggestion(options)) },
      { cause },
    );
  }
  try {
    const facts = await handle.stat();
    if (!facts.isFile()) throw fail('PROFILE_UNREADABLE', { detail: `${shown}: it is not a file` });
    if (facts.size > PROFILE_BYTES_MAX) {
      throw fail('PROFILE_INVALID', {
        detail: `${shown}: is ${facts.size} bytes long; a profile has at most ${PROFILE_BYTES_MAX}`,
        hint: 'check that it is the file you meant',
      });
    }
    return { profilePath, profileText: decoded(await handle.readFile(), shown) };
  } finally {
    await handle.close();
  }
}

function decoded(bytes: Uint8Array, shown: string): string {
  try {
    // The byte order mark stays, so that the daemon finds the very bytes of the file in the text.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw fail('PROFILE_INVALID', { detail: `${shown}: is not UTF-8`, hint: 'save it as UTF-8 text' }, { cause });
  }
}

function reasonOf(cause: unknown): string {
  switch ((cause as NodeJS.ErrnoException).code) {
    case 'ENOENT':
      return 'there is no such file';
    case 'EACCES':
      return 'you may not read it';
    default:
      return messageOf(cause);
  }
}

/** `run coder` where `profiles/coder.yaml` exists: named in the hint, never guessed. */
async function suggestion(options: {
  readonly file: string;
  readonly cwd: string;
  readonly command?: string;
}): Promise<{ readonly hint?: string }> {
  if (!/^[a-z0-9-]{1,40}$/.test(options.file)) return {};
  const near = `profiles/${options.file}.yaml`;
  const exists = await stat(resolve(options.cwd, near)).then(
    () => true,
    () => false,
  );
  return exists ? { hint: `give its path: \`ringfence ${options.command ?? 'run'} ${near}\`` } : {};
}
