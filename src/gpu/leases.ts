import type { GpuDevice, GpuNode, GpuVendor } from '../core/ports/gpu.ts';
import { formatBytes } from '../core/units.ts';
import type { GpuGrant } from '../profile/spec.ts';

/**
 * Which devices a run gets. A device belongs to one run, unless every run that has it said `share`. Pure: the same
 * devices and leases give the same answer.
 */
export type GpuLease = {
  readonly devices: readonly string[];
  readonly share: boolean;
  /** What the container is given for those of them that the engine does not know by their ids. */
  readonly nodes: readonly GpuNode[];
};

export type GpuChoice =
  | { readonly ok: true; readonly lease: GpuLease }
  | {
      readonly ok: false;
      /** Below `limits.gpu`: `count`, `mig`, `memory`, `devices` and a place in it. */
      readonly keys: readonly (string | number)[];
      readonly message: string;
      /** Whether other runs ending would change it. */
      readonly busy: boolean;
    };

export function chooseDevices(
  grant: GpuGrant,
  options: {
    readonly devices: readonly GpuDevice[];
    readonly leases: ReadonlyMap<string, GpuLease>;
    /** Devices on which something of an ended run is still there, and others that must not be given. */
    readonly suspect: ReadonlySet<string>;
  },
): GpuChoice {
  const isFree = (device: GpuDevice): boolean => freeFor(grant, device, options);
  const chosen =
    grant.mig !== null ? byProfile(grant.mig, options.devices, isFree) : whole(grant, options.devices, isFree);
  if (!chosen.ok) return chosen;
  const memoryBytes = chosen.devices.reduce((sum, device) => sum + device.memoryBytes, 0);
  if (grant.memoryBytesMax !== null && grant.memoryBytesMax > memoryBytes) {
    const what =
      chosen.devices.length === 1 ? `the memory of ${chosen.devices[0]?.uuid}` : 'the memory of these devices';
    const message = `must be at most ${formatBytes(memoryBytes)}, ${what}, got ${formatBytes(grant.memoryBytesMax)}`;
    return { ok: false, keys: ['memory'], message, busy: false };
  }
  const devices = chosen.devices.map(({ uuid }) => uuid);
  return { ok: true, lease: { devices, share: grant.share, nodes: nodesOf(chosen.devices) } };
}

/** Each once: cards of AMD have one node in common. */
function nodesOf(devices: readonly GpuDevice[]): readonly GpuNode[] {
  return [...new Map(devices.flatMap(({ nodes }) => nodes).map((node) => [node.target, node])).values()];
}

type Chosen = { readonly ok: true; readonly devices: readonly GpuDevice[] } | Extract<GpuChoice, { ok: false }>;

function byProfile(profile: string, devices: readonly GpuDevice[], isFree: (device: GpuDevice) => boolean): Chosen {
  const slices = devices.filter(({ migProfile }) => migProfile !== null);
  const fitting = slices.filter(({ migProfile }) => migProfile === profile);
  if (fitting.length === 0)
    return { ok: false, keys: ['mig'], message: noSlice(profile, devices, slices), busy: false };
  const free = fitting.find(isFree);
  if (free !== undefined) return { ok: true, devices: [free] };
  const message = `must be free: all ${fitting.length} slices ${profile} of this host are in use`;
  return { ok: false, keys: ['mig'], message, busy: true };
}

function noSlice(profile: string, devices: readonly GpuDevice[], slices: readonly GpuDevice[]): string {
  if (slices.length > 0) {
    const has = [...new Set(slices.map(({ migProfile }) => migProfile ?? ''))]
      .toSorted((a, b) => a.localeCompare(b))
      .join(', ');
    return `must be a slice that this host has: ${has}; got ${profile}`;
  }
  const cards = devices.filter(({ parentUuid }) => parentUuid === null);
  const able = cards.some(({ mig }) => mig !== 'unsupported');
  const why = able ? 'MIG is off, or no slice was made' : 'no GPU of this host can be sliced';
  return `must be left out on this host: ${why}; got ${profile}`;
}

function whole(grant: GpuGrant, devices: readonly GpuDevice[], isFree: (device: GpuDevice) => boolean): Chosen {
  // A card with MIG on is its slices; as a whole it cannot be used.
  const cards = devices.filter(({ parentUuid, mig }) => parentUuid === null && mig !== 'on');
  const { count } = grant;
  if (count === null) return named(grant.devices, devices, isFree);
  // A program is built for one vendor's cards: what it gets is never a mixture, and never another vendor's.
  const vendors = grant.vendor === null ? VENDORS : [grant.vendor];
  const offers = vendors.map((vendor) => {
    const all = cards.filter((card) => card.vendor === vendor);
    return { vendor, all, free: all.filter(isFree) };
  });
  const offer = offers.find(({ free }) => free.length >= count);
  if (offer !== undefined) return { ok: true, devices: offer.free.slice(0, count) };
  return {
    ok: false,
    keys: ['count'],
    message: `must be at most ${offerWords(offers)}, got ${count}${withheldWords(offers.flatMap(({ all }) => all))}`,
    busy: offers.some(({ all }) => all.length >= count),
  };
}

/** Cards that compute first; a host's own display is seldom meant. */
const VENDORS: readonly GpuVendor[] = ['nvidia', 'amd', 'intel'];

function withheldWords(cards: readonly GpuDevice[]): string {
  return cards.map(({ uuid, withheld }) => (withheld === null ? '' : `; ${uuid}: ${withheld}`)).join('');
}

function offerWords(
  offers: readonly {
    readonly vendor: GpuVendor;
    readonly all: readonly GpuDevice[];
    readonly free: readonly GpuDevice[];
  }[],
): string {
  const present = offers.filter(({ all }) => all.length > 0);
  if (present.length === 1 && offers.length > 1)
    return `${present[0]?.free.length} free of ${present[0]?.all.length} on this host`;
  if (present.length === 0) return `0 free of 0 ${offers.length === 1 ? `of ${offers[0]?.vendor} ` : ''}on this host`;
  return `${present.map(({ vendor, all, free }) => `${free.length} free of ${all.length} of ${vendor}`).join(', ')} on this host`;
}

function named(
  uuids: readonly string[],
  devices: readonly GpuDevice[],
  isFree: (device: GpuDevice) => boolean,
): Chosen {
  const chosen: GpuDevice[] = [];
  for (const [index, uuid] of uuids.entries()) {
    const device = devices.find((each) => each.uuid === uuid);
    const refuse = (message: string, busy: boolean): Chosen => ({ ok: false, keys: ['devices', index], message, busy });
    if (device === undefined) {
      const has = devices.map((each) => each.uuid).join(', ') || 'none';
      return refuse(`must be a GPU of this host (it has ${has}), got ${uuid}`, false);
    }
    if (device.parentUuid === null && device.mig === 'on')
      return refuse(`must be one of its slices, because MIG is on for ${uuid}`, false);
    if (device.withheld !== null) return refuse(`must be another: ${device.withheld}; got ${uuid}`, false);
    if (!isFree(device)) return refuse(`must be free, and ${uuid} is not`, true);
    if (chosen.includes(device)) return refuse('must not be there twice', false);
    chosen.push(device);
  }
  return { ok: true, devices: chosen };
}

function freeFor(
  grant: GpuGrant,
  { uuid, problem, withheld }: GpuDevice,
  { leases, suspect }: { readonly leases: ReadonlyMap<string, GpuLease>; readonly suspect: ReadonlySet<string> },
): boolean {
  if (problem !== null || withheld !== null || suspect.has(uuid)) return false;
  const holders = [...leases.values()].filter(({ devices }) => devices.includes(uuid));
  return holders.every(({ share }) => share && grant.share);
}
