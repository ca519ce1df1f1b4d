import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { GpuNode, GpuVendor } from '../core/ports/gpu.ts';

/**
 * AMD's and Intel's cards as the kernel lists them: every node that renders, with the PCI device behind it. A card has
 * no identity that it carries itself, so its place is its id. `root` is where `sys`, `proc` and `dev` lie: `/`.
 */
export type DrmCard = {
  /** `0000:03:00.0`. */
  readonly pciAddress: string;
  readonly vendor: GpuVendor;
  readonly driver: string;
  readonly name: string;
  /** `renderD128`: what a process that uses the card has open. */
  readonly node: string;
  /** Without memory of its own it takes the host's, and that is all there is of it. */
  readonly isIntegrated: boolean;
  readonly memoryBytes: number;
  /** As the driver tells it for the whole card; null where it does not. */
  readonly memoryBytesUsed: number | null;
  readonly percent: number | null;
  /** The numbers under which AMD's compute interface knows it. */
  readonly computeIds: readonly string[];
  readonly nodes: readonly GpuNode[];
  readonly withheld: string | null;
};

const VENDORS: Readonly<Record<string, GpuVendor>> = { '0x1002': 'amd', '0x8086': 'intel' };
const VENDOR_NAMES: Readonly<Record<GpuVendor, string>> = { nvidia: 'NVIDIA', amd: 'AMD', intel: 'Intel' };
/** Those whose figures are known; another driver (`virtio_gpu`, `nouveau`) makes no card that can be held. */
const DRIVERS: ReadonlySet<string> = new Set(['amdgpu', 'xe', 'i915']);
const CARDS_MAX = 64;

export function listDrmCards(root: string): readonly DrmCard[] {
  const computeIds = computeIdsByAddress(root);
  const names = namesIn(`${root}/sys/class/drm`).filter((name) => /^renderD\d+$/.test(name));
  return names
    .toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .slice(0, CARDS_MAX)
    .flatMap((node) => cardOf(root, node, computeIds) ?? []);
}

function cardOf(root: string, node: string, computeIds: ReadonlyMap<string, readonly string[]>): DrmCard | null {
  const device = `${root}/sys/class/drm/${node}/device`;
  const event = textOf(`${device}/uevent`) ?? '';
  const driver = /^DRIVER=(\S+)$/m.exec(event)?.[1] ?? '';
  const pciAddress = /^PCI_SLOT_NAME=(\S+)$/m.exec(event)?.[1] ?? '';
  const vendor = VENDORS[textOf(`${device}/vendor`) ?? ''];
  if (vendor === undefined || pciAddress === '' || !DRIVERS.has(driver)) return null;
  const own = ownMemoryOf(device, pciAddress);
  const ids = computeIds.get(pciAddress) ?? [];
  return {
    pciAddress,
    vendor,
    driver,
    name: textOf(`${device}/product_name`) || `${VENDOR_NAMES[vendor]} ${textOf(`${device}/device`) ?? ''}`,
    node,
    isIntegrated: own === null,
    memoryBytes: own ?? hostMemoryOf(root),
    memoryBytesUsed: own === null ? null : numberIn(`${device}/mem_info_vram_used`),
    percent: percentOf(device),
    computeIds: ids,
    ...nodesOf(root, [
      { path: `dri/${node}`, device: `${root}/sys/class/drm/${node}/dev` },
      ...(ids.length === 0 ? [] : [{ path: 'kfd', device: `${root}/sys/class/kfd/kfd/dev` }]),
    ]),
  };
}

/**
 * amdgpu, xe and out-of-tree i915 tell; else the largest window into the card's memory does, which is all of it where
 * the firmware allows. Null: it has none, and works in the host's.
 */
function ownMemoryOf(device: string, pciAddress: string): number | null {
  const told = numberIn(`${device}/mem_info_vram_total`) ?? numberIn(`${device}/lmem_total_bytes`);
  if (told !== null) return told;
  const tiles = namesIn(device).filter((name) => /^tile\d+$/.test(name));
  const sizes = tiles.map((tile) => {
    const file = 'physical_vram_size_bytes';
    return numberIn(`${device}/${tile}/${file}`) ?? numberIn(`${device}/${tile}/memory/${file}`) ?? 0;
  });
  const tiled = sizes.reduce((sum, bytes) => sum + bytes, 0);
  if (tiled > 0) return tiled;
  const windowBytes = pciAddress === INTEL_INTEGRATED ? 0 : windowOf(device);
  return windowBytes >= WINDOW_BYTES_MIN ? windowBytes : null;
}

/** Intel's integrated device is always there, and its window leads to memory of the host. */
const INTEL_INTEGRATED = '0000:00:02.0';
/** A smaller one is for registers. */
const WINDOW_BYTES_MIN = 256 * 2 ** 20;

/** `resource`: a line `start end flags` for each region of the PCI device. */
function windowOf(device: string): number {
  const sizes = (textOf(`${device}/resource`) ?? '').split('\n').map((line) => {
    const [start = 0, end = 0] = line.split(' ').map(Number);
    return end > start ? end - start + 1 : 0;
  });
  return Math.max(0, ...sizes);
}

function hostMemoryOf(root: string): number {
  const kibibytes = /^MemTotal:\s+(\d+) kB$/m.exec(textOf(`${root}/proc/meminfo`) ?? '')?.[1];
  return Number(kibibytes ?? 0) * 1024;
}

function percentOf(device: string): number | null {
  const percent = numberIn(`${device}/gpu_busy_percent`);
  return percent === null ? null : Math.min(100, percent);
}

/** A card in partitions has several numbers. */
function computeIdsByAddress(root: string): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  const nodes = `${root}/sys/class/kfd/kfd/topology/nodes`;
  for (const name of namesIn(nodes)) {
    const id = textOf(`${nodes}/${name}/gpu_id`) ?? '0';
    const properties = textOf(`${nodes}/${name}/properties`) ?? '';
    const location = Number(/^location_id (\d+)$/m.exec(properties)?.[1] ?? Number.NaN);
    const domain = Number(/^domain (\d+)$/m.exec(properties)?.[1] ?? 0);
    if (id === '0' || !/^\d+$/.test(id) || !Number.isSafeInteger(location)) continue;
    const address = addressOf(domain, location);
    found.set(address, [...(found.get(address) ?? []), id]);
  }
  return found;
}

/** A location is the bus, then five bits of the device and three of its function. */
function addressOf(domain: number, location: number): string {
  const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
  return `${hex(domain, 4)}:${hex((location >> 8) & 0xff, 2)}:${hex((location >> 3) & 0x1f, 2)}.${location & 7}`;
}

function nodesOf(
  root: string,
  wanted: readonly { readonly path: string; readonly device: string }[],
): Pick<DrmCard, 'nodes' | 'withheld'> {
  const nodes: GpuNode[] = [];
  for (const { path, device } of wanted) {
    const found = nodeAt({ source: join(root, 'dev', path), target: `/dev/${path}` }, textOf(device) ?? '');
    if (typeof found === 'string') return { nodes: [], withheld: found };
    nodes.push(found);
  }
  return { nodes, withheld: null };
}

const GROUP_MAY = 0o060;
const EVERYBODY_MAY = 0o006;

/** The node, or why it cannot be given: an agent is never root, nor of root's group. */
function nodeAt(place: { readonly source: string; readonly target: string }, device: string): GpuNode | string {
  const stat = statSync(place.source, { throwIfNoEntry: false });
  if (stat === undefined) return `${place.source} is not there`;
  const [major, minor] = numbersOf(stat.rdev);
  if (!stat.isCharacterDevice() || `${major}:${minor}` !== device)
    return `${place.source} is not the device ${device} of the kernel`;
  if ((stat.mode & EVERYBODY_MAY) === EVERYBODY_MAY) return { ...place, groupId: null };
  if ((stat.mode & GROUP_MAY) === GROUP_MAY && stat.gid !== 0) return { ...place, groupId: stat.gid };
  return `only root may use ${place.source}; give it to a group (render) and let that read and write`;
}

/** As glibc's gnu_dev_major and gnu_dev_minor take them apart. */
function numbersOf(rdev: number): readonly [number, number] {
  const wide = BigInt(rdev);
  return [
    Number(((wide >> 8n) & 0xfffn) | ((wide >> 32n) & ~0xfffn)),
    Number((wide & 0xffn) | ((wide >> 12n) & 0xffffff00n)),
  ];
}

function namesIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function numberIn(path: string): number | null {
  const text = textOf(path);
  return text !== null && /^\d+$/.test(text) ? Number(text) : null;
}

function textOf(path: string): string | null {
  try {
    return readFileSync(path, 'latin1').trim();
  } catch {
    return null;
  }
}
