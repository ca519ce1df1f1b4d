import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { descendantsOf } from './bench-crowd.ts';
import type { TestDaemon } from './daemon.ts';
import { command, lab } from './lab.ts';
import { snapshot } from './leak-check.ts';

/** What a daemon and its host hold at one moment: how much of everything, and the names of what must go again. */
export type Measures = {
  /** By what is counted, `daemon open files` or `iptables`. */
  readonly counts: ReadonlyMap<string, number>;
  readonly things: ReadonlySet<string>;
};

const ROLES = ['warden', 'gate', 'checker'] as const;
const POOL_PREFIX = '10.213.';
const KIB = 1024;
/** What is written on purpose and kept: the record and its key. */
const KEPT = /\/state\/(?:ledger|keys?)\//;

/** `isOurs`: by run id, because other labs of the machine share the folders of its cgroups. */
export async function measure(daemon: TestDaemon, isOurs: (runId: string) => boolean): Promise<Measures> {
  const counts = new Map<string, number>();
  for (const [role, pid] of processesOf(daemon)) {
    counts.set(`${role}: open files`, filesOf(pid).length);
    counts.set(`${role}: threads`, readdirSync(`/proc/${pid}/task`).length);
    counts.set(`${role}: memory, MiB`, Math.round(statusOf(pid, 'VmRSS') / KIB));
    counts.set(`${role}: heap and stacks, MiB`, Math.round(statusOf(pid, 'RssAnon') / KIB));
  }
  const all = [...(await snapshot())].filter((thing) => isOfThisLab(thing, isOurs));
  const things = new Set([...all, ...filesBelow(daemon.folder)]);
  for (const thing of things) {
    const what = KINDS.find((kind) => thing.startsWith(`${kind} `)) ?? 'other';
    counts.set(what, (counts.get(what) ?? 0) + 1);
  }
  for (const kind of KINDS) if (!counts.has(kind)) counts.set(kind, 0);
  counts.set('ipset sets', (await lines('ipset', ['list', '-name'])).length);
  const flows = await lines('conntrack', ['-L']);
  counts.set('tracked connections of agents', flows.filter((flow) => flow.includes(`=${POOL_PREFIX}`)).length);
  return { counts, things };
}

const KINDS = [
  'container',
  'docker network',
  'volume',
  'interface',
  'routing rule',
  'iptables',
  'ip6tables',
  'ipset',
  'cgroup',
  'mount',
  'process',
  'file',
] as const;

function isOfThisLab(thing: string, isOurs: (runId: string) => boolean): boolean {
  if (!thing.startsWith('cgroup ')) return true;
  return isOurs(thing.slice(thing.lastIndexOf('/') + 1));
}

/** The daemon and those that it started, by what they are. */
function processesOf(daemon: TestDaemon): readonly (readonly [string, number])[] {
  const found: (readonly [string, number])[] = [['daemon', daemon.pid]];
  for (const pid of descendantsOf(daemon.pid)) {
    const line = readFileSync(`/proc/${pid}/cmdline`, 'latin1');
    const role = ROLES.find((name) => line.includes(`/${name}/process`));
    if (role !== undefined) found.push([role, pid]);
  }
  if (found.length !== ROLES.length + 1) throw new Error(`not every process of the daemon runs: ${found.join(', ')}`);
  return found;
}

function filesOf(pid: number): readonly string[] {
  return readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return 'closed meanwhile';
    }
  });
}

function statusOf(pid: number, key: string): number {
  const [, kib] = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
  return Number(kib);
}

function filesBelow(folder: string): readonly string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => !entry.isDirectory()).map((entry) => `${entry.parentPath}/${entry.name}`);
  return paths.filter((path) => !KEPT.test(path)).map((path) => `file ${path.slice(lab.scratch.length + 1)}`);
}

async function lines(file: string, args: readonly string[]): Promise<readonly string[]> {
  const { stdout, exitCode, stderr } = await command(file, args);
  if (exitCode !== 0) throw new Error(`${file} ${args.join(' ')}: ${stderr}`);
  return stdout.split('\n').filter((line) => line !== '');
}
