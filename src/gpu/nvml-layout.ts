/**
 * How the library lays out what it writes. The size of one row of the process list has changed between drivers without
 * a new name of the function, so a row's size is never believed: buffers are filled with a pattern before each call,
 * and where the library wrote tells how large its rows are. Pure.
 */
export type ProcessRow = {
  readonly pid: number;
  /** `null`: the driver does not know. */
  readonly memoryBytes: number | null;
};

export type UtilizationRow = { readonly pid: number; readonly atUs: number; readonly percent: number };

/** What every row must satisfy to be one. */
export type Plausible = {
  readonly deviceMemoryBytes: number;
  /** A process of this number exists, or existed a moment ago. */
  isProcess(pid: number): boolean;
};

export const PATTERN = 0xa5;
const STRIDES = [24, 32, 16] as const;
export const PROCESS_STRIDE_MAX = 32;
export const UTILIZATION_STRIDE = 32;
/** Cores, encoder, decoder; at 20 is the load of its memory, which is part of the cores' work. */
const BUSY_OFFSETS = [16, 24, 28] as const;
const NOT_AVAILABLE = 0xffff_ffff_ffff_ffffn;
/** The driver stamps with the time since 1970; no less than this is a stamp. */
const STAMP_US_MIN = 1e15;
/** PIDs beyond this do not exist on Linux. */
const PID_MAX = 4_194_304;

/** The rows of a process list; null when no size of a row makes sense of it. */
export function readProcessRows(rows: Buffer, count: number, plausible: Plausible): readonly ProcessRow[] | null {
  if (count === 0) return [];
  const extent = writtenBytes(rows);
  // The size that ends where the library stopped writing is the likeliest; a library that clears what it was given
  // leaves no end, and then only sense decides.
  const ordered = STRIDES.toSorted((a, b) => Number(fits(b, count, extent)) - Number(fits(a, count, extent)));
  for (const stride of ordered) {
    if (count * stride > rows.length) continue;
    const read = Array.from({ length: count }, (_, index) => processRow(rows, index * stride));
    if (read.every((row) => isPlausible(row, plausible))) return read;
  }
  return null;
}

function fits(stride: number, count: number, extent: number): boolean {
  return extent > stride * count - 8 && extent <= stride * count;
}

function processRow(rows: Buffer, offset: number): ProcessRow {
  const bytes = rows.readBigUInt64LE(offset + 8);
  return { pid: rows.readUInt32LE(offset), memoryBytes: bytes === NOT_AVAILABLE ? null : Number(bytes) };
}

function isPlausible({ pid, memoryBytes }: ProcessRow, plausible: Plausible): boolean {
  return pid > 0 && pid <= PID_MAX && (memoryBytes ?? 0) <= plausible.deviceMemoryBytes && plausible.isProcess(pid);
}

/**
 * The rows of utilisation; null when the library wrote rows of another size. `count` may be more than was written, and
 * unused rows come cleared or untouched: neither is a process.
 */
export function readUtilizationRows(rows: Buffer, count: number): readonly UtilizationRow[] | null {
  const extent = writtenBytes(rows.subarray(0, count * UTILIZATION_STRIDE));
  if (count * UTILIZATION_STRIDE > rows.length || extent % UTILIZATION_STRIDE !== 0) return null;
  const read = Array.from({ length: extent / UTILIZATION_STRIDE }, (_, index) => {
    const offset = index * UTILIZATION_STRIDE;
    return {
      pid: rows.readUInt32LE(offset),
      atUs: Number(rows.readBigUInt64LE(offset + 8)),
      // Whatever keeps the device busy counts: an encoder is no less of it than its cores.
      percent: Math.max(...BUSY_OFFSETS.map((field) => rows.readUInt32LE(offset + field))),
    };
  }).filter(({ pid }) => pid > 0);
  return read.every(({ pid, atUs }) => pid <= PID_MAX && atUs > STAMP_US_MIN) ? read : null;
}

/** Where the last byte that is not of the pattern ends. */
function writtenBytes(rows: Buffer): number {
  for (let end = rows.length; end > 0; end -= 1) if (rows[end - 1] !== PATTERN) return end;
  return 0;
}

/** Text that the library wrote, up to its NUL. */
export function readText(text: Buffer): string {
  const end = text.indexOf(0);
  return text.toString('latin1', 0, end === -1 ? text.length : end);
}
