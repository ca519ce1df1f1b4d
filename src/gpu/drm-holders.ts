import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { parseFdinfo, type DrmClient } from './fdinfo.ts';
import type { Owner, Owners } from './owner.ts';
import { runIdOf } from './owner.ts';

/**
 * Which processes of runs have a card open. The driver's figures hang on open files, so every table of open files is
 * looked into: a thread may have one of its own. What cannot be looked into is thrown, and nothing is told of any card
 * then; a process or file that is gone by now is not there.
 */
export type DrmHolder = {
  readonly pid: number;
  readonly owner: Owner;
  readonly clients: readonly DrmClient[];
  /** Nodes, such as `renderD128`, of which the driver told nothing. */
  readonly untold: readonly string[];
  /** Whether it has AMD's compute interface open, whose work the figures of its clients leave out. */
  readonly computes: boolean;
};

export type HolderOptions = {
  readonly procFolder: string;
  readonly owners: Owners;
  /** Whether a thread has the open files of its process. */
  readonly sharesFiles: (pid: number, threadId: number) => boolean;
};

/** Where a process has a node open, also when somebody removed the node. */
const NODE = /\/dri\/((?:card|renderD)\d+)(?: \(deleted\))?$/;
const COMPUTE = /\/kfd(?: \(deleted\))?$/;

export function drmHolders(options: HolderOptions): readonly DrmHolder[] {
  const { procFolder, owners } = options;
  const pids = readdirSync(procFolder).filter((name) => /^\d+$/.test(name));
  return pids.map(Number).flatMap((pid) => {
    // A process joins its run after it was started, so being of none is not remembered.
    if (runIdOf(readGone(`${procFolder}/${pid}/cgroup`) ?? '') === null) return [];
    const found = tablesOf(pid, options).map(openIn);
    const clients = found.flatMap((each) => each.clients);
    const untold = found.flatMap((each) => each.untold);
    const computes = found.some((each) => each.computes);
    return clients.length === 0 && untold.length === 0 && !computes
      ? []
      : [{ pid, owner: owners.of(pid), clients, untold, computes }];
  });
}

function tablesOf(pid: number, { procFolder, sharesFiles }: HolderOptions): readonly string[] {
  const threads = namesIn(`${procFolder}/${pid}/task`).filter((name) => Number(name) !== pid);
  const apart = threads.filter((name) => !sharesFiles(pid, Number(name)));
  return [`${procFolder}/${pid}`, ...apart.map((name) => `${procFolder}/${pid}/task/${name}`)];
}

function openIn(table: string): Omit<DrmHolder, 'pid' | 'owner'> {
  const clients: DrmClient[] = [];
  const untold: string[] = [];
  let computes = false;
  for (const name of namesIn(`${table}/fd`)) {
    const target = unlessGone(() => readlinkSync(`${table}/fd/${name}`)) ?? '';
    if (COMPUTE.test(target)) computes = true;
    const node = NODE.exec(target)?.[1];
    if (node === undefined) continue;
    const text = readGone(`${table}/fdinfo/${name}`);
    if (text === null) continue;
    const client = parseFdinfo(text);
    if (client === null) untold.push(node);
    else clients.push(client);
  }
  return { clients, untold, computes };
}

function namesIn(folder: string): readonly string[] {
  return unlessGone(() => readdirSync(folder)) ?? [];
}

function readGone(path: string): string | null {
  return unlessGone(() => readFileSync(path, 'latin1'));
}

const GONE: ReadonlySet<string> = new Set(['ENOENT', 'ESRCH']);

function unlessGone<T>(look: () => T): T | null {
  try {
    return look();
  } catch (error) {
    if (error instanceof Error && 'code' in error && GONE.has(String(error.code))) return null;
    throw error;
  }
}
