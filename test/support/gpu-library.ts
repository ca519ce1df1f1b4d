import { execFileSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The stand-in for NVIDIA's library (`test/fixtures/nvml/nvml.c`), built for one test file and played by a script. */
export type GpuLibrary = {
  readonly path: string;
  /** Replaces the script: what the library tells from its next call on. */
  play(...lines: readonly string[]): void;
  remove(): void;
};

const SOURCE = join(import.meta.dirname, '../fixtures/nvml/nvml.c');
const COMPILE_MS_MAX = 60_000;

/** `old`: a library of a driver from before the numbered process lists, without utilisation of processes. */
export function buildGpuLibrary(options: { readonly old?: boolean } = {}): GpuLibrary {
  const folder = mkdtempSync(join(tmpdir(), 'rf-nvml-'));
  const path = join(folder, 'libnvidia-ml.so.1');
  const flags = options.old === true ? ['-DOLD'] : [];
  execFileSync('cc', ['-O1', '-shared', '-fPIC', ...flags, '-o', path, SOURCE, '-ldl'], { timeout: COMPILE_MS_MAX });
  const script = join(folder, 'nvml.script');
  return {
    path,
    play: (...lines) => {
      // A reader never sees half of it.
      writeFileSync(`${script}.new`, `${lines.join('\n')}\n`);
      renameSync(`${script}.new`, script);
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
