import type { GpuDevice, GpuProcess, GpuProcessSample } from '../core/ports/gpu.ts';
import type { Nvml } from '../kernel/nvml.ts';
import { PATTERN, PROCESS_STRIDE_MAX, readProcessRows, readText, readUtilizationRows } from './nvml-layout.ts';
import type { ProcessRow, UtilizationRow } from './nvml-layout.ts';
import { UTILIZATION_STRIDE } from './nvml-layout.ts';
import { NVML, nvmlWords } from './nvml-words.ts';
import { mpsWords } from './mps.ts';
import type { Owners } from './owner.ts';
import type { GpuSource } from './source.ts';

/** Everything the library tells at one moment. Slices of a card are devices of their own beside it. */
export type NvmlSourceOptions = {
  readonly nvml: Nvml;
  readonly owners: Owners;
  /** Milliseconds since boot. */
  now(): number;
  /** Microseconds of the clock that the driver stamps its samples with. */
  clockUs(): number;
};

const TEXT_BYTES = 128;
const PCI_BYTES = 68;
const PCI_ADDRESS = { offset: 36, bytes: 32 } as const;
/** More processes on one device than this is no agent's doing; the buffers grow up to it. */
const ROWS_MAX = 4_096;
const ROWS_FIRST = 64;
const DEVICES_MAX = 64;
/** Without a sample to begin at, so far back: further, the driver averages over a time that is over. */
const LOOK_BACK_US = 1_000_000;

type Handle = bigint;

export function openNvmlSource(options: NvmlSourceOptions): GpuSource {
  const { nvml, owners } = options;
  const code = nvml.init();
  if (code !== NVML.ok) throw new Error(nvmlWords(code));
  /** Up to when the processes of each device have been told, in the driver's microseconds. */
  const seenUs = new Map<string, number>();

  const textOf = (ask: (text: Buffer) => number): string => {
    const text = Buffer.alloc(TEXT_BYTES);
    return told(ask(text), () => readText(text));
  };

  const readDevice = (handle: Handle, parent: GpuDevice | null): GpuDevice => {
    const uuid = textOf((text) => nvml.uuid(handle, text));
    const name = textOf((text) => nvml.name(handle, text));
    const identity = {
      uuid,
      name,
      vendor: 'nvidia' as const,
      driver: 'nvidia',
      pciAddress: parent?.pciAddress ?? pciAddressOf(nvml, handle),
      parentUuid: parent?.uuid ?? null,
      migProfile: parent === null ? null : (/ MIG (\S+)$/.exec(name)?.[1] ?? ''),
    };
    try {
      return { ...identity, ...measure(handle, { uuid, isSlice: parent !== null }), problem: null, nodes: [] };
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      return { ...identity, ...NOTHING, problem, nodes: [] };
    }
  };

  const measure = (
    handle: Handle,
    { uuid, isSlice }: { readonly uuid: string; readonly isSlice: boolean },
  ): Measured => {
    const memory = Buffer.alloc(24);
    expectOk(nvml.memory(handle, memory));
    const memoryBytes = Number(memory.readBigUInt64LE(0));
    const mig = isSlice ? 'on' : migModeOf(nvml, handle);
    const plausible = { deviceMemoryBytes: memoryBytes, isProcess: (pid: number) => owners.isKnown(pid) };
    const rows = processesOf(nvml, handle, plausible);
    const mps = listOf(nvml, 'MPSCompute', handle, plausible);
    const sinceUs = since(uuid);
    const utilization = mig === 'on' ? null : utilizationOf(nvml, handle, sinceUs);
    if (utilization !== null) seenUs.set(uuid, newest(utilization, seenUs.get(uuid) ?? 0));
    return {
      mig,
      memoryBytes,
      memoryBytesUsed: Number(memory.readBigUInt64LE(16)),
      percent: mig === 'on' ? null : percentOf(nvml, handle),
      tellsProcesses: utilization !== null,
      sinceUs,
      processes: joined(merged([...rows, ...mps]), utilization ?? [], owners),
      withheld: mps.length === 0 ? null : mpsWords(mps.map(({ pid }) => pid)),
    };
  };

  /**
   * An idle device has no samples, so its clock is moved on, or the next one would count for all the idle time. A clock
   * that was set back would hide all samples until it is where it was.
   */
  const since = (uuid: string): number => {
    const atUs = options.clockUs();
    const seen = seenUs.get(uuid) ?? 0;
    return seen > atUs + LOOK_BACK_US ? atUs - LOOK_BACK_US : Math.max(seen, atUs - LOOK_BACK_US);
  };
  const newest = (rows: readonly UtilizationRow[], seen: number): number =>
    rows.length === 0 ? seen : Math.max(...rows.map(({ atUs }) => atUs));

  return {
    read: () => {
      const count = Buffer.alloc(4);
      expectOk(nvml.deviceCount(count));
      const devices: GpuDevice[] = [];
      for (let index = 0; index < Math.min(count.readUInt32LE(0), DEVICES_MAX); index += 1) {
        const handle = Buffer.alloc(8);
        expectOk(nvml.deviceByIndex(index, handle));
        const card = readDevice(handle.readBigUInt64LE(0), null);
        devices.push(card);
        if (card.mig !== 'on') continue;
        for (const slice of slicesOf(nvml, handle.readBigUInt64LE(0))) devices.push(readDevice(slice, card));
      }
      owners.keep(new Set(devices.flatMap(({ processes }) => processes.map(({ pid }) => pid))));
      return {
        atMs: options.now(),
        source: 'nvml',
        versions: [
          `driver ${textOf((text) => nvml.driverVersion(text))}`,
          `library ${textOf((text) => nvml.libraryVersion(text))}`,
        ],
        devices,
      };
    },
    close: () => void nvml.shutdown(),
  };
}

type Identity = 'uuid' | 'name' | 'vendor' | 'driver' | 'pciAddress' | 'parentUuid' | 'migProfile';
type Measured = Omit<GpuDevice, Identity | 'problem' | 'nodes'>;

const NOTHING = {
  mig: 'unsupported',
  memoryBytes: 0,
  memoryBytesUsed: 0,
  percent: null,
  tellsProcesses: false,
  sinceUs: 0,
  processes: [],
  withheld: null,
} as const;

function told<T>(code: number, value: () => T): T {
  expectOk(code);
  return value();
}

function expectOk(code: number): void {
  if (code !== NVML.ok) throw new Error(nvmlWords(code));
}

/** `00000000:3B:00.0` as the kernel writes it: `0000:3b:00.0`. */
function pciAddressOf(nvml: Nvml, handle: Handle): string {
  const info = Buffer.alloc(PCI_BYTES);
  if (nvml.pci === null || nvml.pci(handle, info) !== NVML.ok) return '';
  const written = readText(info.subarray(PCI_ADDRESS.offset, PCI_ADDRESS.offset + PCI_ADDRESS.bytes)).toLowerCase();
  return written.replace(/^0{4}(?=[0-9a-f]{4}:)/, '');
}

function migModeOf(nvml: Nvml, handle: Handle): GpuDevice['mig'] {
  if (nvml.migMode === null) return 'unsupported';
  const [current, pending] = [Buffer.alloc(4), Buffer.alloc(4)];
  const code = nvml.migMode(handle, current, pending);
  if (code === NVML.notSupported || code === NVML.functionMissing) return 'unsupported';
  expectOk(code);
  return current.readUInt32LE(0) === 1 ? 'on' : 'off';
}

/** Slices need not be numbered without gaps. */
function slicesOf(nvml: Nvml, card: Handle): readonly Handle[] {
  const count = Buffer.alloc(4);
  if (nvml.migDeviceCountMax === null || nvml.migDeviceByIndex === null) return [];
  expectOk(nvml.migDeviceCountMax(card, count));
  const slices: Handle[] = [];
  for (let index = 0; index < Math.min(count.readUInt32LE(0), DEVICES_MAX); index += 1) {
    const handle = Buffer.alloc(8);
    const code = nvml.migDeviceByIndex(card, index, handle);
    if (code === NVML.notFound) continue;
    expectOk(code);
    slices.push(handle.readBigUInt64LE(0));
  }
  return slices;
}

function percentOf(nvml: Nvml, handle: Handle): number | null {
  const rates = Buffer.alloc(8);
  const code = nvml.utilization(handle, rates);
  if (code === NVML.notSupported || code === NVML.functionMissing) return null;
  expectOk(code);
  return Math.min(100, rates.readUInt32LE(0));
}

type Context = { readonly deviceMemoryBytes: number; isProcess(pid: number): boolean };

function processesOf(nvml: Nvml, handle: Handle, plausible: Context): readonly ProcessRow[] {
  return ['Compute', 'Graphics'].flatMap((kind) => listOf(nvml, kind, handle, plausible));
}

/** By the newest function of this kind that the driver has. */
function listOf(nvml: Nvml, kind: string, handle: Handle, plausible: Context): readonly ProcessRow[] {
  const list = nvml.processes.find(({ name }) => name.startsWith(`nvmlDeviceGet${kind}`));
  return list === undefined ? [] : processList(list, handle, plausible);
}

/** A process in several lists is one. Each list tells all the memory of a process, so it is not added up. */
function merged(rows: readonly ProcessRow[]): readonly ProcessRow[] {
  const found = new Map<number, ProcessRow>();
  for (const { pid, memoryBytes } of rows) {
    const other = found.get(pid);
    found.set(pid, { pid, memoryBytes: other === undefined ? memoryBytes : larger(other.memoryBytes, memoryBytes) });
  }
  return [...found.values()];
}

function larger(one: number | null, other: number | null): number | null {
  return one === null ? other : other === null ? one : Math.max(one, other);
}

function processList(list: Nvml['processes'][number], handle: Handle, plausible: Context): readonly ProcessRow[] {
  for (let capacity = ROWS_FIRST; capacity <= ROWS_MAX; capacity *= 4) {
    const rows = Buffer.alloc(capacity * PROCESS_STRIDE_MAX, PATTERN);
    const count = Buffer.alloc(4);
    count.writeUInt32LE(capacity);
    const code = list.list(handle, count, rows);
    if (code === NVML.tooSmall) continue;
    if (code === NVML.notFound || code === NVML.notSupported) return [];
    expectOk(code);
    const read = readProcessRows(rows, count.readUInt32LE(0), plausible);
    if (read === null) throw new Error(`${list.name} writes rows that no known layout makes sense of`);
    return read;
  }
  throw new Error(`more than ${ROWS_MAX} processes are on the device`);
}

/** Null where the device does not tell how busy each process is; nothing is told of processes that did nothing. */
function utilizationOf(nvml: Nvml, handle: Handle, sinceUs: number): readonly UtilizationRow[] | null {
  if (nvml.processUtilization === null) return null;
  for (let capacity = ROWS_FIRST; capacity <= ROWS_MAX; capacity *= 4) {
    const rows = Buffer.alloc(capacity * UTILIZATION_STRIDE, PATTERN);
    const count = Buffer.alloc(4);
    count.writeUInt32LE(capacity);
    const code = nvml.processUtilization(handle, { rows, count, sinceUs: BigInt(Math.floor(sinceUs)) });
    if (code === NVML.tooSmall) continue;
    if (code === NVML.notFound) return [];
    if (code === NVML.notSupported || code === NVML.functionMissing) return null;
    expectOk(code);
    const read = readUtilizationRows(rows, count.readUInt32LE(0));
    if (read === null) throw new Error('nvmlDeviceGetProcessUtilization writes rows of another size');
    // What is not newer than what was asked for would be counted twice.
    return read.filter(({ atUs }) => atUs > sinceUs);
  }
  throw new Error(`more than ${ROWS_MAX} processes are on the device`);
}

/** A process that worked and has left the device since is in the samples alone. */
function joined(
  rows: readonly ProcessRow[],
  utilization: readonly UtilizationRow[],
  owners: Owners,
): readonly GpuProcess[] {
  const listed = new Map(rows.map((row) => [row.pid, row]));
  for (const { pid } of utilization) {
    if (!listed.has(pid) && owners.isKnown(pid)) listed.set(pid, { pid, memoryBytes: 0 });
  }
  return [...listed.values()].map(({ pid, memoryBytes }) => {
    const samples = utilization
      .filter((row) => row.pid === pid)
      .map(({ atUs, percent }): GpuProcessSample => ({ atUs, percent }))
      .toSorted((a, b) => a.atUs - b.atUs);
    return { pid, ...owners.of(pid), memoryBytes, hostMemoryBytes: 0, samples };
  });
}
