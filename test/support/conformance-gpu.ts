import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GpuReading, Gpus } from '../../src/core/ports/gpu.ts';
import type { Log } from '../../src/core/ports/log.ts';
import { startGpuClient } from '../../src/gpu/client.ts';
import { until } from './until.ts';

export const SILENT: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

const FACT_MS_MAX = 20_000;
const DEVICE_ID = /^(?:GPU|MIG)-[0-9A-Za-z-]{1,64}$/;

/** What every library must tell, the stand-in and that of a real driver. */
export function gpuConformance(name: string, open: () => { readonly library: string; close(): void }): void {
  describe(`the GPU port: ${name}`, () => {
    const readings: GpuReading[] = [];
    let under: ReturnType<typeof open>;
    let gpus: Gpus;

    beforeAll(async () => {
      under = open();
      const pace = { watchingMs: 200, idleMs: 200 };
      gpus = await startGpuClient({
        library: under.library,
        log: SILENT,
        pace,
        onReading: (reading) => readings.push(reading),
      });
      await until('five readings', () => readings.length >= 5, { deadlineMs: FACT_MS_MAX });
    });
    afterAll(async () => {
      await gpus.close();
      under.close();
    });

    it('has no problem, and tells which driver it is', () => {
      expect(gpus.problem()).toBeNull();
      const { driverVersion, libraryVersion } = readings.at(-1) as GpuReading;
      expect([driverVersion, libraryVersion]).toEqual([
        expect.stringMatching(/^\d+(\.\d+)+$/),
        expect.stringMatching(/^\d+(\.\d+)+$/),
      ]);
    });

    it('tells of each device what it is, and nothing impossible', () => {
      for (const { devices } of readings) {
        expect(devices.length).toBeGreaterThan(0);
        expect(new Set(devices.map(({ uuid }) => uuid)).size).toBe(devices.length);
        for (const device of devices) {
          expect(device).toMatchObject({ problem: null, uuid: expect.stringMatching(DEVICE_ID) });
          expect(device.memoryBytes).toBeGreaterThan(2 ** 20);
          expect(device.memoryBytesUsed).toBeLessThanOrEqual(device.memoryBytes);
          expect(device.percent ?? 0).toBeLessThanOrEqual(100);
          if (device.parentUuid !== null) expect(devices.map(({ uuid }) => uuid)).toContain(device.parentUuid);
        }
      }
    });

    it('lists only processes that there are, with memory that the device has', () => {
      for (const device of readings.at(-1)?.devices ?? []) {
        for (const { pid, memoryBytes } of device.processes) {
          expect(existsSync(`/proc/${pid}`)).toBe(true);
          expect(memoryBytes ?? 0).toBeLessThanOrEqual(device.memoryBytes);
        }
      }
    });

    it('gives no sample twice, and none from before the time it tells of', () => {
      const seen = new Set<string>();
      for (const { devices } of readings) {
        for (const { uuid, processes, sinceUs } of devices) {
          for (const { pid, samples } of processes) {
            for (const { atUs } of samples) {
              expect(atUs).toBeGreaterThan(sinceUs);
              expect(seen).not.toContain(`${uuid} ${pid} ${atUs}`);
              seen.add(`${uuid} ${pid} ${atUs}`);
            }
          }
        }
      }
    });

    it('reads in time that only goes forward', () => {
      const times = readings.map(({ atMs }) => atMs);
      expect(times).toEqual(times.toSorted((a, b) => a - b));
    });
  });
}
