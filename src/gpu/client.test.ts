import { existsSync, readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SILENT } from '../../test/support/conformance-gpu.ts';
import { buildGpuLibrary, type GpuLibrary } from '../../test/support/gpu-library.ts';
import { until } from '../../test/support/until.ts';
import type { GpuReading, Gpus } from '../core/ports/gpu.ts';
import { startGpuClient } from './client.ts';
import { nvmlWords } from './nvml-words.ts';

const GIB = 2 ** 30;
const CARD = `device GPU-aaaaaaaa-0000-0000-0000-000000000001 ${GIB}`;
const FACT = { deadlineMs: 15_000 };
const PACE = {
  watchingMs: 50,
  idleMs: 50,
  readingMsMax: 500,
  firstReadingMsMax: 3_000,
  restartMsMin: 20,
  restartMsMax: 200,
};

describe('the process that reads GPUs', () => {
  let library: GpuLibrary;
  let readings: GpuReading[];
  let gpus: Gpus | null;
  beforeEach(() => {
    library = buildGpuLibrary();
    readings = [];
    gpus = null;
  });
  afterEach(async () => {
    await gpus?.close();
    library.remove();
  });
  const start = async (path = library.path): Promise<Gpus> => {
    gpus = await startGpuClient({
      source: { kind: 'nvml', library: path },
      log: SILENT,
      pace: PACE,
      onReading: (reading) => readings.push(reading),
    });
    return gpus;
  };
  const nextReading = async (): Promise<GpuReading> => {
    const before = readings.length;
    await until('another reading', () => readings.length > before, FACT);
    return readings.at(-1) as GpuReading;
  };

  it('reads again and again, and tells what is new', async () => {
    library.play(CARD);
    const reader = await start();
    expect(reader.latest()?.devices).toHaveLength(1);
    library.play(CARD, CARD.replace('0001', '0002'));
    await until('two devices', () => reader.latest()?.devices.length === 2, FACT);
    expect(reader.problem()).toBeNull();
  });

  it.each(['hang memory', 'hang compute', 'hang count'])('that stands still (%s) is replaced', async (fault) => {
    library.play(CARD);
    const reader = await start();
    library.play(CARD, fault);
    const problem = await until('the problem', () => reader.problem(), FACT);
    expect(problem).toMatch(/^the driver did not answer within \d+ ms$/);
    expect(reader.latest()).toBeNull();
    library.play(CARD);
    expect((await nextReading()).devices).toHaveLength(1);
    await until('no problem', () => reader.problem() === null, FACT);
  });

  it('that crashes is replaced', async () => {
    library.play(CARD);
    const reader = await start();
    library.play(CARD, 'crash memory');
    expect(await until('the problem', () => reader.problem(), FACT)).toBe('its reader ended by SIGSEGV');
    library.play(CARD);
    await nextReading();
    await until('no problem', () => reader.problem() === null, FACT);
  });

  it('says what the driver says, and goes on asking', async () => {
    library.play('error init 9');
    const reader = await start();
    expect(reader.problem()).toBe(nvmlWords(9));
    library.play(CARD);
    await nextReading();
    library.play(CARD, 'error count 18');
    await until('the problem', () => reader.problem() === nvmlWords(18), FACT);
    library.play(CARD);
    await nextReading();
  });

  it('says that there is no such library', async () => {
    const reader = await start('/nonexistent/libnvidia-ml.so.1');
    expect(reader.problem()).toMatch(/nonexistent/);
    expect(readings).toEqual([]);
  });

  it('is gone when it is closed, also while it stands still in the driver', async () => {
    library.play(CARD, 'hang memory');
    const starting = start();
    const pids = await until('the reader', () => childrenOf(process.pid), FACT);
    await starting;
    await gpus?.close();
    await until('the end of the reader', () => pids.every((pid) => !existsSync(`/proc/${pid}`)), FACT);
  });
});

function childrenOf(pid: number): readonly number[] | null {
  const text = readText(`/proc/${pid}/task/${pid}/children`);
  const pids = text
    .split(' ')
    .filter((word) => word !== '')
    .map(Number);
  return pids.length === 0 ? null : pids;
}

function readText(path: string): string {
  return readFileSync(path, 'latin1');
}
