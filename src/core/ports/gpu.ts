/**
 * What the GPUs of this host say, read by a process of its own that may hang or crash. One reading is everything that
 * is known at one moment; what it means for a run is decided elsewhere.
 */
export type GpuReading = GpuView & {
  /** Milliseconds since boot. */
  readonly atMs: number;
  readonly source: GpuSourceName;
};

/** `nvml`: NVIDIA's library. `drm`: what the kernel tells of AMD's and Intel's cards. Each tells of its own devices only. */
export type GpuSourceName = 'nvml' | 'drm';

export type GpuView = {
  /** For people: `driver 580.159.03`, `kernel 6.18.2`. */
  readonly versions: readonly string[];
  readonly devices: readonly GpuDevice[];
};

export type GpuVendor = 'nvidia' | 'amd' | 'intel';

export type GpuDevice = {
  /** `GPU-…`, or `MIG-…` for a slice; `pci:0000:03:00.0` for a card that has no name of its own that lasts. */
  readonly uuid: string;
  readonly name: string;
  readonly vendor: GpuVendor;
  /** The kernel's driver: `nvidia`, `amdgpu`, `xe`, `i915`. */
  readonly driver: string;
  /** `0000:3b:00.0`; empty where the driver does not tell. A slice has that of its card. */
  readonly pciAddress: string;
  /** The card that a slice is part of; null for a card. */
  readonly parentUuid: string | null;
  /** `1g.10gb`; null for a card. */
  readonly migProfile: string | null;
  readonly mig: 'on' | 'off' | 'unsupported';
  readonly memoryBytes: number;
  readonly memoryBytesUsed: number;
  /** Of the whole device; null where it is not told (a slice, some cards). */
  readonly percent: number | null;
  /** Whether `samples` tell how busy each process was. */
  readonly tellsProcesses: boolean;
  /** From when on the samples tell, in the driver's microseconds; whoever has none since did nothing since. */
  readonly sinceUs: number;
  readonly processes: readonly GpuProcess[];
  /** Why nothing is known of this device now, in words; null when everything was read. */
  readonly problem: string | null;
  /** Why it is given to nobody although it can be read, in words; null when it may be given. */
  readonly withheld: string | null;
  /** What a container must be given to use it; [] where the engine knows the device by its id. */
  readonly nodes: readonly GpuNode[];
};

export type GpuNode = {
  /** On the host: `/dev/dri/renderD128`. */
  readonly source: string;
  readonly target: string;
  /** The group that may use it; null where everybody may. */
  readonly groupId: number | null;
};

export type GpuProcess = {
  readonly pid: number;
  /** With the number, what tells a process from a later one of the same number; 0 when it is gone. */
  readonly startTicks: number;
  /** The run whose cgroup it is in, or was when it was last there; null for a process of the host. */
  readonly runId: string | null;
  readonly memoryBytes: number | null;
  /** Memory of the host that the driver holds for it and no cgroup counts. 0 where the driver does not tell. */
  readonly hostMemoryBytes: number;
  readonly samples: readonly GpuProcessSample[];
};

/** How busy a process kept the device from the sample before this one (of any process) until `atUs`. */
export type GpuProcessSample = { readonly atUs: number; readonly percent: number };

export type Gpus = {
  /** The newest reading; null before the first, and where nothing has been read for a while. */
  latest(): GpuView | null;
  /** Why none can be read now, or not those of one source, in words; null while readings come. */
  problem(): string | null;
  /** How often to read while runs have devices, and while none has. */
  setPace(pace: 'watching' | 'idle'): void;
  close(): Promise<void>;
};
