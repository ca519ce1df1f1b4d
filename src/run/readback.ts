import type { ContainerFacts, ContainerPlan } from '../core/ports/engine.ts';
import type { Mismatch } from './events.ts';
import { SECRETS_FOLDER } from './environment.ts';
import { contains } from './mountinfo.ts';
import type { Location, Mount } from './mountinfo.ts';
import { NAMESPACES } from './process-facts.ts';
import type { ProcessFacts } from './process-facts.ts';

/**
 * Everything that the launch promised, compared with what the engine, the cgroup and the agent's first process show.
 * Any difference is a reason to kill the run: an engine that drops an option says so only in a warning.
 */
export type LaunchEvidence = {
  readonly plan: ContainerPlan;
  readonly container: ContainerFacts;
  /** Null when the agent was over before its cgroup could be read. */
  readonly kernel: KernelLimits | null;
  /** Null when the agent was over before its process could be read. */
  readonly process: ProcessFacts | null;
  /** The namespaces of the supervisor: none of the agent's may be among them. */
  readonly hostNamespaces: Readonly<Record<string, string>>;
  /** Where the checked mounts were when they were checked, by their place in the container. */
  readonly mountLocations: Readonly<Record<string, Location>>;
};

/** `memorySwapBytesMax` is memory and swap together; null where the kernel does not count swap. */
export type KernelLimits = {
  readonly memoryBytesMax: number;
  readonly memorySwapBytesMax: number | null;
  readonly cpuMillis: number;
  readonly pidsMax: number;
  /** Null where the kernel counts the buffers of sockets as memory, or nothing bounds them. */
  readonly socketBytesMax: number | null;
  /** By disk; null where nothing limits disks. */
  readonly io: Readonly<Record<string, { readonly read: number | null; readonly write: number | null }>> | null;
};

/** Every mismatch by its place; [] means that all of it holds. */
export function compareLaunch(evidence: LaunchEvidence): readonly Mismatch[] {
  const { plan, container, kernel } = evidence;
  return [
    ...compareContainer(plan, container),
    ...(kernel === null ? [] : compareKernel(plan, kernel)),
    ...(evidence.process === null ? [] : compareProcess(evidence, evidence.process)),
  ];
}

function compareContainer(plan: ContainerPlan, container: ContainerFacts): Mismatch[] {
  const modes = container.namespaceModes;
  return [
    ...differs('container.image', plan.image, container.image),
    ...differs('container.user', plan.user, container.user),
    ...differs('container.privileged', false, container.privileged),
    ...differs('container.readOnlyRoot', true, container.readOnlyRoot),
    ...differs('container.capabilitiesAdded', [], container.capabilitiesAdded),
    ...differs('container.capabilitiesDropped', ['ALL'], container.capabilitiesDropped),
    ...differs('container.securityOptions', securityOptions(plan), container.securityOptions.toSorted()),
    ...differs('container.namespaces.pid', '', modes.pid),
    ...differs('container.namespaces.ipc', 'private', modes.ipc),
    ...differs('container.namespaces.uts', '', modes.uts),
    ...differs('container.namespaces.user', '', modes.user),
    ...differs('container.namespaces.network', plan.network, modes.network),
    ...differs('container.namespaces.cgroup', 'private', modes.cgroup),
    ...differs('container.publishedPorts', 0, container.publishedPorts),
    ...differs('container.devices', nodesOf(plan), container.devices),
    ...differs('container.groupsAdded', groupsOf(plan).map(String).toSorted(), container.groupsAdded),
    ...differs('container.deviceRequests', deviceRequestsOf(plan), container.deviceRequests),
    ...differs('container.restartPolicy', 'no', container.restartPolicy),
    ...differs('container.init', true, container.init),
    ...differs('container.cgroupParent', plan.cgroupParent, container.cgroupParent),
    ...differs('container.dns', [plan.dns], container.dns),
    ...differs('container.networks', [{ name: plan.network, address: plan.address }], networksOf(plan, container)),
    ...differs('container.limits.memory', plan.memoryBytesMax, container.memoryBytesMax),
    ...differs('container.limits.memorySwap', plan.memoryBytesMax, container.memorySwapBytesMax),
    ...differs('container.limits.cpu', plan.cpuMillis, container.cpuMillis),
    ...differs('container.limits.pids', plan.pidsMax, container.pidsMax),
    ...differs('container.limits.files', { nofile: plan.filesMax, core: 0 }, container.ulimits),
    ...differs(
      'container.tmpfs',
      plan.tmpfs.map((entry) => entry.path).toSorted(),
      Object.keys(container.tmpfs).toSorted(),
    ),
    ...differs('container.mounts', bindsOf(plan), mountsOf(container)),
    ...differs('container.logDriver', 'json-file', container.logDriver),
    ...differs('container.logBytes', true, logBytesOf(container) <= plan.logBytesMax),
    ...missingLabels(plan, container),
  ];
}

function nodesOf({ gpu }: ContainerPlan): string[] {
  return (gpu?.nodes ?? []).map(({ source, target }) => `${source} → ${target} rw`).toSorted();
}

function groupsOf({ gpu }: ContainerPlan): readonly number[] {
  return gpu?.groupIds ?? [];
}

function deviceRequestsOf({ gpu }: ContainerPlan): string[] {
  if (gpu === null || gpu.devices.length === 0) return [];
  return gpu.request === 'cdi'
    ? [`cdi ${gpu.devices.map((uuid) => `nvidia.com/gpu=${uuid}`).join(',')}`]
    : [`nvidia ${gpu.devices.join(',')} gpu+compute+utility`];
}

/** The address of a container that is over is gone from the answer; then only the name is compared. */
function networksOf(plan: ContainerPlan, container: ContainerFacts): ContainerFacts['networks'] {
  if (container.state === 'running' || container.state === 'paused') return container.networks;
  return container.networks.map(({ name, address }) => ({ name, address: address === '' ? plan.address : address }));
}

function securityOptions(plan: ContainerPlan): string[] {
  const appArmor = plan.appArmorProfile === null ? [] : [`apparmor=${plan.appArmorProfile}`];
  return [...appArmor, 'no-new-privileges:true'];
}

function bindsOf(plan: ContainerPlan): string[] {
  return plan.binds.map((bind) => `bind ${bind.source} → ${bind.target} ${access(bind.readOnly)} rprivate`).toSorted();
}

function mountsOf(container: ContainerFacts): string[] {
  return container.mounts
    .map((mount) => `${mount.type} ${mount.source} → ${mount.target} ${access(mount.readOnly)} ${mount.propagation}`)
    .toSorted();
}

function access(readOnly: boolean): string {
  return readOnly ? 'ro' : 'rw';
}

function logBytesOf(container: ContainerFacts): number {
  const { 'max-size': size, 'max-file': files } = container.logOptions;
  return /^\d+$/.test(size ?? '') && /^\d+$/.test(files ?? '')
    ? Number(size) * Number(files)
    : Number.POSITIVE_INFINITY;
}

function missingLabels(plan: ContainerPlan, container: ContainerFacts): Mismatch[] {
  return Object.entries(plan.labels).flatMap(([key, value]) =>
    differs(`container.labels.${key}`, value, container.labels[key] ?? null),
  );
}

function compareKernel(plan: ContainerPlan, kernel: KernelLimits): Mismatch[] {
  return [
    ...differs('limits.memory', wholePages(plan.memoryBytesMax), kernel.memoryBytesMax),
    ...(kernel.memorySwapBytesMax === null
      ? []
      : differs('limits.memorySwap', wholePages(plan.memoryBytesMax), kernel.memorySwapBytesMax)),
    ...(kernel.socketBytesMax === null
      ? []
      : differs('limits.memorySockets', wholePages(plan.memoryBytesMax), kernel.socketBytesMax)),
    ...differs('limits.cpu', plan.cpuMillis, kernel.cpuMillis),
    ...differs('limits.pids', plan.pidsMax, kernel.pidsMax),
    ...compareIo(plan, kernel),
  ];
}

function compareIo({ io }: ContainerPlan, kernel: KernelLimits): Mismatch[] {
  if (io === null) return [];
  const wanted = { read: io.bytesPerSecond, write: io.bytesPerSecond };
  return io.devices.flatMap(({ device }) => differs(`limits.io.${device}`, wanted, kernel.io?.[device] ?? null));
}

/** The kernel rounds a limit of memory down to pages. */
function wholePages(bytes: number): number {
  return Math.floor(bytes / 4096) * 4096;
}

function compareProcess(evidence: LaunchEvidence, process: ProcessFacts): Mismatch[] {
  const { plan } = evidence;
  const [uid, gid] = plan.user.split(':').map(Number);
  return [
    ...differs('process.uid', [uid, uid, uid, uid], process.uids),
    ...differs('process.gid', [gid, gid, gid, gid], process.gids),
    ...groupsBeyond(process.groups, { main: gid ?? Number.NaN, added: groupsOf(plan) }),
    ...differs('process.noNewPrivileges', true, process.noNewPrivileges),
    ...differs('process.seccomp', 2, process.seccompMode),
    ...Object.entries(process.capabilities).flatMap(([set, bits]) =>
      differs(`process.capabilities.${set}`, '0'.repeat(16), bits),
    ),
    ...differs('process.openFiles', { soft: plan.filesMax, hard: plan.filesMax }, process.openFilesMax),
    ...differs('process.core', { soft: 0, hard: 0 }, process.coreBytesMax),
    ...(plan.appArmorProfile === null
      ? []
      : differs('process.appArmor', `${plan.appArmorProfile} (enforce)`, process.appArmor)),
    ...NAMESPACES.flatMap((name) => ownNamespace(name, evidence.hostNamespaces[name], process.namespaces[name])),
    ...compareMounts(evidence, process.mounts),
  ];
}

/** The engine may list the main group among the others, or not. */
function groupsBeyond(
  groups: readonly number[],
  { main, added }: { readonly main: number; readonly added: readonly number[] },
): Mismatch[] {
  const others = groups.filter((group) => group !== main || added.includes(group));
  return differs('process.groups', ascending(added), ascending(others));
}

function ascending(groups: readonly number[]): number[] {
  return groups.toSorted((a, b) => a - b);
}

function ownNamespace(name: string, host: string | undefined, agent: string | undefined): Mismatch[] {
  if (host !== undefined && agent !== undefined && host !== agent) return [];
  return [{ path: `process.namespaces.${name}`, wanted: 'its own', got: agent ?? 'unknown' }];
}

/** What the kernel has mounted for the agent; the last mount at a place is the one it sees. */
function compareMounts(evidence: LaunchEvidence, mounts: readonly Mount[]): Mismatch[] {
  const { plan } = evidence;
  const seen = new Map(mounts.map((mount) => [mount.target, mount]));
  const wantedFiles = plan.tmpfs.map((entry) => ({
    path: entry.path,
    flags: ['rw', 'nosuid', 'nodev', ...(entry.executable ? [] : ['noexec'])],
    bytesMax: entry.bytesMax,
    inodesMax: entry.inodesMax as number | null,
  }));
  const sharedMemory = {
    path: '/dev/shm',
    flags: ['rw', 'nosuid', 'nodev', 'noexec'],
    bytesMax: plan.sharedMemoryBytesMax,
    inodesMax: null,
  };
  return [
    ...differs('mounts./', true, seen.get('/')?.options.includes('ro') ?? null),
    ...[...wantedFiles, sharedMemory].flatMap((wanted) => compareScratch(wanted, seen.get(wanted.path))),
    ...plan.binds.flatMap((bind) => compareBind(bind, seen.get(bind.target), evidence.mountLocations[bind.target])),
    ...[...seen.values()].flatMap((mount) => unexpected(plan, mount)),
  ];
}

function compareScratch(
  wanted: {
    readonly path: string;
    readonly flags: readonly string[];
    readonly bytesMax: number;
    readonly inodesMax: number | null;
  },
  mount: Mount | undefined,
): Mismatch[] {
  const place = `mounts.${wanted.path}`;
  if (mount === undefined) return [{ path: place, wanted: 'a tmpfs', got: 'nothing mounted' }];
  const missing = wanted.flags.filter((flag) => !mount.options.includes(flag));
  return [
    ...differs(`${place}.type`, 'tmpfs', mount.type),
    ...differs(`${place}.flags`, [], missing),
    ...differs(`${place}.bytes`, wanted.bytesMax, sizeOf(mount)),
    ...(wanted.inodesMax === null ? [] : differs(`${place}.inodes`, wanted.inodesMax, inodesOf(mount))),
  ];
}

function sizeOf(mount: Mount): number | null {
  const match = /^size=(\d+)k$/.exec(mount.superOptions.find((option) => option.startsWith('size=')) ?? '');
  return match === null ? null : Number(match[1]) * 1024;
}

/** The kernel writes great counts in thousands of 1024. */
function inodesOf(mount: Mount): number | null {
  const match = /^nr_inodes=(\d+)(k?)$/.exec(
    mount.superOptions.find((option) => option.startsWith('nr_inodes=')) ?? '',
  );
  return match === null ? null : Number(match[1]) * (match[2] === 'k' ? 1024 : 1);
}

function compareBind(
  bind: ContainerPlan['binds'][number],
  mount: Mount | undefined,
  location: Location | undefined,
): Mismatch[] {
  const place = `mounts.${bind.target}`;
  if (mount === undefined) return [{ path: place, wanted: bind.source, got: 'nothing mounted' }];
  return [
    ...differs(`${place}.access`, true, mount.options.includes(access(bind.readOnly))),
    ...differs(`${place}.propagation`, [], mount.propagation),
    ...(bind.target === SECRETS_FOLDER ? compareSecrets(bind, mount) : compareSource(place, mount, location)),
  ];
}

/** The path may have been made to lead elsewhere after it was checked; what is mounted decides. */
function compareSource(place: string, mount: Mount, location: Location | undefined): Mismatch[] {
  const wanted = location === undefined ? 'a checked place' : `${location.device} ${location.path}`;
  return differs(`${place}.source`, wanted, `${mount.device} ${mount.root}`);
}

/** Secrets stay in memory, in the folder of their own run. */
function compareSecrets(bind: ContainerPlan['binds'][number], mount: Mount): Mismatch[] {
  const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
  return [
    ...differs(`mounts.${bind.target}.inMemory`, true, mount.type === 'tmpfs' || mount.type === 'ramfs'),
    ...differs(`mounts.${bind.target}.folder`, nameOf(bind.source), nameOf(mount.root)),
  ];
}

/** Below these the engine mounts its own masks and devices, the same for every container. */
const FOLDERS_OF_THE_ENGINE = ['/dev', '/proc', '/sys'];

function unexpected(plan: ContainerPlan, mount: Mount): Mismatch[] {
  const planned = [...plan.tmpfs.map((entry) => entry.path), ...plan.binds.map((bind) => bind.target)];
  if (mount.options.includes('ro') || planned.includes(mount.target)) return [];
  if (FOLDERS_OF_THE_ENGINE.some((folder) => contains(folder, mount.target))) return [];
  return [
    { path: `mounts.${mount.target}`, wanted: 'nothing writable', got: `${mount.type} ${mount.options.join(',')}` },
  ];
}

function differs(path: string, wanted: unknown, got: unknown): Mismatch[] {
  const [wantedText, gotText] = [shown(wanted), shown(got)];
  return wantedText === gotText ? [] : [{ path, wanted: wantedText, got: gotText }];
}

/** One text per value, with the keys of objects in order. */
function shown(value: unknown): string {
  if (typeof value === 'string') return value;
  if (typeof value !== 'object' || value === null) return String(value);
  return JSON.stringify(value, (_key, each: unknown) =>
    typeof each === 'object' && each !== null && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).toSorted(([left], [right]) => (left < right ? -1 : 1)))
      : Number.isNaN(each) || each === Number.POSITIVE_INFINITY
        ? String(each)
        : each,
  );
}
