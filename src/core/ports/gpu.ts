/**
 * What the GPUs of this host say, read by a process of its own that may hang or crash. One reading is everything that
 * is known at one moment; what it means for a run is decided elsewhere.
 */
export type GpuReading = {
  /** Milliseconds since boot. */
  readonly atMs: number;
  readonly driverVersion: string;
  readonly libraryVersion: string;
  readonly devices: readonly GpuDevice[];
};

export type GpuDevice = {
  /** `GPU-…`, or `MIG-…` for a slice. */
  readonly uuid: string;
  readonly name: string;
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
};

export type GpuProcess = {
  readonly pid: number;
  /** With the number, what tells a process from a later one of the same number; 0 when it is gone. */
  readonly startTicks: number;
  /** The run whose cgroup it is in, or was when it was last there; null for a process of the host. */
  readonly runId: string | null;
  readonly memoryBytes: number | null;
  readonly samples: readonly GpuProcessSample[];
};

/** How busy a process kept the device from the sample before this one (of any process) until `atUs`. */
export type GpuProcessSample = { readonly atUs: number; readonly percent: number };

export type Gpus = {
  /** The newest reading; null before the first, and where nothing has been read for a while. */
  latest(): GpuReading | null;
  /** Why there are none, or none can be read now, in words; null while readings come. */
  problem(): string | null;
  /** How often to read while runs have devices, and while none has. */
  setPace(pace: 'watching' | 'idle'): void;
  close(): Promise<void>;
};
