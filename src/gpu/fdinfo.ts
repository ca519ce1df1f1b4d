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
  /** Memory of the host that the driver holds for the client. */
  readonly hostMemoryBytes: number;
};

const KEY = /^(drm-[a-z0-9-]+):\s*(.*?)\s*$/;
const SIZE = /^(\d+)(?: (KiB|MiB))?$/;
const TIME = /^(\d+) ns$/;
const COUNT = /^(\d+)$/;
const UNIT_BYTES: Readonly<Record<string, number>> = { KiB: 1_024, MiB: 2 ** 20 };
const DEVICE_REGION = /^(?:vram|local|stolen|stolen-local)\d*$/;
const HOST_REGION = /^(?:gtt|system|cpu)\d*$/;

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
  const memoryBytes = memoryOf(fields, DEVICE_REGION);
  return {
    driver,
    pciAddress,
    clientId,
    busyNs,
    units,
    cycles,
    memoryBytes,
    hostMemoryBytes: memoryOf(fields, HOST_REGION),
  };
}

/** What is resident, where the driver tells; older ones tell `drm-memory-`, and some only what was allocated. */
function memoryOf(fields: ReadonlyMap<string, string>, kind: RegExp): number {
  const regions = new Map<string, number>();
  for (const prefix of ['drm-total-', 'drm-memory-', 'drm-resident-']) {
    for (const [key, value] of fields) {
      const region = after(key, prefix);
      const bytes = sizeOf(value);
      if (region !== null && kind.test(region) && bytes !== null) regions.set(region, bytes);
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

/**
 * Nanoseconds that a device worked for a client between two looks, by its busiest engine: engines work side by side, so
 * their sum would count one second several times. A counter that fell belongs to a client of its own, and counts whole.
 * `totalBefore`: the cycles of the device at the look before, which a client that is new did not see.
 */
export function busyNsBetween(
  before: DrmClient | null,
  now: DrmClient,
  { passedNs, totalBefore }: { readonly passedNs: number; readonly totalBefore: (engine: string) => number | null },
): number {
  const byTime = Object.entries(now.busyNs).map(([engine, busyNs]) => {
    const grown = grownBy(before?.busyNs[engine] ?? 0, busyNs);
    return grown / Math.max(1, now.units[engine] ?? 1);
  });
  const byCycles = Object.entries(now.cycles).map(([engine, { used, total }]) => {
    const grown = grownBy(before?.cycles[engine]?.used ?? 0, used);
    const from = before?.cycles[engine]?.total ?? totalBefore(engine);
    if (grown === 0) return 0;
    // How long that was is not known: it may have been all the time.
    if (from === null || total <= from) return passedNs;
    return Math.min(1, grown / (total - from)) * passedNs;
  });
  return Math.max(0, ...byTime, ...byCycles);
}

function grownBy(before: number, now: number): number {
  return now >= before ? now - before : now;
}
