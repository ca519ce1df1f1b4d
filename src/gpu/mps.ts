import { readdirSync, readFileSync } from 'node:fs';
import { runIdOf } from './owner.ts';

/**
 * NVIDIA's multi-process server shares one context of a card among its clients: killing one of them can stop all the
 * others (an acknowledged fault up to CUDA 13.5), and killing is what a supervisor does. So no card is given while such a server is there.
 */
export function mpsWords(pids: readonly number[]): string {
  return `an MPS server shares it (process ${pids.join(', ')}), and two agents are never put behind one`;
}

/** Comm holds 15 characters of `nvidia-cuda-mps-server` and `nvidia-cuda-mps-control`. */
const NAME = 'nvidia-cuda-mps';

/** Servers and their control daemons on this host. An agent that calls itself so is none. */
export function findMps(procFolder = '/proc'): readonly number[] {
  return readdirSync(procFolder)
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => read(`${procFolder}/${pid}/comm`).trim() === NAME)
    .filter((pid) => runIdOf(read(`${procFolder}/${pid}/cgroup`)) === null)
    .map(Number);
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
