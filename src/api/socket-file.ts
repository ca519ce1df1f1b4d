import { chmodSync, chownSync } from 'node:fs';
import { lstat, mkdir, stat, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';

import { fail, messageOf } from '../core/errors.ts';
import { SOCKET_PATH_BYTES_MAX } from './endpoints.ts';

const DIRECTORY_MODE = 0o755;
const PROBE_MS = 1_000;

/**
 * Makes the place for the socket: its folder, safe from other users, and no file of a daemon that is gone. Throws
 * DAEMON_ALREADY_RUNNING when somebody answers there, CONFIG_INVALID when the place can't be used.
 */
export async function claimSocketPath(socketPath: string): Promise<void> {
  if (Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX) {
    throw fail('CONFIG_INVALID', {
      detail: `the socket path ${socketPath} is longer than ${SOCKET_PATH_BYTES_MAX} bytes`,
      hint: 'choose a shorter one with `--socket`',
    });
  }
  await prepareDirectory(dirname(socketPath));
  const existing = await lstat(socketPath).catch(() => null);
  if (existing === null) return;
  if (!existing.isSocket()) {
    throw fail('CONFIG_INVALID', {
      detail: `${socketPath} exists and is not a socket`,
      hint: 'move it away, or choose another path with `--socket`',
    });
  }
  if (await answers(socketPath)) {
    throw fail('DAEMON_ALREADY_RUNNING', { detail: `another daemon answers on ${socketPath}` });
  }
  await unlink(socketPath);
}

/**
 * Binds and listens with the mode and group of the socket already right when the first client can reach it: the socket
 * is born 0600 by the umask, and nothing is accepted before this function has returned to the event loop.
 */
export function listenOnSocket(
  server: Server,
  options: { readonly socketPath: string; readonly socketMode: number; readonly socketGroup: number | null },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error) => {
      reject(
        fail(
          'CONFIG_INVALID',
          { detail: `cannot listen on ${options.socketPath}: ${error.message}` },
          { cause: error },
        ),
      );
    };
    server.once('error', failed);
    const umask = process.umask(0o177);
    try {
      server.listen(options.socketPath, () => {
        server.off('error', failed);
        resolve();
      });
    } finally {
      process.umask(umask);
    }
    if (!server.listening) return;
    try {
      if (options.socketGroup !== null) chownSync(options.socketPath, process.geteuid?.() ?? 0, options.socketGroup);
      chmodSync(options.socketPath, options.socketMode);
    } catch (error) {
      server.close();
      failed(error as Error);
    }
  });
}

async function prepareDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true, mode: DIRECTORY_MODE });
  } catch (cause) {
    throw fail('CONFIG_INVALID', { detail: `cannot make ${directory}: ${messageOf(cause)}` }, { cause });
  }
  const facts = await stat(directory);
  const writableByOthers = (facts.mode & 0o002) !== 0 && (facts.mode & 0o1000) === 0;
  if (writableByOthers || (facts.uid !== 0 && facts.uid !== process.geteuid?.())) {
    throw fail('CONFIG_INVALID', {
      detail: `${directory} can be changed by other users, who could put a socket of their own there`,
      hint: `give the folder to root and take away what others may: \`chmod o-w ${directory}\``,
    });
  }
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socketPath);
    const settle = (alive: boolean) => {
      probe.destroy();
      resolve(alive);
    };
    // A daemon too busy to accept within a second is still alive: its file must stay.
    probe.setTimeout(PROBE_MS, () => settle(true));
    probe.once('connect', () => settle(true));
    probe.once('error', (error: NodeJS.ErrnoException) =>
      settle(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}
