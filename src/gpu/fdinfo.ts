import { readdirSync, readFileSync } from 'node:fs';

/**
 * What AMD, Intel and other drivers of the kernel's own graphics layer tell of each client, in `/proc/PID/fdinfo/FD`
 * (kernel documentation: DRM client usage stats). NVIDIA's driver tells nothing there.
 */
export type DrmClient = {
  /** `amdgpu`, `xe`, `i915`. */
  readonly driver: string;
  /** `0000:03:00.0`; empty for devices without one. */
  readonly pciAddress: string;
  /** Unique per device: descriptors that were passed on or inherited have the same one. */
  readonly clientId: number;
  /** Time that each engine worked for this client; an engine of several units counts once. */
  readonly busyNs: Readonly<Record<string, number>>;
  readonly units: Readonly<Record<string, number>>;
  /** For drivers that count cycles instead: how many, of how many that passed. */
  readonly cycles: Readonly<Record<string, { readonly used: number; readonly total: number }>>;
  /** Memory of the device itself that the client holds. */
  readonly memoryBytes: number;
};

const KEY = /^(drm-[a-z0-9-]+):\s*(.*?)\s*$/;
const SIZE = /^(\d+)(?: (KiB|MiB))?$/;
const TIME = /^(\d+) ns$/;
const COUNT = /^(\d+)$/;
const UNIT_BYTES: Readonly<Record<string, number>> = { KiB: 1_024, MiB: 2 ** 20 };
/** Regions of the device; `system`, `gtt` and the like are memory of the host, and its cgroup counts that. */
const DEVICE_REGION = /^(?:vram|local|stolen)\d*$/;

/** Null for a descriptor that is no client of a graphics device. */
export function parseFdinfo(text: string): DrmClient | null {
  const fields = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = KEY.exec(line);
    if (match !== null) fields.set(match[1] ?? '', match[2] ?? '');
  }
  const driver = fields.get('drm-driver');
  const clientId = countOf(fields.get('drm-client-id'));
  if (driver === undefined || clientId === null) return null;
  const busyNs: Record<string, number> = {};
  const units: Record<string, number> = {};
  const cycles: Record<string, { used: number; total: number }> = {};
  for (const [key, value] of fields) {
    const time = TIME.exec(value);
    const count = countOf(value);
    const capacity = after(key, 'drm-engine-capacity-');
    const engine = after(key, 'drm-engine-');
    const used = key.startsWith('drm-cycles-') ? after(key, 'drm-cycles-') : null;
    if (capacity !== null) units[capacity] = count ?? 1;
    else if (engine !== null && time !== null) busyNs[engine] = Number(time[1]);
    else if (used !== null && count !== null) {
      cycles[used] = { used: count, total: countOf(fields.get(`drm-total-cycles-${used}`)) ?? 0 };
    }
  }
  const pciAddress = fields.get('drm-pdev') ?? '';
  return { driver, pciAddress, clientId, busyNs, units, cycles, memoryBytes: memoryOf(fields) };
}

/** What is resident, where the driver tells; older ones tell `drm-memory-`, and some only what was allocated. */
function memoryOf(fields: ReadonlyMap<string, string>): number {
  const regions = new Map<string, number>();
  for (const prefix of ['drm-total-', 'drm-memory-', 'drm-resident-']) {
    for (const [key, value] of fields) {
      const region = after(key, prefix);
      const bytes = sizeOf(value);
      if (region !== null && DEVICE_REGION.test(region) && bytes !== null) regions.set(region, bytes);
    }
  }
  return [...regions.values()].reduce((sum, bytes) => sum + bytes, 0);
}

function sizeOf(value: string): number | null {
  const match = SIZE.exec(value);
  return match === null ? null : Number(match[1]) * (UNIT_BYTES[match[2] ?? ''] ?? 1);
}

function countOf(value: string | undefined): number | null {
  const match = COUNT.exec(value ?? '');
  return match === null ? null : Number(match[1]);
}

function after(key: string, prefix: string): string | null {
  return key.startsWith(prefix) && key.length > prefix.length ? key.slice(prefix.length) : null;
}

/** Clients of all these processes, each once: a descriptor that a child inherited is the parent's client. */
export function uniqueClients(clients: readonly DrmClient[]): readonly DrmClient[] {
  return [...new Map(clients.map((client) => [`${client.pciAddress} ${client.clientId}`, client])).values()];
}

/**
 * Nanoseconds that a device worked for a client between two looks, by its busiest engine: engines work side by side, so
 * their sum would count one second several times. A counter that fell belongs to a client of its own, and counts whole.
 */
export function busyNsBetween(before: DrmClient | null, now: DrmClient, passedNs: number): number {
  const byTime = Object.entries(now.busyNs).map(([engine, busyNs]) => {
    const grown = grownBy(before?.busyNs[engine] ?? 0, busyNs);
    return grown / Math.max(1, now.units[engine] ?? 1);
  });
  const byCycles = Object.entries(now.cycles).map(([engine, { used, total }]) => {
    const earlier = before?.cycles[engine] ?? { used: 0, total: 0 };
    const passed = grownBy(earlier.total, total);
    return passed === 0 ? 0 : (grownBy(earlier.used, used) / passed) * passedNs;
  });
  return Math.min(passedNs, Math.max(0, ...byTime, ...byCycles));
}

function grownBy(before: number, now: number): number {
  return now >= before ? now - before : now;
}

const DESCRIPTORS_MAX = 4_096;

/** The clients that one process holds; [] when it is gone. */
export function readDrmClients(pid: number, procFolder = '/proc'): readonly DrmClient[] {
  const folder = `${procFolder}/${pid}/fdinfo`;
  let names: readonly string[];
  try {
    names = readdirSync(folder).slice(0, DESCRIPTORS_MAX);
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    try {
      const client = parseFdinfo(readFileSync(`${folder}/${name}`, 'latin1'));
      return client === null ? [] : [client];
    } catch {
      return [];
    }
  });
}
