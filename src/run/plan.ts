import { assert } from '../core/assert.ts';
import type { ContainerPlan, GpuPlan, ImageFacts, NetworkPlan, TmpfsPlan } from '../core/ports/engine.ts';
import type { FenceLease } from '../core/ports/fence.ts';
import type { Spec } from '../profile/spec.ts';
import { commandWithSecrets, environmentOf, SECRETS_FOLDER, secretsByValue } from './environment.ts';
import { launchProblems, uncoveredVolumes } from './launch-problems.ts';
import type { LaunchFacts } from './launch-problems.ts';

/**
 * From a spec to what the engine is asked to make. `launchProblems` says why that cannot be done, before anything
 * exists; `planContainer` is then total.
 */
export const LABEL_RUN = 'ringfence.run';
const LABEL_PROFILE = 'ringfence.profile';
const LABEL_DIGEST = 'ringfence.digest';
const LABEL_VERSION = 'ringfence.version';
/** Labels of the caller get this prefix: without it they could speak to other tools on the host, or for us. */
const LABEL_CALLER_PREFIX = 'ringfence.label.';

const SHARED_MEMORY_BYTES_MAX = 64 * 2 ** 20;
const LOG_BYTES_MAX = 32 * 2 ** 20;
const PAGE_BYTES = 4096;
/** One inode for each of so many bytes of scratch: enough for source trees, and a bound on kernel memory. */
const BYTES_PER_INODE = 8192;
const INODES_MIN = 512;
const INODES_MAX = 1_000_000;

export type ContainerPlanInput = LaunchFacts & {
  readonly runId: string;
  readonly version: string;
  readonly lease: FenceLease;
  /** `binds` are the checked mounts: real paths, in the order of `spec.mounts`. */
  readonly binds: ContainerPlan['binds'];
  /** The folder of the host that holds one file per secret; null without secrets. */
  readonly secretsFolder: string | null;
  /** The certificates of an inspected run, at the places where its image looks for them; no other run has any. */
  readonly trustBinds?: ContainerPlan['binds'];
  /** Left out: none. */
  readonly gpu?: GpuPlan | null;
  readonly cgroupParent: string;
  /** The disks that the run reaches, where their rate is limited. */
  readonly io?: ContainerPlan['io'];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly traceparent?: string | null;
};

export function planNetwork(options: {
  readonly spec: Spec;
  readonly runId: string;
  readonly version: string;
  readonly lease: FenceLease;
}): NetworkPlan {
  const { lease } = options;
  return {
    name: networkName(options.runId),
    bridge: lease.bridge,
    subnet: lease.subnet,
    gateway: lease.gateway,
    labels: ownLabels(options),
  };
}

export function planContainer(input: ContainerPlanInput): ContainerPlan {
  const { spec, image, engine, lease, runId } = input;
  assert(launchProblems(input).length === 0, 'what is planned has no launch problems');
  assert((input.secretsFolder === null) === (spec.secrets.length === 0), 'secrets come in a folder');
  const scratch = scratchOf({ spec, image });
  const trustBinds = input.trustBinds ?? [];
  const gpu = input.gpu ?? null;
  assert((gpu === null) === (spec.limits.gpu === null), 'a run that was granted a GPU has leased one');
  // More cores than the host has would be refused by the engine, and are held by the host itself.
  const cpuMillis = Math.min(spec.limits.cpuMillis, engine.cpus * 1000);
  return {
    name: `ringfence-${spec.name}-${runId}`,
    // By digest, so that what was resolved and recorded is what runs, whatever the tag says by now.
    image: image.digest,
    command: commandWithSecrets(spec.command, secretsByValue(spec)),
    user: `${spec.user.uid}:${spec.user.gid}`,
    env: environmentOf({
      spec,
      runId,
      imageEnv: image.env,
      cpuMillis,
      trust: trustBinds.length > 0,
      gpu,
      traceparent: input.traceparent ?? null,
    }),
    workingDirectory: image.workingDirectory === '' ? '/' : image.workingDirectory,
    hostname: runId,
    tty: input.tty,
    stdin: input.stdin,
    labels: { ...callerLabels(input.labels), ...ownLabels(input) },
    network: networkName(runId),
    address: lease.address,
    dns: lease.gateway,
    cgroupParent: input.cgroupParent,
    cpuMillis,
    memoryBytesMax: spec.limits.memoryBytesMax,
    pidsMax: spec.limits.pidsMax,
    filesMax: spec.limits.filesMax,
    tmpfs: scratch.tmpfs,
    gpu,
    sharedMemoryBytesMax: scratch.sharedMemoryBytesMax,
    binds: [
      ...input.binds,
      ...(input.secretsFolder === null
        ? []
        : [{ source: input.secretsFolder, target: SECRETS_FOLDER, readOnly: true }]),
      ...trustBinds,
    ],
    logBytesMax: LOG_BYTES_MAX,
    io: input.io ?? null,
    appArmorProfile: engine.appArmor ? 'docker-default' : null,
  };
}

export function networkName(runId: string): string {
  return `ringfence-${runId}`;
}

function ownLabels(options: {
  readonly spec: Spec;
  readonly runId: string;
  readonly version: string;
}): Record<string, string> {
  return {
    [LABEL_RUN]: options.runId,
    [LABEL_PROFILE]: options.spec.name,
    [LABEL_DIGEST]: options.spec.profileDigest,
    [LABEL_VERSION]: options.version,
  };
}

function callerLabels(labels: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(labels).map(([key, value]) => [`${LABEL_CALLER_PREFIX}${key}`, value]));
}

/**
 * Everything writable outside mounts, which together is at most `limits.disk`: shared memory, a quarter for the folders
 * that the image declares as volumes (they would otherwise be unbounded folders of the host), and /tmp with the rest.
 * Programs may be run from /tmp: an agent that has an interpreter runs what it likes anyway, and honest builds need it.
 */
function scratchOf(options: { readonly spec: Spec; readonly image: ImageFacts }): {
  readonly tmpfs: readonly TmpfsPlan[];
  readonly sharedMemoryBytesMax: number;
} {
  const diskBytesMax = wholePages(options.spec.limits.diskBytesMax);
  const sharedMemoryBytesMax = Math.min(SHARED_MEMORY_BYTES_MAX, wholePages(diskBytesMax / 4));
  const volumes = uncoveredVolumes(options);
  const volumeBytesMax = volumes.length === 0 ? 0 : wholePages(diskBytesMax / 4 / volumes.length);
  const temporaryBytesMax = diskBytesMax - sharedMemoryBytesMax - volumeBytesMax * volumes.length;
  const tmpfs = [
    scratchFolder({ path: '/tmp', bytesMax: temporaryBytesMax }),
    ...volumes.map((path) => scratchFolder({ path, bytesMax: volumeBytesMax })),
  ];
  return { tmpfs, sharedMemoryBytesMax };
}

function scratchFolder({ path, bytesMax }: { readonly path: string; readonly bytesMax: number }): TmpfsPlan {
  const inodesMax = Math.min(INODES_MAX, Math.max(INODES_MIN, Math.floor(bytesMax / BYTES_PER_INODE)));
  return { path, bytesMax, inodesMax, executable: true };
}

function wholePages(bytes: number): number {
  return Math.floor(bytes / PAGE_BYTES) * PAGE_BYTES;
}
