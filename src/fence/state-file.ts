import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PoolState } from './pool.ts';

/** What the fence remembers beside the kernel. A file that is missing or torn costs only the memory, never a rule. */
export type FenceState = { readonly pool: PoolState; readonly srcValidMarkBefore: string | null };

const EMPTY: FenceState = { pool: { cursor: 0, leases: [] }, srcValidMarkBefore: null };
const FILE_NAME = 'fence.json';

export class FenceStateFile {
  readonly #directory: string | null;
  #state: FenceState = EMPTY;
  #read = false;

  constructor(directory: string | null) {
    this.#directory = directory;
  }

  read(): FenceState {
    if (!this.#read && this.#directory !== null) this.#state = readState(join(this.#directory, FILE_NAME));
    this.#read = true;
    return this.#state;
  }

  rememberPool(pool: PoolState): void {
    this.#write({ ...this.read(), pool });
  }

  /** Only the first value counts: later ones are our own. */
  rememberSysctl(srcValidMarkBefore: string): void {
    const state = this.read();
    this.#write({ ...state, srcValidMarkBefore: state.srcValidMarkBefore ?? srcValidMarkBefore });
  }

  remove(): void {
    this.#state = EMPTY;
    if (this.#directory !== null) rmSync(join(this.#directory, FILE_NAME), { force: true });
  }

  #write(state: FenceState): void {
    this.#state = state;
    if (this.#directory === null) return;
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    const path = join(this.#directory, FILE_NAME);
    writeFileSync(`${path}.next`, JSON.stringify(state), { mode: 0o600 });
    renameSync(`${path}.next`, path);
  }
}

function readState(path: string): FenceState {
  try {
    const value = JSON.parse(readFileSync(path, 'utf8')) as Partial<FenceState> | null;
    const leases = (value?.pool?.leases ?? []).filter(
      (lease) => typeof lease.runId === 'string' && Number.isInteger(lease.index),
    );
    const cursor = Number.isInteger(value?.pool?.cursor) ? (value?.pool?.cursor ?? 0) : 0;
    const before = value?.srcValidMarkBefore;
    return { pool: { cursor, leases }, srcValidMarkBefore: before === '0' ? before : null };
  } catch {
    return EMPTY;
  }
}
