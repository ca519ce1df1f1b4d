import { readFile } from 'node:fs/promises';
import type { Problem } from '../core/errors.ts';
import type { Bound } from '../core/outcome.ts';
import type { EngineFacts } from '../core/ports/engine.ts';
import { formatBytes } from '../core/units.ts';
import type { Path, StrictDocument } from '../profile/document.ts';
import { problemAtPath } from '../profile/problems.ts';
import type { Spec } from '../profile/spec.ts';
import { refusalOf } from './refusal.ts';

/** What this host has, as far as a bound above it would read as held and never be reached. */
export type HostSizes = {
  readonly cpus: number;
  readonly memoryBytes: number;
  /** Process ids that the kernel gives out; null where it does not say. */
  readonly pidsMax: number | null;
  /** The most files that the kernel lets one process open. */
  readonly filesMax: number | null;
};

const HINT = '`ringfence doctor` shows what this host has';

export async function readHostSizes(engine: Pick<EngineFacts, 'cpus' | 'memoryBytes'>): Promise<HostSizes> {
  const [pidsMax, filesMax] = await Promise.all(
    ['/proc/sys/kernel/pid_max', '/proc/sys/fs/nr_open'].map(async (file) => {
      const text = await readFile(file, 'latin1').catch(() => '');
      return /^\d+$/.test(text.trim()) ? Number(text) : null;
    }),
  );
  return {
    cpus: engine.cpus,
    memoryBytes: engine.memoryBytes,
    pidsMax: pidsMax ?? null,
    filesMax: filesMax ?? null,
  };
}

/** Every limit that is beyond this host, with its place in the profile. */
export function beyondHost(spec: Spec, host: HostSizes, document: StrictDocument): readonly Problem[] {
  const problems: Problem[] = [];
  const atMost = (
    name: string,
    { got, max, show, what }: { got: number; max: number | null; show: (value: number) => string; what: string },
  ): void => {
    if (max === null || got <= max) return;
    const message = `must be at most ${show(max)}, ${what} of this host, got ${show(got)}`;
    problems.push(problemAtPath(['limits', name], { message, hint: HINT }, document));
  };
  const { cpuMillis, memoryBytesMax, pidsMax, diskBytesMax, filesMax } = spec.limits;
  atMost('cpu', { got: cpuMillis / 1000, max: host.cpus, show: String, what: 'the cores' });
  atMost('memory', { got: memoryBytesMax, max: host.memoryBytes, show: formatBytes, what: 'the memory' });
  atMost('pids', { got: pidsMax, max: host.pidsMax, show: String, what: 'the process ids' });
  // Scratch is in memory.
  atMost('disk', { got: diskBytesMax, max: host.memoryBytes, show: formatBytes, what: 'the memory' });
  atMost('files', { got: filesMax, max: host.filesMax, show: String, what: 'the most open files of a process' });
  return problems;
}

/** Refuses what nothing holds here, unless the writer accepted just that. `why` says of a bound what is missing. */
export function refuseUnheld(
  bounds: readonly Bound[],
  {
    spec,
    document,
    why,
  }: { readonly spec: Spec; readonly document: StrictDocument; readonly why: (path: string) => string },
): void {
  const problems = bounds
    .filter(({ path, rung }) => rung === 'none' && !spec.accept.includes(acceptName(path)))
    .map(({ path }) => {
      const hint = `write \`accept: [${acceptName(path)}]\` to run without it, which every report will say, or leave it out`;
      return problemAtPath(keysOf(path), { message: `cannot be held on this host: ${why(path)}`, hint }, document);
    });
  if (problems.length > 0) throw refusalOf('HOST_CANNOT_ENFORCE', problems);
}

/** `mounts[0].size` is accepted as `mounts.size`. */
function acceptName(path: string): string {
  return path.replace(/\[\d+\]/, '');
}

/** `mounts[0].path` as the document wants it. */
export function keysOf(path: string): Path {
  return [...path.matchAll(/[^.[\]]+/g)].map(([key]) => (/^\d+$/.test(key) ? Number(key) : key));
}
