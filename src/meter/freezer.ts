import { closeSync, existsSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { isGone, openCounter } from './counters.ts';
import type { Counter } from './counters.ts';

/**
 * Makes every process of a run stand still, and go on. By the v1 freezer where there is one, because each process of a
 * run is in that hierarchy, while an engine on a hybrid host may leave the v2 tree out; otherwise by the v2 tree.
 */
export type Freezer = {
  freeze(): void;
  thaw(): void;
  /** What the kernel says of every process in it; a process in an uninterruptible sleep delays it. */
  frozen(): boolean;
  close(): void;
};

const STATE_BYTES = 32;
/** The container, and what an engine may have made in it. */
const DEPTH_MAX = 4;

/**
 * Lets whatever stands still in a v1 hierarchy go on: those of a paused run, and of a container that somebody paused by
 * the engine. There a frozen process does not even die.
 */
export function thawTree(directory: string | null, depth = 0): void {
  const state = directory === null ? null : openExisting(join(directory, 'freezer.state'));
  if (directory === null || state === null) return;
  try {
    write(state, 'THAWED');
  } finally {
    closeSync(state);
  }
  if (depth >= DEPTH_MAX) return;
  for (const name of foldersIn(directory)) thawTree(join(directory, name), depth + 1);
}

/** Null where the kernel can freeze nothing here. */
export function openFreezer(parent: CgroupPaths): Freezer | null {
  const state = parent.freezer === null ? null : openExisting(join(parent.freezer, 'freezer.state'));
  if (state !== null) return freezerOfState(state);
  if (parent.unified === null) return null;
  const file = openExisting(join(parent.unified, 'cgroup.freeze'));
  if (file === null) return null;
  const events = join(parent.unified, 'cgroup.events');
  const frozen = openCounter([keyed(events, 'frozen')]);
  const populated = openCounter([keyed(events, 'populated')]);
  if (frozen !== null && populated !== null) return freezerOfTree({ file, frozen, populated });
  for (const counter of [frozen, populated]) counter?.close();
  closeSync(file);
  return null;
}

function keyed(file: string, key: string): { file: string; key: string; scale: number } {
  return { file, key, scale: 1 };
}

function freezerOfState(fd: number): Freezer {
  const text = Buffer.alloc(STATE_BYTES);
  return {
    freeze: () => write(fd, 'FROZEN'),
    thaw: () => write(fd, 'THAWED'),
    frozen: () => readState(fd, text) === 'FROZEN',
    close: () => closeSync(fd),
  };
}

function freezerOfTree(parts: {
  readonly file: number;
  readonly frozen: Counter;
  readonly populated: Counter;
}): Freezer {
  const { file, frozen, populated } = parts;
  return {
    freeze: () => write(file, '1'),
    thaw: () => write(file, '0'),
    // A tree without processes calls itself frozen, although those of the run may be elsewhere.
    frozen: () => frozen.read() === 1 && populated.read() === 1,
    close: () => {
      closeSync(file);
      frozen.close();
      populated.close();
    },
  };
}

function foldersIn(directory: string): readonly string[] {
  try {
    const entries = readdirSync(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

function openExisting(file: string): number | null {
  if (!existsSync(file)) return null;
  try {
    return openSync(file, 'r+');
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

function readState(fd: number, text: Buffer): string {
  try {
    return text.toString('latin1', 0, readSync(fd, text, 0, STATE_BYTES, 0)).trim();
  } catch (error) {
    if (isGone(error)) return 'gone';
    throw error;
  }
}

/** A cgroup that was removed has nothing left to freeze or to thaw. */
function write(fd: number, text: string): void {
  try {
    writeSync(fd, text, 0);
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}
