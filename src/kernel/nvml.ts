import koffi from 'koffi';
import { messageOf } from '../core/errors.ts';

/**
 * NVIDIA's management library, as little of it as is asked. Every function gives the library's own return code; what it
 * writes goes into buffers of the caller, whose layouts are `gpu/nvml-layout.ts`'s business. Any call may block for
 * seconds on a sick device or crash with the driver, so this is loaded in a process of its own and nowhere else.
 */
export type Nvml = {
  init(): number;
  shutdown(): number;
  driverVersion(text: Buffer): number;
  libraryVersion(text: Buffer): number;
  deviceCount(count: Buffer): number;
  deviceByIndex(index: number, handle: Buffer): number;
  migDeviceByIndex: Optional<(device: bigint, index: number, handle: Buffer) => number>;
  migDeviceCountMax: Optional<(device: bigint, count: Buffer) => number>;
  migMode: Optional<(device: bigint, current: Buffer, pending: Buffer) => number>;
  uuid(device: bigint, text: Buffer): number;
  name(device: bigint, text: Buffer): number;
  pci: Optional<(device: bigint, info: Buffer) => number>;
  memory(device: bigint, info: Buffer): number;
  utilization(device: bigint, rates: Buffer): number;
  /** `stride`: what the suffix of the function promises; drivers have broken it in both directions. */
  processes: readonly {
    readonly name: string;
    readonly stride: number;
    list(device: bigint, count: Buffer, rows: Buffer): number;
  }[];
  processUtilization: Optional<
    (device: bigint, at: { readonly rows: Buffer; readonly count: Buffer; readonly sinceUs: bigint }) => number
  >;
};

/** `null`: this library has no such function. */
type Optional<Call> = Call | null;

type Native = (...values: unknown[]) => number;

const HANDLE = 'uint64_t';

/** Throws with the loader's own words when the file is not there, or is no such library. */
export function openNvml(path: string): Nvml {
  const library = load(path);
  const find = (declaration: string): Native | null => {
    try {
      return library.func(declaration);
    } catch {
      return null;
    }
  };
  /** Newest first; a library older than all of them is none that can be used. */
  const need = (...declarations: readonly string[]): Native => {
    for (const declaration of declarations) {
      const found = find(declaration);
      if (found !== null) return found;
    }
    throw new Error(`${path} has no ${/nvml\w+/.exec(declarations[0] ?? '')?.[0] ?? 'such function'}`);
  };
  const init = need('int nvmlInit_v2()');
  const shutdown = need('int nvmlShutdown()');
  const driverVersion = need('int nvmlSystemGetDriverVersion(void *text, unsigned int length)');
  const libraryVersion = need('int nvmlSystemGetNVMLVersion(void *text, unsigned int length)');
  const count = need('int nvmlDeviceGetCount_v2(void *count)');
  const byIndex = need('int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void *handle)');
  const migByIndex = find(
    `int nvmlDeviceGetMigDeviceHandleByIndex(${HANDLE} device, unsigned int index, void *handle)`,
  );
  const migCount = find(`int nvmlDeviceGetMaxMigDeviceCount(${HANDLE} device, void *count)`);
  const migMode = find(`int nvmlDeviceGetMigMode(${HANDLE} device, void *current, void *pending)`);
  const uuid = need(`int nvmlDeviceGetUUID(${HANDLE} device, void *text, unsigned int length)`);
  const name = need(`int nvmlDeviceGetName(${HANDLE} device, void *text, unsigned int length)`);
  const pci = find(`int nvmlDeviceGetPciInfo_v3(${HANDLE} device, void *info)`);
  const memory = need(`int nvmlDeviceGetMemoryInfo(${HANDLE} device, void *info)`);
  const utilization = need(`int nvmlDeviceGetUtilizationRates(${HANDLE} device, void *rates)`);
  const byProcess = find(
    `int nvmlDeviceGetProcessUtilization(${HANDLE} device, void *rows, void *count, uint64_t since)`,
  );
  return {
    init: () => init(),
    shutdown: () => shutdown(),
    driverVersion: (text) => driverVersion(text, text.length),
    libraryVersion: (text) => libraryVersion(text, text.length),
    deviceCount: (into) => count(into),
    deviceByIndex: (index, handle) => byIndex(index, handle),
    migDeviceByIndex: migByIndex && ((device, index, handle) => migByIndex(device, index, handle)),
    migDeviceCountMax: migCount && ((device, into) => migCount(device, into)),
    migMode: migMode && ((device, current, pending) => migMode(device, current, pending)),
    uuid: (device, text) => uuid(device, text, text.length),
    name: (device, text) => name(device, text, text.length),
    pci: pci && ((device, info) => pci(device, info)),
    memory: (device, info) => memory(device, info),
    utilization: (device, rates) => utilization(device, rates),
    processes: PROCESS_LISTS.flatMap((list) => {
      const call = find(`int ${list.name}(${HANDLE} device, void *count, void *rows)`);
      if (call === null) return [];
      return [{ ...list, list: (device: bigint, into: Buffer, rows: Buffer) => call(device, into, rows) }];
    }),
    processUtilization:
      byProcess && ((device, { rows, count: into, sinceUs }) => byProcess(device, rows, into, sinceUs)),
  };
}

/** The loader's words do not say which file they are about. */
function load(path: string): ReturnType<typeof koffi.load> {
  try {
    return koffi.load(path);
  } catch (error) {
    throw new Error(`${path}: ${messageOf(error)}`, { cause: error });
  }
}

/** A process may have contexts of several kinds and is listed in each. */
const PROCESS_LISTS = ['Compute', 'Graphics', 'MPSCompute'].flatMap((kind) => [
  { name: `nvmlDeviceGet${kind}RunningProcesses_v3`, stride: 24 },
  { name: `nvmlDeviceGet${kind}RunningProcesses_v2`, stride: 24 },
  { name: `nvmlDeviceGet${kind}RunningProcesses`, stride: 16 },
]);
