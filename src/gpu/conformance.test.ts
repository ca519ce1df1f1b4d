import { gpuConformance } from '../../test/support/conformance-gpu.ts';
import { buildGpuLibrary } from '../../test/support/gpu-library.ts';
import { buildGpuWorld } from '../../test/support/gpu-world.ts';
import { listDrmCards } from './drm-cards.ts';

const GIB = 2 ** 30;

gpuConformance('the stand-in for a library', () => {
  const library = buildGpuLibrary();
  library.play(
    `device GPU-aaaaaaaa-0000-0000-0000-000000000001 ${80 * GIB} used=${4 * GIB} percent=40`,
    `device GPU-aaaaaaaa-0000-0000-0000-000000000002 ${80 * GIB} mig=on`,
    `slice MIG-bbbbbbbb-0000-0000-0000-000000000001 GPU-aaaaaaaa-0000-0000-0000-000000000002 1g.10gb ${10 * GIB}`,
    `process GPU-aaaaaaaa-0000-0000-0000-000000000001 ${process.pid} ${2 * GIB}`,
    `busy GPU-aaaaaaaa-0000-0000-0000-000000000001 ${process.pid} 40`,
  );
  return { source: { kind: 'nvml', library: library.path }, close: () => library.remove() };
});

gpuConformance('the stand-in for a kernel', () => {
  const world = buildGpuWorld({ cgroupOf: () => '0::/ringfence/r00000000test/c\n' });
  world.play(
    `device pci:0000:03:00.0 ${24 * GIB} used=${4 * GIB} percent=40 name=Radeon`,
    `device pci:0000:04:00.0 ${16 * GIB} driver=xe`,
    `device pci:0000:00:02.0 0 driver=i915 integrated`,
    `process pci:0000:03:00.0 ${process.pid} ${2 * GIB}`,
    `busy pci:0000:03:00.0 ${process.pid} 40`,
  );
  return { source: { kind: 'drm', root: world.root }, close: () => world.remove() };
});

// `scripts/gpu-check` names the library of a real driver.
const real = process.env['RINGFENCE_GPU_LIBRARY'];
if (real !== undefined)
  gpuConformance(`the driver of this host, ${real}`, () => ({
    source: { kind: 'nvml', library: real },
    close: () => {},
  }));

// A host has cards of these kinds or not; where it has, they are held to the same.
if (process.env['RINGFENCE_GPU_KERNEL'] !== undefined && listDrmCards('').length > 0)
  gpuConformance('the kernel of this host', () => ({ source: { kind: 'drm', root: '' }, close: () => {} }));
