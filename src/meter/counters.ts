import { closeSync, openSync, readSync } from 'node:fs';

/**
 * Counters of the kernel on descriptors that stay open: read at position 0 into one shared buffer and parsed byte by
 * byte, which costs a few microseconds and leaves nothing for the garbage collector.
 */
export type Counter = {
  /** The value now; the last value known once the file is gone. */
  read(): number;
  /** The cgroup behind it was removed: the last value stands. */
  gone(): boolean;
  readonly fd: number;
  close(): void;
};

/** How a value is found in the file: the whole file is one number, or it is the number behind `key `. */
export type CounterForm = { readonly file: string; readonly key: string | null; readonly scale: number };

const FILE_BYTES_MAX = 8 * 1024;
const shared = Buffer.alloc(FILE_BYTES_MAX);

/** The first of the forms whose file exists and has the key; null when there is none. */
export function openCounter(forms: readonly CounterForm[]): Counter | null {
  for (const form of forms) {
    const counter = openForm(form);
    if (counter !== null) return counter;
  }
  return null;
}

function openForm(form: CounterForm): Counter | null {
  let fd: number;
  try {
    fd = openSync(form.file, 'r');
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
  const key = form.key === null ? null : Buffer.from(`${form.key} `);
  const first = parse(readFile(fd) ?? 0, key);
  if (first === null) {
    closeSync(fd);
    return null;
  }
  let last = first * form.scale;
  let gone = false;
  let open = true;
  return {
    fd,
    gone: () => gone,
    read: () => {
      if (gone || !open) return last;
      const length = readFile(fd);
      gone = length === null;
      const value = length === null ? null : parse(length, key);
      if (value !== null) last = value * form.scale;
      return last;
    },
    close: () => {
      if (open) closeSync(fd);
      open = false;
    },
  };
}

/** The number of bytes now in the shared buffer, or null when what the descriptor meant no longer exists. */
function readFile(fd: number): number | null {
  try {
    return readSync(fd, shared, 0, FILE_BYTES_MAX, 0);
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** A removed cgroup answers ENODEV on a kept descriptor and ENOENT by its path: that is an ending, not a failure. */
export function isGone(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  return code === 'ENODEV' || code === 'ENOENT';
}

function parse(length: number, key: Buffer | null): number | null {
  return key === null ? numberAt(shared, 0, length) : numberBehind(shared, key, length);
}

const DIGIT_0 = 48;
const DIGIT_9 = 57;
const NEWLINE = 10;

/** The decimal number that begins at `offset`, or null when there is no digit (`max`). */
export function numberAt(bytes: Uint8Array, offset: number, end: number): number | null {
  let value = 0;
  let index = offset;
  for (; index < end; index += 1) {
    const byte = bytes[index] ?? 0;
    if (byte < DIGIT_0 || byte > DIGIT_9) break;
    value = value * 10 + (byte - DIGIT_0);
  }
  return index === offset ? null : value;
}

/** The number behind a key at the start of a line; `key` ends with its space, so `oom ` never finds `oom_kill`. */
export function numberBehind(bytes: Uint8Array, key: Uint8Array, end: number): number | null {
  let lineStart = 0;
  while (lineStart < end) {
    let index = 0;
    while (index < key.length && lineStart + index < end && bytes[lineStart + index] === key[index]) index += 1;
    if (index === key.length) return numberAt(bytes, lineStart + index, end);
    while (lineStart < end && bytes[lineStart] !== NEWLINE) lineStart += 1;
    lineStart += 1;
  }
  return null;
}
