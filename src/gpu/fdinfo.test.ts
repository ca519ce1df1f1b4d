import { describe, expect, it } from 'vitest';
import { busyNsBetween, parseFdinfo, type DrmClient } from './fdinfo.ts';

const AMD = `pos:	0
flags:	02100002
mnt_id:	26
ino:	612
drm-driver:	amdgpu
drm-client-id:	54
drm-pdev:	0000:03:00.0
pasid:	32771
drm-total-vram:	1024 KiB
drm-shared-vram:	0
drm-resident-vram:	2 MiB
drm-memory-vram:	2048 KiB
drm-total-gtt:	4096 KiB
drm-engine-gfx:	1500000 ns
drm-engine-compute:	2500000 ns
`;

const INTEL = `drm-driver:	xe
drm-client-id:	7
drm-pdev:	0000:00:02.0
drm-total-system:	900 KiB
drm-total-vram0:	3 MiB
drm-resident-vram0:	1 MiB
drm-cycles-rcs:	5000
drm-total-cycles-rcs:	20000
drm-engine-capacity-vcs:	2
drm-engine-vcs:	800 ns
`;

const client = (changes: Partial<DrmClient>): DrmClient => ({
  driver: 'amdgpu',
  pciAddress: '0000:03:00.0',
  clientId: 1,
  busyNs: {},
  units: {},
  cycles: {},
  memoryBytes: 0,
  hostMemoryBytes: 0,
  ...changes,
});

describe('what a driver tells of a client', () => {
  it('is read as amdgpu writes it', () => {
    expect(parseFdinfo(AMD)).toEqual(
      client({
        clientId: 54,
        busyNs: { gfx: 1_500_000, compute: 2_500_000 },
        memoryBytes: 2 * 2 ** 20,
        hostMemoryBytes: 4 * 2 ** 20,
      }),
    );
  });

  it('is read as xe writes it', () => {
    expect(parseFdinfo(INTEL)).toEqual({
      driver: 'xe',
      pciAddress: '0000:00:02.0',
      clientId: 7,
      busyNs: { vcs: 800 },
      units: { vcs: 2 },
      cycles: { rcs: { used: 5_000, total: 20_000 } },
      memoryBytes: 2 ** 20,
      hostMemoryBytes: 900 * 1024,
    });
  });

  it.each([
    ['a file', 'pos:	0\nflags:	0100000\nmnt_id:	26\n'],
    ['a client without a number', 'drm-driver:	i915\n'],
    ['a number that is none', 'drm-driver:	i915\ndrm-client-id:	x\n'],
    ['nothing', ''],
  ])('is nothing for %s', (_, text) => {
    expect(parseFdinfo(text)).toBeNull();
  });

  it('is read as older drivers write it, and with regions of both kinds', () => {
    const text = 'drm-driver:\ti915\ndrm-client-id:\t3\ndrm-pdev:\t0000:04:00.0\n';
    const regions =
      'drm-total-local0:\t4 MiB\ndrm-resident-local0:\t3 MiB\ndrm-total-system0:\t7 KiB\ndrm-total-stolen-system0:\t9 MiB\n';
    expect(parseFdinfo(text + regions)).toMatchObject({ memoryBytes: 3 * 2 ** 20, hostMemoryBytes: 7 * 1024 });
  });
});

const totalBefore = (engine: string): number | null => (engine === 'rcs' ? 9_000 : null);

describe('the time that a device worked for a client', () => {
  it.each<[string, Partial<DrmClient> | null, Partial<DrmClient>, number]>([
    ['is that of its busiest engine', { busyNs: { gfx: 10, compute: 0 } }, { busyNs: { gfx: 40, compute: 50 } }, 50],
    ['counts units that work side by side once', null, { busyNs: { vcs: 80 }, units: { vcs: 2 } }, 40],
    ['is whole for a client that is new', null, { busyNs: { gfx: 70 } }, 70],
    ['is whole for a counter that begins again', { busyNs: { gfx: 90 } }, { busyNs: { gfx: 20 } }, 20],
    ['is more than has passed for a client that was out of sight', null, { busyNs: { gfx: 700 } }, 700],
    [
      'comes from cycles where the driver counts those',
      { cycles: { rcs: { used: 100, total: 1_000 } } },
      { cycles: { rcs: { used: 200, total: 1_400 } } },
      25,
    ],
    [
      'is all of it for a client whose cycles began nobody knows when',
      null,
      { cycles: { ccs: { used: 1, total: 9_000 } } },
      100,
    ],
    [
      'is measured from the cycles that another client told',
      null,
      { cycles: { rcs: { used: 100, total: 9_400 } } },
      25,
    ],
    ['is nothing without cycles', null, { cycles: { rcs: { used: 0, total: 0 } } }, 0],
    ['is nothing for an idle client', { busyNs: { gfx: 70 } }, { busyNs: { gfx: 70 } }, 0],
  ])('%s', (_, before, now, expected) => {
    expect(busyNsBetween(before === null ? null : client(before), client(now), { passedNs: 100, totalBefore })).toBe(
      expected,
    );
  });
});
