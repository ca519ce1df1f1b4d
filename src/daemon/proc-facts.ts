import { readFile, readlink } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { NAMESPACES, parseProcessFacts } from '../run/process-facts.ts';
import type { ProcessFacts } from '../run/process-facts.ts';

/**
 * What the kernel says about a process; null when it is over. The caller must know that the pid is the one it means
 * (the engine named it, and its container still runs afterwards): pids are used again.
 */
export async function readProcessFacts(pid: number): Promise<ProcessFacts | null> {
  const folder = `/proc/${pid}`;
  try {
    await untilExecuted(folder);
    const [status, limits, mountInfo, namespaces, appArmor] = await Promise.all([
      readFile(`${folder}/status`, 'utf8'),
      readFile(`${folder}/limits`, 'utf8'),
      readFile(`${folder}/mountinfo`, 'utf8'),
      readNamespaces(pid),
      readFile(`${folder}/attr/current`, 'utf8').then(
        (text) => text.trim(),
        () => null,
      ),
    ]);
    // A zombie has no mounts and no namespaces left, and is as good as over.
    if (/^State:\s+[ZX]/m.test(status)) return null;
    return parseProcessFacts({ status, limits, mountInfo, namespaces, appArmor });
  } catch (error) {
    if (GONE.has((error as NodeJS.ErrnoException).code ?? '')) return null;
    throw error;
  }
}

const EXECUTED_MS_MAX = 2000;
const EXECUTED_POLL_MS = 2;

/**
 * The engine answers a start while the runtime's own init may still be on its way to the agent's: it sets the seccomp
 * filter last. After the deadline what is there is read as it is.
 */
async function untilExecuted(folder: string): Promise<void> {
  const deadlineMs = performance.now() + EXECUTED_MS_MAX;
  while (performance.now() < deadlineMs) {
    const name = await readFile(`${folder}/comm`, 'utf8');
    if (!/^(?:runc|crun|youki|runsc)(?::|$)/.test(name.trim())) return;
    await delay(EXECUTED_POLL_MS);
  }
}

/** ENOENT and ESRCH: no such process. EINVAL is what mountinfo answers for one that is just ending. */
const GONE = new Set(['ENOENT', 'ESRCH', 'EINVAL']);

/** `pid` → `pid:[4026531836]` for each kind of namespace; `self` for the supervisor's own. */
export async function readNamespaces(pid: number | 'self'): Promise<Readonly<Record<string, string>>> {
  const links = await Promise.all(
    NAMESPACES.map(async (name): Promise<[string, string]> => [name, await readlink(`/proc/${pid}/ns/${name}`)]),
  );
  return Object.fromEntries(links);
}
