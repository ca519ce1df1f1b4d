import { bootTimeMs } from '../src/kernel/libc.ts';
import { openNvml } from '../src/kernel/nvml.ts';
import { openNvmlSource } from '../src/gpu/nvml.ts';
import { createOwners } from '../src/gpu/owner.ts';

/** What one driver tells, for `scripts/gpu-check`: node scripts/gpu-report.ts LIBRARY */
const READINGS = 50;

const nvml = openNvml(process.argv[2] ?? '');
const source = openNvmlSource({ nvml, owners: createOwners(), now: bootTimeMs, clockUs: () => Date.now() * 1000 });
const took: number[] = [];
let reading = source.read();
for (let count = 0; count < READINGS; count += 1) {
  const before = bootTimeMs();
  reading = source.read();
  took.push(bootTimeMs() - before);
}
source.close();
took.sort((a, b) => a - b);
const lists = nvml.processes.map(({ name }) => name).join(', ');
process.stdout.write(`${reading.versions.join(', ')}\n`);
process.stdout.write(`a reading takes ${took[READINGS / 2]?.toFixed(2)} ms, at most ${took.at(-1)?.toFixed(2)} ms\n`);
process.stdout.write(`process lists: ${lists}\n`);
for (const device of reading.devices)
  process.stdout.write(`${JSON.stringify({ ...device, processes: device.processes.length })}\n`);
