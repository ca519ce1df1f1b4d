import { describe, expect, it } from 'vitest';
import type { GpuDevice, GpuNode } from '../core/ports/gpu.ts';
import type { GpuGrant } from '../profile/spec.ts';
import { chooseDevices, type GpuLease } from './leases.ts';

const GIB = 2 ** 30;

function device(uuid: string, changes: Partial<GpuDevice> = {}): GpuDevice {
  return {
    uuid,
    name: 'Card',
    vendor: 'nvidia',
    driver: 'nvidia',
    withheld: null,
    nodes: [],
    pciAddress: '',
    parentUuid: null,
    migProfile: null,
    mig: 'unsupported',
    memoryBytes: 80 * GIB,
    memoryBytesUsed: 0,
    percent: 0,
    tellsProcesses: true,
    sinceUs: 0,
    processes: [],
    problem: null,
    ...changes,
  };
}

const PLAIN = [device('GPU-1'), device('GPU-2')];
const slice = (uuid: string, migProfile: string): GpuDevice =>
  device(uuid, { parentUuid: 'GPU-3', migProfile, mig: 'on', memoryBytes: 10 * GIB });
const SLICED = [device('GPU-3', { mig: 'on' }), slice('MIG-1', '1g.10gb'), slice('MIG-2', '1g.10gb')];

const grantOf = (grant: Partial<GpuGrant>): GpuGrant => ({
  count: null,
  vendor: null,
  devices: [],
  mig: null,
  memoryBytesMax: null,
  share: false,
  ...grant,
});
const PLACE_A = 'pci:0000:03:00.0';
const PLACE_B = 'pci:0000:04:00.0';
const amd = (uuid: string, changes: Partial<GpuDevice> = {}): GpuDevice =>
  device(uuid, { vendor: 'amd', driver: 'amdgpu', ...changes });
const intel = device('pci:0000:00:02.0', { vendor: 'intel', driver: 'xe' });
/** Worst first: the order in which a host lists its cards is no order of preference. */
const MIXED = [intel, amd(PLACE_A), amd(PLACE_B), device('GPU-1')];
const mps = device('GPU-1', { withheld: 'an MPS server' });

type World = { devices?: readonly GpuDevice[]; leases?: Record<string, GpuLease>; suspect?: readonly string[] };

function choose(grant: Partial<GpuGrant>, world: World = {}): unknown {
  const choice = chooseDevices(grantOf(grant), {
    devices: world.devices ?? PLAIN,
    leases: new Map(Object.entries(world.leases ?? {})),
    suspect: new Set(world.suspect ?? []),
  });
  return choice.ok ? choice.lease.devices : `${choice.keys.join('.')} ${choice.message}`;
}

const alone = (...devices: readonly string[]): GpuLease => ({ devices, share: false, nodes: [] });
const shared = (...devices: readonly string[]): GpuLease => ({ devices, share: true, nodes: [] });

describe('a lease', () => {
  it('has the nodes of its cards, each once', () => {
    const node = (path: string): GpuNode => ({ source: path, target: path, groupId: 105 });
    const devices = [
      amd(PLACE_A, { nodes: [node('/dev/dri/renderD128'), node('/dev/kfd')] }),
      amd(PLACE_B, { nodes: [node('/dev/dri/renderD129'), node('/dev/kfd')] }),
    ];
    const choice = chooseDevices(grantOf({ count: 2 }), { devices, leases: new Map(), suspect: new Set() });
    expect(choice).toEqual({
      ok: true,
      lease: {
        devices: [PLACE_A, PLACE_B],
        share: false,
        nodes: ['/dev/dri/renderD128', '/dev/kfd', '/dev/dri/renderD129'].map(node),
      },
    });
  });

  it.each<[string, Partial<GpuGrant>, World, unknown]>([
    ['one of two', { count: 1 }, {}, ['GPU-1']],
    ['the one that is free', { count: 1 }, { leases: { a: alone('GPU-1') } }, ['GPU-2']],
    ['both', { count: 2 }, {}, ['GPU-1', 'GPU-2']],
    ['the one that was named', { devices: ['GPU-2'] }, {}, ['GPU-2']],
    ['a slice', { mig: '1g.10gb' }, { devices: SLICED }, ['MIG-1']],
    ['the next slice', { mig: '1g.10gb' }, { devices: SLICED, leases: { a: alone('MIG-1') } }, ['MIG-2']],
    ['a slice by its name', { devices: ['MIG-2'] }, { devices: SLICED }, ['MIG-2']],
    ['all the memory', { count: 1, memoryBytesMax: 80 * GIB }, {}, ['GPU-1']],
    ['the memory of two', { count: 2, memoryBytesMax: 160 * GIB }, {}, ['GPU-1', 'GPU-2']],
    ['what both share', { devices: ['GPU-1'], share: true }, { leases: { a: shared('GPU-1') } }, ['GPU-1']],
    ['NVIDIA’s where nobody said whose', { count: 1 }, { devices: MIXED }, ['GPU-1']],
    [
      'another vendor’s where NVIDIA’s are in use',
      { count: 1 },
      { devices: MIXED, leases: { a: alone('GPU-1') } },
      [PLACE_A],
    ],
    ['two of one vendor, never a mixture', { count: 2 }, { devices: MIXED }, [PLACE_A, PLACE_B]],
    ['the vendor’s that was named', { count: 1, vendor: 'intel' }, { devices: MIXED }, [intel.uuid]],
    ['a card by its place', { devices: [PLACE_B] }, { devices: MIXED }, [PLACE_B]],
    ['cards of two vendors that were named', { devices: ['GPU-1', PLACE_B] }, { devices: MIXED }, ['GPU-1', PLACE_B]],
  ])('gives %s', (_, grant, world, expected) => {
    expect(choose(grant, world)).toEqual(expected);
  });

  it.each<[string, Partial<GpuGrant>, World, string]>([
    ['more than there are', { count: 3 }, {}, 'count must be at most 2 free of 2 on this host, got 3'],
    [
      'more than are free',
      { count: 2 },
      { leases: { a: alone('GPU-1') } },
      'count must be at most 1 free of 2 on this host, got 2',
    ],
    [
      'what does not exist',
      { devices: ['GPU-9'] },
      {},
      'devices.0 must be a GPU of this host (it has GPU-1, GPU-2), got GPU-9',
    ],
    [
      'any of none',
      { devices: ['GPU-9'] },
      { devices: [] },
      'devices.0 must be a GPU of this host (it has none), got GPU-9',
    ],
    [
      'what another has',
      { devices: ['GPU-1'] },
      { leases: { a: alone('GPU-1') } },
      'devices.0 must be free, and GPU-1 is not',
    ],
    ['one twice', { devices: ['GPU-1', 'GPU-1'] }, {}, 'devices.1 must not be there twice'],
    [
      'to share what the other does not share',
      { devices: ['GPU-1'], share: true },
      { leases: { a: alone('GPU-1') } },
      'devices.0 must be free, and GPU-1 is not',
    ],
    [
      'not to share what others share',
      { devices: ['GPU-1'] },
      { leases: { a: shared('GPU-1') } },
      'devices.0 must be free, and GPU-1 is not',
    ],
    [
      'a device that is haunted',
      { devices: ['GPU-1'] },
      { suspect: ['GPU-1'] },
      'devices.0 must be free, and GPU-1 is not',
    ],
    [
      'a device that is sick',
      { devices: ['GPU-1'] },
      { devices: [device('GPU-1', { problem: 'lost' })] },
      'devices.0 must be free, and GPU-1 is not',
    ],
    [
      'a card that is sliced',
      { devices: ['GPU-3'] },
      { devices: SLICED },
      'devices.0 must be one of its slices, because MIG is on for GPU-3',
    ],
    [
      'a sliced card by count',
      { count: 1 },
      { devices: SLICED },
      'count must be at most 0 free of 0 on this host, got 1',
    ],
    [
      'a slice where no card can be sliced',
      { mig: '1g.10gb' },
      {},
      'mig must be left out on this host: no GPU of this host can be sliced; got 1g.10gb',
    ],
    [
      'a slice where MIG is off',
      { mig: '1g.10gb' },
      { devices: [device('GPU-1', { mig: 'off' })] },
      'mig must be left out on this host: MIG is off, or no slice was made; got 1g.10gb',
    ],
    [
      'a slice of another size',
      { mig: '2g.20gb' },
      { devices: SLICED },
      'mig must be a slice that this host has: 1g.10gb; got 2g.20gb',
    ],
    [
      'a slice when all are taken',
      { mig: '1g.10gb' },
      { devices: SLICED, leases: { a: alone('MIG-1'), b: alone('MIG-2') } },
      'mig must be free: all 2 slices 1g.10gb of this host are in use',
    ],
    [
      'more memory than the card has',
      { count: 1, memoryBytesMax: 80 * GIB + 1 },
      {},
      'memory must be at most 80 GiB, the memory of GPU-1, got 80 GiB',
    ],
    [
      'more memory than the slice has',
      { mig: '1g.10gb', memoryBytesMax: 11 * GIB },
      { devices: SLICED },
      'memory must be at most 10 GiB, the memory of MIG-1, got 11 GiB',
    ],
    [
      'more than any one vendor has',
      { count: 3 },
      { devices: MIXED },
      'count must be at most 1 free of 1 of nvidia, 2 free of 2 of amd, 1 free of 1 of intel on this host, got 3',
    ],
    [
      'a vendor that is not there',
      { count: 1, vendor: 'amd' },
      {},
      'count must be at most 0 free of 0 of amd on this host, got 1',
    ],
    [
      'a card behind an MPS server',
      { devices: ['GPU-1'] },
      { devices: [mps] },
      'devices.0 must be another: an MPS server; got GPU-1',
    ],
    [
      'a count with a card behind an MPS server',
      { count: 1 },
      { devices: [mps] },
      'count must be at most 0 free of 1 on this host, got 1; GPU-1: an MPS server',
    ],
    [
      'a place where no card is',
      { devices: ['pci:0000:09:00.0'] },
      { devices: [amd(PLACE_A)] },
      `devices.0 must be a GPU of this host (it has ${PLACE_A}), got pci:0000:09:00.0`,
    ],
    [
      'a slice of a card that has none',
      { mig: '1g.10gb' },
      { devices: [amd(PLACE_A)] },
      'mig must be left out on this host: no GPU of this host can be sliced; got 1g.10gb',
    ],
  ])('refuses %s', (_, grant, world, message) => {
    expect(choose(grant, world)).toBe(message);
  });
});
