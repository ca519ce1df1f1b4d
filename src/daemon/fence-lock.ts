import { mkdirSync, openSync, closeSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../core/errors.ts';
import { tryLock } from '../kernel/flock.ts';

const LOCK_FOLDER = '/run/ringfence';

/**
 * One daemon holds the fence of a network namespace: two would put their rules over each other's, and each would read
 * the other's back as tampering. The kernel drops the lock with the process. Returns what lets it go.
 */
export function lockFence(folder: string = LOCK_FOLDER): () => void {
  const namespace = /\d+/.exec(readlinkSync('/proc/self/ns/net'))?.[0] ?? 'unknown';
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  const descriptor = openSync(join(folder, `fence-${namespace}.lock`), 'w', 0o600);
  if (tryLock(descriptor)) return () => closeSync(descriptor);
  closeSync(descriptor);
  throw fail('DAEMON_ALREADY_RUNNING', {
    detail: 'another daemon holds the egress fence of this host',
    hint: 'stop it first; a host has one daemon, whatever its state and socket',
  });
}
