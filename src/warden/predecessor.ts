import { readFileSync } from 'node:fs';

/**
 * The warden of an earlier daemon lets go of what the next one claims, within a moment. One that is stopped or hangs
 * does not, and would keep the feed of denied packets, which the kernel gives to one process only: it is ended.
 * True when there was one to end.
 */
export function endPredecessor(options: { readonly pid: number | null; readonly directory: string }): boolean {
  const { pid, directory } = options;
  if (pid === null || pid === process.pid || !isWarden(pid, directory)) return false;
  try {
    process.kill(pid, 'SIGKILL');
    return true;
  } catch {
    // It has ended meanwhile.
    return false;
  }
}

/** By its own command line, because the number in a file may belong to anybody by now. */
function isWarden(pid: number, directory: string): boolean {
  try {
    // Options of Node.js stand before them, and an empty word behind.
    const [entry = '', config = ''] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(-3);
    if (!/\/warden\/process\.[jt]s$/.test(entry)) return false;
    return (JSON.parse(config) as { directory?: unknown }).directory === directory;
  } catch {
    return false;
  }
}
