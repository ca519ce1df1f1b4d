import { gpuConformance } from '../../test/support/conformance-gpu.ts';
import { buildGpuLibrary } from '../../test/support/gpu-library.ts';

const GIB = 2 ** 30;

gpuConformance('the stand-in', () => {
  const library = buildGpuLibrary();
  library.play(
    `device GPU-aaaaaaaa-0000-0000-0000-000000000001 ${80 * GIB} used=${4 * GIB} percent=40`,
    `device GPU-aaaaaaaa-0000-0000-0000-000000000002 ${80 * GIB} mig=on`,
    `slice MIG-bbbbbbbb-0000-0000-0000-000000000001 GPU-aaaaaaaa-0000-0000-0000-000000000002 1g.10gb ${10 * GIB}`,
    `process GPU-aaaaaaaa-0000-0000-0000-000000000001 ${process.pid} ${2 * GIB}`,
    `busy GPU-aaaaaaaa-0000-0000-0000-000000000001 ${process.pid} 40`,
  );
  return { library: library.path, close: () => library.remove() };
});

// `scripts/gpu-check` names the library of a real driver.
const real = process.env['RINGFENCE_GPU_LIBRARY'];
if (real !== undefined) gpuConformance(`the driver of this host, ${real}`, () => ({ library: real, close: () => {} }));
