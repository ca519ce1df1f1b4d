import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/**
 * Memory of devices, which the kernel itself counts and bounds for each cgroup since Linux 6.14 where a driver tells it
 * of the device (amdgpu, xe): an allocation over the bound is refused or made elsewhere. NVIDIA's driver keeps its own
 * files of this kind itself, and nothing is ever written for its devices.
 */
export type DmemBound = {
  /** The run's cgroup in the v2 hierarchy. */
  readonly directory: string;
  /** Where that hierarchy is mounted. */
  readonly mount: string;
  /** `drm/0000:03:00.0/vram`. */
  readonly region: string;
  readonly bytesMax: number;
};

/** The one region of a card; null where the kernel bounds none of it, or several, whose sum nothing bounds. */
export function dmemRegionOf(pciAddress: string, mount: string | null): string | null {
  if (mount === null) return null;
  const regions = [...amounts(join(mount, 'dmem.capacity')).keys()];
  const own = regions.filter((region) => region.startsWith(`drm/${pciAddress}/`));
  return own.length === 1 ? (own[0] ?? null) : null;
}

/** Writes the bound, for all that is or will be in the cgroup. Whether it holds is for `isDmemHeld` to say. */
export function holdDmem({ directory, mount, region, bytesMax }: DmemBound): void {
  for (const above of foldersAbove(directory, mount)) write(join(above, 'cgroup.subtree_control'), '+dmem');
  write(join(directory, 'dmem.max'), `${region} ${bytesMax}`);
}

/** What the kernel says afterwards: a bound that it did not take is none. */
export function isDmemHeld({ directory, region, bytesMax }: DmemBound): boolean {
  const held = amounts(join(directory, 'dmem.max')).get(region);
  return held !== undefined && held <= bytesMax;
}

/** From the mount down: a controller is handed down level by level. */
function foldersAbove(directory: string, mount: string): readonly string[] {
  const names = relative(mount, dirname(directory))
    .split('/')
    .filter((name) => name !== '');
  return [mount, ...names.map((_, index) => join(mount, ...names.slice(0, index + 1)))];
}

/** Lines `region bytes`; a region without a bound says `max`. */
function amounts(path: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  let text: string;
  try {
    text = readFileSync(path, 'latin1');
  } catch {
    return found;
  }
  for (const line of text.split('\n')) {
    const [region = '', amount = ''] = line.split(' ');
    if (/^\d+$/.test(amount)) found.set(region, Number(amount));
  }
  return found;
}

function write(path: string, text: string): void {
  try {
    // A file that is not there is a controller that is not there: nothing is made in its place.
    writeFileSync(path, text, { flag: 'r+' });
  } catch {
    // Reading back says that it does not hold, and then the watchdog does.
  }
}
