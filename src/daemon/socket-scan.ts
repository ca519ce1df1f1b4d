import { opendir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { printable } from '../core/text.ts';
import { contains, locate } from '../run/mountinfo.ts';
import type { Location, Mount } from '../run/mountinfo.ts';

/**
 * Whoever can connect to a socket speaks to the process behind it, read-only mount or not: a runtime's socket is root
 * on the host. So a mounted folder may hold no socket at all. The walk stays on paths of the folder itself (mounts are
 * not recursive) and is bounded; a folder too large to check is refused, not assumed harmless.
 */
const ENTRIES_MAX = 500_000;
const DEPTH_MAX = 64;
const SCAN_MS_MAX = 20_000;

/** Why the folder is refused, or null when it holds no socket, device or pipe. */
export async function findSocket(options: {
  readonly folder: string;
  readonly location: Location;
  readonly mounts: readonly Mount[];
}): Promise<string | null> {
  const listening = await listeningInside(options);
  if (listening !== null) return `it holds the listening socket ${printable(listening)}`;
  return await walk(options.folder);
}

/** The kernel's own list: finds what listens without a walk, also by the paths of other mounts. */
async function listeningInside(options: {
  readonly folder: string;
  readonly location: Location;
  readonly mounts: readonly Mount[];
}): Promise<string | null> {
  const table = await readFile('/proc/net/unix', 'utf8');
  for (const line of table.split('\n').slice(1)) {
    const path = /^\S+: \S+ \S+ \S+ \S+ \S+ +\d+ (\/.*)$/.exec(line)?.[1];
    if (path === undefined) continue;
    if (contains(options.folder, path)) return path;
    const location = locate(options.mounts, path);
    if (location?.device === options.location.device && contains(options.location.path, location.path)) return path;
  }
  return null;
}

async function walk(top: string): Promise<string | null> {
  const deadlineMs = performance.now() + SCAN_MS_MAX;
  const waiting = [{ folder: top, depth: 0 }];
  let entries = 0;
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    // A folder that is gone by now holds nothing.
    const directory = await opendir(next.folder, { bufferSize: 512 }).catch(() => null);
    if (directory === null) continue;
    for await (const entry of directory) {
      entries += 1;
      if (entries > ENTRIES_MAX) return `it has more than ${ENTRIES_MAX} entries, too many to check for sockets`;
      const path = join(next.folder, entry.name);
      if (entry.isSocket()) return `it holds the socket ${printable(path)}`;
      if (entry.isCharacterDevice() || entry.isBlockDevice()) return `it holds the device ${printable(path)}`;
      if (!entry.isDirectory()) continue;
      if (next.depth >= DEPTH_MAX) return `it is deeper than ${DEPTH_MAX} folders, too deep to check for sockets`;
      waiting.push({ folder: path, depth: next.depth + 1 });
    }
    if (performance.now() > deadlineMs) return `it took longer than ${SCAN_MS_MAX / 1000} s to check for sockets`;
  }
  return null;
}
