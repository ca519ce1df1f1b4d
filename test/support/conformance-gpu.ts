import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GpuReading, Gpus } from '../../src/core/ports/gpu.ts';
import type { Log } from '../../src/core/ports/log.ts';
import { startGpuClient } from '../../src/gpu/client.ts';
import type { GpuSourcePlan } from '../../src/gpu/source.ts';
import { until } from './until.ts';

export const SILENT: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

const FACT_MS_MAX = 20_000;
const DEVICE_ID = /^(?:(?:GPU|MIG)-[0-9A-Za-z-]{1,64}|pci:[0-9a-f]{4,8}(?::[0-9a-f]{2}){2}\.[0-7])$/;

/** What every source must tell, the stand-ins and real drivers. */
export function gpuConformance(name: string, open: () => { readonly source: GpuSourcePlan; close(): void }): void {
  describe(`the GPU port: ${name}`, () => {
    const readings: GpuReading[] = [];
    let under: ReturnType<typeof open>;
    let gpus: Gpus;

    beforeAll(async () => {
      under = open();
      const pace = { watchingMs: 200, idleMs: 200 };
      gpus = await startGpuClient({
        source: under.source,
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
      const { versions } = readings.at(-1) as GpuReading;
      expect(versions.length).toBeGreaterThan(0);
      for (const version of versions) expect(version).toMatch(/^(?:driver|library|kernel) \d+(?:\.\d+)+/);
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
          expect(`${device.vendor} ${device.driver}`).toMatch(/^(?:nvidia nvidia|amd amdgpu|intel (?:xe|i915))$/);
          // Either the engine knows it by its id, or there is a node to give.
          expect(device.vendor === 'nvidia' || device.withheld !== null || device.nodes.length > 0).toBe(true);
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
