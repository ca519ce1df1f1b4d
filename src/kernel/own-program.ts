import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * The file of another program of ours, by its path from the caller's and without an ending: from a checkout the sources
 * run as they are, from an installation their build. `from` is the caller's `import.meta.url`.
 */
export function ownProgram(path: string, from: string): string {
  return fileURLToPath(new URL(`${path}${extname(from)}`, from));
}
