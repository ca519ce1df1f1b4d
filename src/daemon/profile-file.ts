import { createHash, timingSafeEqual } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import type { Caller } from '../api/service.ts';
import { fail, messageOf } from '../core/errors.ts';
import { printable } from '../core/text.ts';

/** A profile is written by a person; anything larger is a mistake or an attack on the parser. */
export const PROFILE_BYTES_MAX = 256 * 1024;

/** `sha256:…` over the exact bytes. */
export function digestOf(bytes: Uint8Array | string): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/**
 * The profile as it stands on the disk now, when nobody but root and the caller could have written it. The caller
 * proves with its own copy of the text that it may read the file: the daemon is root, and its error messages quote what
 * they complain about.
 */
export async function readTrustedProfile(
  request: { readonly path: string; readonly text: string },
  caller: Caller,
): Promise<string> {
  const shown = printable(request.path);
  if (!isAbsolute(request.path)) throw fail('PROFILE_UNREADABLE', { detail: `${shown}: the path must be absolute` });
  const file = await open(request.path, constants.O_RDONLY | constants.O_NONBLOCK).catch((cause: unknown) => {
    throw fail('PROFILE_UNREADABLE', { detail: `${shown}: ${messageOf(cause)}` }, { cause });
  });
  try {
    const facts = await file.stat();
    if (!facts.isFile()) throw fail('PROFILE_UNREADABLE', { detail: `${shown} is not a file` });
    if (facts.size > PROFILE_BYTES_MAX) {
      throw fail('PROFILE_INVALID', {
        detail: `${shown}: is ${facts.size} bytes long; a profile has at most ${PROFILE_BYTES_MAX}`,
      });
    }
    if (facts.uid !== 0 && facts.uid !== caller.uid) {
      throw fail('PROFILE_UNTRUSTED', {
        detail: `${shown} belongs to user ${facts.uid}; it must belong to you (user ${caller.uid}) or root`,
      });
    }
    if ((facts.mode & 0o022) !== 0) {
      const mode = (facts.mode & 0o777).toString(8);
      throw fail('PROFILE_UNTRUSTED', {
        detail: `${shown} can be written by others (mode ${mode})`,
        hint: `chmod go-w ${shown}`,
      });
    }
    const bytes = Buffer.alloc(facts.size);
    await file.read(bytes, 0, facts.size, 0);
    const sent = Buffer.from(request.text, 'utf8');
    if (sent.length !== bytes.length || !timingSafeEqual(sent, bytes)) {
      throw fail('PROFILE_CHANGED', { detail: `${shown} is not what was sent` });
    }
    return request.text;
  } finally {
    await file.close();
  }
}
