import { constants } from 'node:fs';
import { mkdir, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { fail, messageOf } from '../core/errors.ts';
import { newPrivateKeyPem, signerOf, type NoteSigner } from './note.ts';
import { syncDirectory } from './segments.ts';

/**
 * The private key that signs checkpoints: one file for root alone, made at the first start. Who wants to notice that a
 * ledger was written anew keeps the public text somewhere else; nothing on this host can stop root from using the key.
 */
const KEY_FILE = 'ledger-ed25519.pem';
const NEXT_KEY_FILE = 'ledger-ed25519.next.pem';
const KEY_BYTES_MAX = 4_096;

/** Reads the key of `directory`, or makes one. A key that others could have read is refused, not repaired. */
export async function openSigner(directory: string, name: string): Promise<NoteSigner> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, KEY_FILE);
  const text = (await readKey(path)) ?? (await writeKey(directory, KEY_FILE));
  return signer(name, text, path);
}

/**
 * Makes a new key and puts it in the place of the one in use. `announce` records it, signed by the old one, and is on
 * disk before the new key is in force: a crash in between leaves the old key, which is still known.
 */
export async function rotateSigner(
  directory: string,
  name: string,
  announce: (next: NoteSigner) => Promise<void>,
): Promise<NoteSigner> {
  const next = signer(name, await writeKey(directory, NEXT_KEY_FILE), NEXT_KEY_FILE);
  await announce(next);
  await rename(join(directory, NEXT_KEY_FILE), join(directory, KEY_FILE));
  await syncDirectory(directory);
  return next;
}

function signer(name: string, text: string, path: string): NoteSigner {
  try {
    return signerOf(name, text);
  } catch (error) {
    throw fail('CONFIG_INVALID', { detail: `${path} holds no key for checkpoints: ${messageOf(error)}` });
  }
}

async function readKey(path: string): Promise<string | null> {
  let handle;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw fail('CONFIG_INVALID', { detail: `the key of the ledger cannot be read: ${messageOf(error)}` });
  }
  try {
    const { mode, size } = await handle.stat();
    if ((mode & 0o077) !== 0) {
      throw fail('CONFIG_INVALID', {
        detail: `${path} can be read by others (mode ${(mode & 0o777).toString(8)}), so it signs nothing any more`,
        hint: `chmod 600 ${path}; if others had access, move it away: the next start makes a new key`,
      });
    }
    if (size > KEY_BYTES_MAX) throw fail('CONFIG_INVALID', { detail: `${path} is longer than any key` });
    return await handle.readFile('utf8');
  } finally {
    await handle.close();
  }
}

async function writeKey(directory: string, file: string): Promise<string> {
  const text = newPrivateKeyPem();
  const temporary = join(directory, `${file}.new`);
  const handle = await open(temporary, 'w', 0o600);
  try {
    await handle.chmod(0o600);
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, join(directory, file));
  await syncDirectory(directory);
  return text;
}
