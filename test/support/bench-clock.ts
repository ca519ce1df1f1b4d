import { execFileSync } from 'node:child_process';
import { chmodSync, closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** `test/fixtures/agents/clock.c`, built without a library so that it runs in any image. */
export type ClockProgram = {
  /** Where it and its records lie; the same paths are to be mounted into a container. */
  readonly folders: readonly string[];
  readonly path: string;
  /** A fresh record for one agent to write. */
  record(): ClockRecord;
  remove(): void;
};

export type ClockRecord = {
  readonly file: string;
  /** The agent has begun to write. */
  begun(): boolean;
  /** Once, at its end. */
  read(): ClockLife;
};

/** Times are milliseconds of the monotonic clock, which host and containers share. */
export type ClockLife = {
  readonly lastSignMs: number;
  readonly cpuMs: number;
  /** When its child touched the page for which there was no memory. */
  readonly filledAtMs: number;
  /** When its own CPU time reached so much; null when it did not live so long. */
  cpuReachedAtMs(cpuMs: number): number | null;
};

const SOURCE = join(import.meta.dirname, '../fixtures/agents/clock.c');
const COMPILE_MS_MAX = 60_000;
const SLOTS = 2 ** 18;
const HEADER_BYTES = 16;
const SLOT_BYTES = 16;

export function buildClock(): ClockProgram {
  const folder = mkdtempSync(join(tmpdir(), 'rf-clock-'));
  // In memory, and written whole beforehand: an agent at its memory limit must not need any to write the time.
  const records = mkdtempSync('/dev/shm/rf-clock-');
  const path = join(folder, 'clock');
  execFileSync('cc', ['-O2', '-static', '-o', path, SOURCE], { timeout: COMPILE_MS_MAX });
  for (const one of [folder, records]) chmodSync(one, 0o755);
  let count = 0;
  return {
    folders: [folder, records],
    path,
    record: () => {
      count += 1;
      const file = join(records, `record-${count}`);
      writeFileSync(file, Buffer.alloc(HEADER_BYTES + SLOTS * SLOT_BYTES));
      // The agent in a container is another user.
      chmodSync(file, 0o666);
      return {
        file,
        begun: () => readFirst(file) > 0n,
        read: () => {
          const life = lifeFrom(readFileSync(file));
          rmSync(file);
          return life;
        },
      };
    },
    remove: () => {
      for (const one of [folder, records]) rmSync(one, { recursive: true, force: true });
    },
  };
}

/** Now, by the clock that the agents write. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

function readFirst(file: string): bigint {
  const bytes = Buffer.alloc(HEADER_BYTES);
  const fd = openSync(file, 'r');
  try {
    readSync(fd, bytes, 0, HEADER_BYTES, 0);
  } finally {
    closeSync(fd);
  }
  return bytes.readBigUInt64LE(0);
}

function lifeFrom(bytes: Buffer): ClockLife {
  const count = Number(bytes.readBigUInt64LE(0));
  const word = (slot: number, offset: number): number =>
    Number(bytes.readBigUInt64LE(HEADER_BYTES + (slot % SLOTS) * SLOT_BYTES + offset)) / 1e6;
  if (count === 0) throw new Error('the agent did not live to write its record');
  return {
    lastSignMs: word(count - 1, 0),
    cpuMs: word(count - 1, 8),
    filledAtMs: Number(bytes.readBigUInt64LE(8)) / 1e6,
    cpuReachedAtMs: (cpuMs) => {
      for (let slot = Math.max(0, count - SLOTS); slot < count; slot += 1)
        if (word(slot, 8) >= cpuMs) return word(slot, 0);
      return null;
    },
  };
}
