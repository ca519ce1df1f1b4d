import type { Readable, Writable } from 'node:stream';

/**
 * What the supervisor needs of a container engine, and no more. The fake engine and the Docker adapter pass one
 * conformance suite. Every call has its own time-out inside the adapter and rejects with a RingfenceError:
 * ENGINE_UNREACHABLE, ENGINE_FAILED or IMAGE_NOT_FOUND. Removing what is already gone is a success.
 */
export type Engine = {
  facts(): Promise<EngineFacts>;
  /** What it is made of, by the names that it gives itself: `Engine`, `containerd`, `runc`. */
  components(): Promise<readonly EngineComponent[]>;
  /** A tag or digest to what it stands for on this host. Never pulls. Throws IMAGE_NOT_FOUND. */
  resolveImage(reference: string): Promise<ImageFacts>;
  /** Whether the image (by digest) holds a file at this absolute path. Starts nothing. */
  imageHasFile(digest: string, path: string): Promise<boolean>;
  /** The regular files of an image among these absolute paths, of at most 4 MiB each. Starts nothing. */
  readImageFiles(digest: string, paths: readonly string[]): Promise<ReadonlyMap<string, Uint8Array>>;
  createNetwork(plan: NetworkPlan): Promise<string>;
  removeNetwork(idOrName: string): Promise<void>;
  listNetworks(label: string): Promise<readonly NetworkFacts[]>;
  /** Every subnet in use by any network of the engine, ours or not. */
  listSubnets(): Promise<readonly string[]>;
  createContainer(plan: ContainerPlan): Promise<string>;
  /** Resolves when the first process runs. Throws ENGINE_FAILED with `exitCode: 127 | 126` when the command cannot. */
  startContainer(id: string): Promise<void>;
  inspectContainer(id: string): Promise<ContainerFacts>;
  listContainers(label: string): Promise<readonly ContainerSummary[]>;
  /** To be called before `startContainer`, or the first bytes are lost. */
  attach(id: string, options: { readonly tty: boolean; readonly stdin: boolean }): Promise<Attachment>;
  /** Chunks as written by the agent, oldest first; ends at the end of the log, or with `follow` when the run ends. */
  logs(id: string, options: LogOptions): AsyncIterable<OutputChunk>;
  resizeTty(id: string, size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** Clean-up and polite signals only: the kill path never comes here. */
  signalContainer(id: string, signal: string): Promise<void>;
  removeContainer(id: string): Promise<void>;
  /** Ends only when aborted; reconnects by itself and then yields `reconnected`, after which the caller must list anew. */
  events(signal: AbortSignal): AsyncIterable<EngineEvent>;
};

export type EngineFacts = {
  readonly version: string;
  readonly apiVersion: string;
  readonly cgroupVersion: 1 | 2;
  readonly cgroupDriver: 'cgroupfs' | 'systemd';
  readonly storageDriver: string;
  /** Where images and layers lie: the engine's own graph drivers, or snapshotters of containerd. */
  readonly imageStore: 'classic' | 'containerd';
  /** What the engine itself finds in the kernel. */
  readonly holds: { readonly cpu: boolean; readonly memory: boolean; readonly swap: boolean; readonly pids: boolean };
  readonly rootDirectory: string;
  readonly appArmor: boolean;
  readonly seccomp: boolean;
  readonly userNamespaces: boolean;
  readonly liveRestore: boolean;
  /** Folders in which the engine looks for device specifications; empty where it has no such interface. */
  readonly cdiFolders: readonly string[];
  readonly cpus: number;
  readonly memoryBytes: number;
};

/** `build`: what a distribution calls its own build of it, empty where nothing is said. */
export type EngineComponent = { readonly name: string; readonly version: string; readonly build: string };

export type ImageFacts = {
  /** `sha256:…` of the image configuration: what runs, whatever a tag says later. */
  readonly digest: string;
  readonly repoDigests: readonly string[];
  readonly entrypoint: readonly string[];
  readonly env: readonly string[];
  readonly user: string;
  readonly volumes: readonly string[];
  readonly workingDirectory: string;
  readonly sizeBytes: number;
};

export type NetworkPlan = {
  readonly name: string;
  readonly bridge: string;
  readonly subnet: string;
  readonly gateway: string;
  readonly labels: Readonly<Record<string, string>>;
};

export type NetworkFacts = {
  readonly id: string;
  readonly name: string;
  readonly bridge: string;
  readonly subnet: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly containerIds: readonly string[];
};

/** A container as this project makes them; what is not here (capabilities, privilege, devices, ports) is never given. */
export type ContainerPlan = {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly user: string;
  readonly env: readonly string[];
  readonly workingDirectory: string | null;
  readonly hostname: string;
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly labels: Readonly<Record<string, string>>;
  readonly network: string;
  readonly address: string;
  readonly dns: string;
  readonly cgroupParent: string;
  readonly cpuMillis: number;
  readonly memoryBytesMax: number;
  readonly pidsMax: number;
  readonly filesMax: number;
  readonly tmpfs: readonly TmpfsPlan[];
  readonly sharedMemoryBytesMax: number;
  /** The devices of the run, by id; null for none. */
  readonly gpu: GpuPlan | null;
  readonly binds: readonly { readonly source: string; readonly target: string; readonly readOnly: boolean }[];
  readonly logBytesMax: number;
  /** What a disk may be read and written with, each way by itself; null without such a bound. */
  readonly io: IoPlan | null;
  readonly appArmorProfile: string | null;
};

export type IoPlan = {
  readonly bytesPerSecond: number;
  /** Whole disks: `254:0` and its node of the host. */
  readonly devices: readonly { readonly device: string; readonly path: string }[];
};

export type TmpfsPlan = {
  readonly path: string;
  readonly bytesMax: number;
  readonly inodesMax: number;
  readonly executable: boolean;
};

export type GpuPlan = {
  /** By the engine's own device interface, or through NVIDIA's runtime hook. */
  readonly request: 'cdi' | 'nvidia';
  /** NVIDIA's, by id. */
  readonly devices: readonly string[];
  /** Device nodes of other vendors. */
  readonly nodes: readonly { readonly source: string; readonly target: string }[];
  /** The groups that may use those nodes. */
  readonly groupIds: readonly number[];
};

/** What inspection says, reduced to what is compared with the plan. */
export type ContainerFacts = {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: 'created' | 'running' | 'paused' | 'restarting' | 'removing' | 'exited' | 'dead';
  readonly pid: number | null;
  readonly exitCode: number | null;
  readonly oomKilledFlag: boolean;
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
  readonly user: string;
  readonly privileged: boolean;
  readonly readOnlyRoot: boolean;
  readonly capabilitiesAdded: readonly string[];
  readonly capabilitiesDropped: readonly string[];
  readonly securityOptions: readonly string[];
  readonly appArmorProfile: string;
  readonly namespaceModes: {
    readonly pid: string;
    readonly ipc: string;
    readonly uts: string;
    readonly user: string;
    readonly network: string;
    readonly cgroup: string;
  };
  readonly publishedPorts: number;
  /** `/dev/dri/renderD128 → /dev/dri/renderD128 rw`, sorted. */
  readonly devices: readonly string[];
  readonly groupsAdded: readonly string[];
  /** `cdi nvidia.com/gpu=GPU-…`: driver, devices and capabilities of each request, sorted. */
  readonly deviceRequests: readonly string[];
  readonly restartPolicy: string;
  readonly memoryBytesMax: number;
  readonly memorySwapBytesMax: number;
  readonly cpuMillis: number;
  readonly pidsMax: number;
  readonly ulimits: Readonly<Record<string, number>>;
  readonly tmpfs: Readonly<Record<string, string>>;
  readonly mounts: readonly {
    readonly type: string;
    readonly source: string;
    readonly target: string;
    readonly readOnly: boolean;
    readonly propagation: string;
  }[];
  readonly networks: readonly { readonly name: string; readonly address: string }[];
  readonly dns: readonly string[];
  readonly logDriver: string;
  readonly logOptions: Readonly<Record<string, string>>;
  readonly init: boolean;
  readonly cgroupParent: string;
};

export type ContainerSummary = {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly labels: Readonly<Record<string, string>>;
};

/** The agent's terminal or pipes. With a TTY everything arrives on `stdout`. Both outputs end when the agent does. */
export type Attachment = {
  readonly stdin: Writable | null;
  readonly stdout: Readable;
  readonly stderr: Readable;
  close(): void;
};

export type LogOptions = { readonly follow: boolean; readonly tailLines: number | null; readonly signal: AbortSignal };

export type OutputChunk = { readonly stream: 'stdout' | 'stderr'; readonly bytes: Uint8Array };

export type EngineEvent =
  | {
      readonly kind: 'died';
      readonly containerId: string;
      readonly exitCode: number;
      readonly labels: Readonly<Record<string, string>>;
    }
  | { readonly kind: 'oom'; readonly containerId: string }
  | {
      /** Something somebody else did to a container: exec, restart, pause, unpause, update, rename. */
      readonly kind: 'touched';
      readonly containerId: string;
      readonly action: string;
    }
  | { readonly kind: 'network-attached'; readonly containerId: string; readonly network: string }
  | { readonly kind: 'network-detached'; readonly containerId: string; readonly network: string }
  | { readonly kind: 'reconnected' };
