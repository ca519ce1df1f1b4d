import { describe, expect, it } from 'vitest';
import type { GpuDevice } from '../core/ports/gpu.ts';
import type { GpuGrant } from '../profile/spec.ts';
import { chooseDevices, type GpuLease } from './leases.ts';

const GIB = 2 ** 30;

function device(uuid: string, changes: Partial<GpuDevice> = {}): GpuDevice {
  return {
    uuid,
    name: 'Card',
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
  devices: [],
  mig: null,
  memoryBytesMax: null,
  share: false,
  ...grant,
});
type World = { devices?: readonly GpuDevice[]; leases?: Record<string, GpuLease>; suspect?: readonly string[] };

function choose(grant: Partial<GpuGrant>, world: World = {}): unknown {
  const choice = chooseDevices(grantOf(grant), {
    devices: world.devices ?? PLAIN,
    leases: new Map(Object.entries(world.leases ?? {})),
    suspect: new Set(world.suspect ?? []),
  });
  return choice.ok ? choice.lease.devices : `${choice.keys.join('.')} ${choice.message}`;
}

const alone = (...devices: readonly string[]): GpuLease => ({ devices, share: false });
const shared = (...devices: readonly string[]): GpuLease => ({ devices, share: true });

describe('a lease', () => {
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
  ])('refuses %s', (_, grant, world, message) => {
    expect(choose(grant, world)).toBe(message);
  });
});
