import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildGpuLibrary, type GpuLibrary } from '../../test/support/gpu-library.ts';
import { bootTimeMs } from '../kernel/libc.ts';
import { openNvml } from '../kernel/nvml.ts';
import type { GpuDevice } from '../core/ports/gpu.ts';
import { nvmlWords } from './nvml-words.ts';
import { openNvmlSource } from './nvml.ts';
import { createOwners } from './owner.ts';
import type { GpuSource } from './source.ts';

const GIB = 2 ** 30;
const CARD = 'GPU-aaaaaaaa-0000-0000-0000-000000000001';
const OTHER = 'GPU-aaaaaaaa-0000-0000-0000-000000000002';
const SLICE = 'MIG-bbbbbbbb-0000-0000-0000-000000000001';
const own = process.pid;
let clockUs = 1_790_000_000_000_000;

function open(library: GpuLibrary): GpuSource {
  return openNvmlSource({
    nvml: openNvml(library.path),
    owners: createOwners(),
    now: bootTimeMs,
    clockUs: () => clockUs,
  });
}

/** A device as it is told, without what the test is not about. */
function told(device: GpuDevice | undefined): unknown {
  if (device === undefined) return null;
  const { problem, processes } = device;
  if (problem !== null) return problem;
  return processes.map(({ pid, memoryBytes, samples }) => [pid === own ? 'own' : pid, memoryBytes, samples]);
}

describe('the library', () => {
  let library: GpuLibrary;
  let source: GpuSource;
  beforeAll(() => {
    library = buildGpuLibrary();
    library.play();
    source = open(library);
  });
  afterAll(() => {
    source.close();
    library.remove();
  });
  const readAfter = (...lines: readonly string[]): readonly GpuDevice[] => {
    library.play(...lines);
    return source.read().devices;
  };

  it('tells cards and slices with all there is to know', () => {
    const devices = readAfter(
      `device ${CARD} ${80 * GIB} used=${GIB} percent=30 mig=off pci=00000000:3B:00.0 name=Card`,
      `device ${OTHER} ${40 * GIB} mig=on`,
      `slice ${SLICE} ${OTHER} 1g.10gb ${10 * GIB} used=5`,
    );
    expect(devices).toMatchObject([
      {
        uuid: CARD,
        name: 'Card',
        pciAddress: '0000:3b:00.0',
        parentUuid: null,
        migProfile: null,
        mig: 'off',
        memoryBytes: 80 * GIB,
        memoryBytesUsed: GIB,
        percent: 30,
        tellsProcesses: true,
        processes: [],
        problem: null,
      },
      { uuid: OTHER, mig: 'on', percent: null, tellsProcesses: false },
      { uuid: SLICE, parentUuid: OTHER, migProfile: '1g.10gb', mig: 'on', memoryBytes: 10 * GIB, percent: null },
    ]);
    expect(readAfter(`device ${CARD} ${GIB} mig=unsupported`)[0]?.mig).toBe('unsupported');
  });

  it.each([16, 24, 32])('reads rows of %i bytes, whatever the name of the function promises', (stride) => {
    const lines = [`stride ${stride}`, `device ${CARD} ${GIB}`];
    const rows = [`process ${CARD} ${own} 1000`, `process ${CARD} ${process.ppid} 2000`, `process ${CARD} 1 unknown`];
    const expected = [
      ['own', 1000, []],
      [process.ppid, 2000, []],
      [1, null, []],
    ];
    expect(told(readAfter(...lines, ...rows)[0])).toEqual(expected);
    expect(told(readAfter(...lines, 'clear', ...rows)[0])).toEqual(expected);
  });

  it('refuses rows that make no sense in any layout', () => {
    const nonsense = 'nvmlDeviceGetComputeRunningProcesses_v3 writes rows that no known layout makes sense of';
    const card = `device ${CARD} ${GIB}`;
    expect(told(readAfter(card, `process ${CARD} ${own} ${2 * GIB}`)[0])).toBe(nonsense);
    expect(told(readAfter(card, `process ${CARD} 4194303 10`)[0])).toBe(nonsense);
    expect(told(readAfter(card, `process ${CARD} ${own} 10`)[0])).toEqual([['own', 10, []]]);
  });

  it('grows its buffers for many processes', () => {
    const lines = Array.from({ length: 300 }, () => `process ${CARD} ${own} 10`);
    expect(readAfter(`device ${CARD} ${GIB}`, ...lines)[0]?.problem).toBeNull();
  });

  it('counts a process with contexts of both kinds once', () => {
    const both = [`process ${CARD} ${own} 10`, `process ${CARD} ${own} 30 graphics`];
    expect(told(readAfter(`device ${CARD} ${GIB}`, ...both)[0])).toEqual([['own', 30, []]]);
  });

  it('tells each sample once, also of a process that has left the device', () => {
    const at = clockUs - 500_000;
    const play = (...samples: readonly number[]): unknown =>
      told(readAfter(`device ${CARD} ${GIB}`, ...samples.map((atUs) => `sample ${CARD} ${own} ${atUs} 50`))[0]);
    expect(play(at)).toEqual([['own', 0, [{ atUs: at, percent: 50 }]]]);
    expect(play(at)).toEqual([]);
    expect(play(at, at + 100)).toEqual([['own', 0, [{ atUs: at + 100, percent: 50 }]]]);
  });

  it('begins anew when the clock was set back', () => {
    clockUs -= 3_600_000_000;
    const sample = `sample ${CARD} ${own} ${clockUs - 100_000} 50`;
    expect(told(readAfter(`device ${CARD} ${GIB}`, sample)[0])).toEqual([
      ['own', 0, [{ atUs: clockUs - 100_000, percent: 50 }]],
    ]);
  });

  it('refuses samples whose fields stand elsewhere', () => {
    clockUs += 10_000_000;
    const sample = `sample ${CARD} ${own} ${clockUs - 100_000} 50`;
    expect(told(readAfter('swapped', `device ${CARD} ${GIB}`, sample)[0])).toBe(
      'nvmlDeviceGetProcessUtilization writes rows of another size',
    );
  });

  it('knows a device without utilisation of processes from an idle one', () => {
    expect(readAfter(`device ${CARD} ${GIB}`, 'error samples 3')[0]).toMatchObject({
      tellsProcesses: false,
      problem: null,
    });
    expect(readAfter(`device ${CARD} ${GIB}`, 'error samples 6')[0]).toMatchObject({
      tellsProcesses: true,
      problem: null,
    });
  });

  it.each(['memory', 'utilization', 'compute', 'samples', 'mig'])(
    'keeps the failure of %s on one device away from the other',
    (name) => {
      const cards = [`device ${CARD} ${GIB}`, `device ${OTHER} ${GIB}`];
      expect(readAfter(...cards, `error ${name} 15 ${CARD}`).map(({ problem }) => problem)).toEqual([
        nvmlWords(15),
        null,
      ]);
    },
  );

  it.each([1, 2, 4, 9, 10, 11, 15, 16, 17, 18, 19, 20, 23, 25, 27, 999])('says code %i in words', (code) => {
    library.play(`device ${CARD} ${GIB}`, `error count ${code}`);
    expect(() => source.read()).toThrow(nvmlWords(code));
    expect(nvmlWords(code)).not.toMatch(/which this version does not know/);
  });

  it('says a code that nobody knows as what it is', () => {
    expect(nvmlWords(77)).toBe('the library reports 77, which this version does not know');
  });
});

describe('a library of an old driver', () => {
  it('is read by the functions that it has', () => {
    const library = buildGpuLibrary({ old: true });
    try {
      library.play(`device ${CARD} ${GIB} percent=70`, `process ${CARD} ${own} 10`);
      const source = open(library);
      const [device] = source.read().devices;
      source.close();
      expect(told(device)).toEqual([['own', 10, []]]);
      expect(device).toMatchObject({ tellsProcesses: false, percent: 70 });
    } finally {
      library.remove();
    }
  });

  it('is refused when it is none', () => {
    expect(() => openNvml('/nonexistent/libnvidia-ml.so.1')).toThrow(/nonexistent/);
    expect(() => openNvml('libc.so.6')).toThrow(/nvmlInit_v2/);
  });
});
