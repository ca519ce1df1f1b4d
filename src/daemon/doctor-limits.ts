import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { totalmem } from 'node:os';
import type { DoctorCheck } from '../api/service.ts';
import type { EngineFacts } from '../core/ports/engine.ts';
import type { WardenReport } from '../core/ports/warden.ts';
import { formatBytes } from '../core/units.ts';
import { detectLayout } from '../meter/layout.ts';
import { SOCKETS_V1 } from '../meter/limits.ts';
import { contains, parseMountInfo } from '../run/mountinfo.ts';

/** What holds the levels that the engine is asked for. */
export async function limitChecks({
  holds,
  cpus,
  memoryBytes,
  ...engine
}: EngineFacts): Promise<readonly DoctorCheck[]> {
  const swapBytes = await swapOfHost();
  const memory = `${formatBytes(memoryBytes)} of memory, ${formatBytes(totalmem())} seen by the daemon`;
  return [
    holds.cpu
      ? kernel('limits.cpu', `${cpus} cores, shared out by CFS bandwidth`)
      : lacks('limits.cpu', 'no CFS bandwidth', 'use a kernel with CONFIG_CFS_BANDWIDTH'),
    holds.memory
      ? memoryCheck(memory, { swapIsHeld: holds.swap || swapBytes === 0, socketsAreHeld: holdsSockets(engine) })
      : lacks('limits.memory', 'no memory controller', 'boot with cgroup_enable=memory'),
    holds.pids
      ? kernel('limits.pids', 'processes and threads together, pids controller')
      : lacks('limits.pids', 'no pids controller', 'use a kernel with CONFIG_CGROUP_PIDS'),
    kernel('limits.disk', 'read-only root, scratch in sized memory filesystems'),
    kernel('limits.files', 'RLIMIT_NOFILE; each process by itself'),
  ];
}

function memoryCheck(
  evidence: string,
  { swapIsHeld, socketsAreHeld }: { readonly swapIsHeld: boolean; readonly socketsAreHeld: boolean },
): DoctorCheck {
  const gaps = [...(swapIsHeld ? [] : ['swap']), ...(socketsAreHeld ? [] : ['buffers of sockets'])];
  if (gaps.length === 0) return kernel('limits.memory', evidence);
  return {
    ...kernel('limits.memory', `${evidence}; not counted, so an agent has them beside its limit: ${gaps.join(', ')}`),
    state: 'degraded',
    fix: swapIsHeld ? 'use cgroup v2' : 'use cgroup v2, boot with swapaccount=1, or turn swap off',
  };
}

/** v2 counts them as memory; on v1 they have a bound of their own, which systemd's scopes do not get. */
function holdsSockets({ cgroupVersion, cgroupDriver }: Pick<EngineFacts, 'cgroupVersion' | 'cgroupDriver'>): boolean {
  if (cgroupVersion === 2) return !readBootLine().includes('cgroup.memory=nosocket');
  const { mounts } = detectLayout();
  return cgroupDriver === 'cgroupfs' && existsSync(join(mounts.memory, SOCKETS_V1));
}

function readBootLine(): string {
  try {
    return readFileSync('/proc/cmdline', 'latin1');
  } catch {
    return '';
  }
}

/** What notices and ends what is used up over a run. */
export function budgetChecks({ killRung, feed }: Extract<WardenReport, { kind: 'ready' }>): readonly DoctorCheck[] {
  const sampled = (name: string, evidence: string): DoctorCheck => ({
    name: `budget.${name}`,
    state: 'ok',
    rung: 'watchdog',
    evidence: `${evidence}, killed by ${killRung}`,
    fix: null,
  });
  const counted = (name: string): DoctorCheck =>
    feed
      ? kernel(`budget.${name}`, 'counted and cut off by the packet rules, then killed')
      : {
          ...sampled(name, 'counted by the packet rules and sampled'),
          state: 'degraded',
          fix: 'load nfnetlink_log, and restart the daemon',
        };
  return [
    sampled('wall', 'time since the boot of the host, which no clock changes'),
    sampled('cpu', 'the counter of the cgroup, sampled'),
    ...['egress', 'ingress', 'connections'].map(counted),
    sampled('denials', 'each refusal as the kernel or the gate tells it'),
  ];
}

const ROOT_OF_A_RUN = 'the root of a run is read-only and no size is asked of either';
const ITS_DISK = '; limits.io takes its disk to be that of /var/lib/containerd';

/** What no bound depends on, and what explains a host that is slow to hold them. */
export async function storageChecks({
  imageStore,
  storageDriver,
  rootDirectory,
}: EngineFacts): Promise<readonly DoctorCheck[]> {
  return [
    note(
      'image store',
      `${imageStore}, ${storageDriver}; ${ROOT_OF_A_RUN}${imageStore === 'containerd' ? ITS_DISK : ''}`,
    ),
    note('quotas', `${await quotasOf(rootDirectory)}; no bound needs them: sizes are filesystems of their own`),
    await pressureCheck(),
    note('one user', await sharedByUser()),
  ];
}

const QUOTA_OPTIONS = new Set(['quota', 'prjquota', 'pquota', 'usrquota', 'uquota', 'grpquota', 'gquota']);

async function quotasOf(folder: string): Promise<string> {
  const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  const mount = mounts
    .filter(({ target }) => contains(target, folder))
    .findLast(({ target }, _index, found) => found.every((other) => other.target.length <= target.length));
  if (mount === undefined) return `no mount is known for ${folder}`;
  const on = mount.superOptions.filter((option) => QUOTA_OPTIONS.has(option));
  return `${mount.type} at ${mount.target}, quotas ${on.length === 0 ? 'off' : on.join(', ')}`;
}

/** A host that waits for memory is late with everything, killing included. */
const PRESSURE_PERCENT_MAX = 20;

async function pressureCheck(): Promise<DoctorCheck> {
  const shares = await Promise.all(['cpu', 'memory', 'io'].map(pressureOf));
  const [cpu, memory, io] = shares.filter((share) => share !== null);
  if (cpu === undefined || memory === undefined || io === undefined)
    return note('pressure', 'this kernel does not tell it (psi=1 at boot, where it is built in); no bound needs it');
  const evidence = `of the last 10 s, processes waited for cpu ${cpu} %, memory ${memory} %, disk ${io} %`;
  if (memory <= PRESSURE_PERCENT_MAX) return note('pressure', evidence);
  return {
    ...note('pressure', `${evidence}; a host without memory is late with everything, killing included`),
    state: 'degraded',
    fix: 'give the host more memory, or run fewer agents at a time',
  };
}

/** The share of the last ten seconds in which some process waited; null where the kernel does not tell. */
async function pressureOf(resource: string): Promise<number | null> {
  const text = await readFile(`/proc/pressure/${resource}`, 'latin1').catch(() => '');
  const share = /^some avg10=([\d.]+)/m.exec(text)?.[1];
  return share === undefined ? null : Math.round(Number(share));
}

/** What Linux counts for each user, whichever container the user is in. */
async function sharedByUser(): Promise<string> {
  const [instances, watches, pipes] = await Promise.all(
    ['fs/inotify/max_user_instances', 'fs/inotify/max_user_watches', 'fs/pipe-user-pages-soft'].map(async (file) =>
      (await readFile(`/proc/sys/${file}`, 'latin1').catch(() => '?')).trim(),
    ),
  );
  return `agents with the same \`user\` share ${instances} inotify instances, ${watches} watches and ${pipes} pages of pipes; give those that must not disturb each other different ones`;
}

async function swapOfHost(): Promise<number> {
  const text = await readFile('/proc/meminfo', 'latin1').catch(() => '');
  return Number(/^SwapTotal:\s+(\d+)/m.exec(text)?.[1] ?? 0) * 1024;
}

function kernel(name: string, evidence: string): DoctorCheck {
  return { name, state: 'ok', rung: 'kernel', evidence, fix: null };
}

function note(name: string, evidence: string): DoctorCheck {
  return { name, state: 'ok', rung: null, evidence, fix: null };
}

function lacks(name: string, evidence: string, fix: string): DoctorCheck {
  return { name, state: 'missing', rung: 'none', evidence, fix };
}
