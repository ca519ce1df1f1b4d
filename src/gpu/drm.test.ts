import { rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { buildGpuWorld, type GpuWorld } from '../../test/support/gpu-world.ts';
import type { GpuDevice, GpuProcess } from '../core/ports/gpu.ts';
import { openDrmSource } from './drm.ts';
import { createOwners } from './owner.ts';
import type { GpuSource } from './source.ts';

const GIB = 2 ** 30;
const CARD = 'pci:0000:03:00.0';
const OTHER = 'pci:0000:04:00.0';
const RUN = 'r000000000001';
const CARDS = [
  `device ${CARD} ${24 * GIB} used=${GIB} percent=30 name=Radeon`,
  `device ${OTHER} ${16 * GIB} driver=xe`,
];
const [MS, SECOND] = [1_000_000, 1_000_000_000];

describe('the kernel', () => {
  let world: GpuWorld;
  let source: GpuSource;
  let nowMs: number;
  let cgroups: Record<number, string>;
  const runOf = (pid: number): string => cgroups[pid] ?? `0::/ringfence/${RUN}/c\n`;
  beforeEach(() => {
    world = buildGpuWorld({ cgroupOf: runOf });
    nowMs = 1_000;
    cgroups = {};
    source = openDrmSource({
      root: world.root,
      owners: createOwners(`${world.root}/proc`),
      now: () => nowMs,
      // The threads of this world that are there have files of their own.
      sharesFiles: () => false,
    });
  });
  afterEach(() => {
    source.close();
    world.remove();
  });
  /** So many milliseconds after the look before. */
  const lookAfter = (ms: number, ...lines: readonly string[]): readonly GpuDevice[] => {
    nowMs += ms;
    if (lines.length > 0) world.play(...lines);
    return source.read().devices;
  };
  const on = (devices: readonly GpuDevice[], id = CARD): readonly GpuProcess[] =>
    devices.find(({ uuid }) => uuid === id)?.processes ?? [];
  const percents = (devices: readonly GpuDevice[], id = CARD): readonly number[] =>
    on(devices, id).map(({ samples }) => Math.round(samples.at(-1)?.percent ?? -1));
  const uses = (pid: number, clientAndTime: string, bytes = 100): string =>
    `process ${CARD} ${pid} ${bytes} ${clientAndTime}`;

  it('tells cards with all there is to know', () => {
    const devices = lookAfter(0, ...CARDS, 'device pci:0000:00:02.0 0 driver=i915 integrated');
    expect(devices).toMatchObject([
      {
        uuid: CARD,
        name: 'Radeon',
        vendor: 'amd',
        driver: 'amdgpu',
        pciAddress: '0000:03:00.0',
        memoryBytes: 24 * GIB,
        memoryBytesUsed: GIB,
        percent: 30,
        tellsProcesses: true,
        problem: null,
        withheld: null,
        nodes: [{ source: `${world.root}/dev/dri/renderD128`, target: '/dev/dri/renderD128', groupId: null }],
      },
      { uuid: OTHER, name: 'Intel 0x744c', vendor: 'intel', driver: 'xe', memoryBytes: 16 * GIB, percent: null },
      // What has no memory of its own works in the host's.
      { uuid: 'pci:0000:00:02.0', driver: 'i915', memoryBytes: 32 * GIB },
    ]);
  });

  it.each(['driver=virtio_gpu', 'driver=nouveau vendor=0x10de', 'driver=amdgpu vendor=0x1af4'])(
    'makes no card of what nothing is known about (%s)',
    (what) => {
      expect(lookAfter(0, ...CARDS, `device pci:0000:09:00.0 1 ${what}`).map(({ uuid }) => uuid)).toEqual([
        CARD,
        OTHER,
      ]);
    },
  );

  it('tells which process of which run has a card open, and of no process of the host', () => {
    cgroups = { 12: '0::/user.slice\n', 13: '4:pids:/ringfence/r000000000002/c\n' };
    const devices = lookAfter(0, ...CARDS, uses(11, ''), uses(12, ''), uses(13, ''), `process ${OTHER} 11 7`);
    expect(on(devices).map(({ pid, runId, memoryBytes }) => [pid, runId, memoryBytes])).toEqual([
      [11, RUN, 100],
      [13, 'r000000000002', 100],
    ]);
    expect(on(devices, OTHER)).toMatchObject([{ pid: 11, memoryBytes: 7 }]);
  });

  it('adds up how long each client worked, from one look to the next', () => {
    lookAfter(0, ...CARDS, engine(11, 5 * SECOND));
    expect(percents(lookAfter(200, ...CARDS, engine(11, 5 * SECOND)))).toEqual([0]);
    expect(percents(lookAfter(200, ...CARDS, engine(11, 5 * SECOND + 50 * MS)))).toEqual([25]);
    expect(percents(lookAfter(200))).toEqual([0]);
  });

  it('counts a client that is new from its beginning', () => {
    lookAfter(0, ...CARDS);
    expect(percents(lookAfter(200, ...CARDS, engine(11, 100 * MS)))).toEqual([50]);
  });

  it('counts an inherited file once in a run, and in each run that has it', () => {
    cgroups = { 13: '0::/ringfence/r000000000002/c\n' };
    lookAfter(0, ...CARDS);
    const devices = lookAfter(200, ...CARDS, ...[11, 12, 13].map((pid) => engine(pid, 40 * MS, 'client=5')));
    expect(on(devices).map(({ pid, memoryBytes }) => [pid, memoryBytes])).toEqual([
      [11, 100],
      [12, 0],
      [13, 100],
    ]);
    expect(percents(devices)).toEqual([20, 0, 20]);
  });

  it('counts what a client did while its file was out of sight, as fast as time passes', () => {
    lookAfter(0, ...CARDS, engine(11, 0));
    lookAfter(200, ...CARDS);
    // It worked for 500 ms of the 1,000 in which nothing saw it.
    expect(percents(lookAfter(800, ...CARDS, engine(11, 500 * MS)))).toEqual([63]);
    lookAfter(0, ...CARDS, engine(12, 0));
    lookAfter(100, ...CARDS);
    lookAfter(600, ...CARDS);
    expect(percents(lookAfter(100, ...CARDS, engine(12, 150 * MS)))).toEqual([100]);
    expect(percents(lookAfter(100))).toEqual([50]);
    expect(percents(lookAfter(100))).toEqual([0]);
  });

  it('finds a file that only a thread has open', () => {
    lookAfter(0, ...CARDS);
    const devices = lookAfter(200, ...CARDS, engine(11, 100 * MS, 'thread=77'));
    expect(on(devices)).toMatchObject([{ pid: 11, runId: RUN, memoryBytes: 100 }]);
  });

  it('tells the memory of the host that the driver holds, which is all that an integrated card has, and whether a cgroup counts it', () => {
    const small = 'device pci:0000:00:02.0 0 driver=i915 integrated';
    const devices = lookAfter(
      0,
      ...CARDS,
      small,
      uses(11, 'drm-resident-gtt=300'),
      'process pci:0000:00:02.0 12 0 drm-resident-system0=50',
    );
    expect(on(devices)).toMatchObject([{ memoryBytes: 100, hostMemoryBytes: 300 }]);
    expect(on(devices, 'pci:0000:00:02.0')).toMatchObject([{ memoryBytes: 50, hostMemoryBytes: 0 }]);
  });

  it('counts the whole card where a process computes past its clients, and the memory that it has there', () => {
    const devices = lookAfter(0, ...CARDS, uses(11, ''), `compute ${CARD} 11 ${3 * GIB}`, `compute ${CARD} 12 5`);
    expect(devices[0]).toMatchObject({ tellsProcesses: false, percent: 30 });
    expect(on(devices).map(({ pid, memoryBytes }) => [pid, memoryBytes])).toEqual([
      [11, 3 * GIB],
      [12, 5],
    ]);
    expect(devices[0]?.nodes.map(({ target }) => target)).toEqual(['/dev/dri/renderD128', '/dev/kfd']);
    expect(devices[1]).toMatchObject({ tellsProcesses: true, processes: [] });
  });

  it('says of one card that its driver tells nothing', () => {
    const devices = lookAfter(0, ...CARDS, `error memory 15 ${CARD}`);
    expect(devices.map(({ problem }) => problem)).toEqual([
      'amdgpu tells nothing of who uses the card; a newer kernel does',
      null,
    ]);
  });

  it('tells nothing of any card when the files of a process cannot be read', () => {
    expect(() => lookAfter(0, ...CARDS, 'error memory 15')).toThrow(/EISDIR/);
    expect(() => lookAfter(0, 'device pci:0000:09:00.0 1 driver=virtio_gpu')).toThrow(/no AMD or Intel card any more/);
  });

  it('gives nobody a card whose node is not the device, or is not there', () => {
    lookAfter(0, ...CARDS);
    writeFileSync(`${world.root}/sys/class/drm/renderD128/dev`, '226:128\n');
    rmSync(`${world.root}/dev/dri/renderD129`);
    expect(lookAfter(0).map(({ withheld, nodes }) => [withheld, nodes])).toEqual([
      [`${world.root}/dev/dri/renderD128 is not the device 226:128 of the kernel`, []],
      [`${world.root}/dev/dri/renderD129 is not there`, []],
    ]);
  });
});

/** A process whose client has worked for so long. */
function engine(pid: number, busyNs: number, more = ''): string {
  return `process ${CARD} ${pid} 100 ${more} drm-engine-compute=${busyNs}`;
}
