/**
 * Sizes, times and rates as people write them. A bare number where a unit is needed is refused, because `512` has
 * meant bytes, kilobytes and megabytes in the tools that people come from.
 */
export type ParsedQuantity =
  | { readonly ok: true; readonly value: number }
  | { readonly ok: false; readonly rule: string };

const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};
const DURATION_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86_400e3 };
const BIT_RATE_UNITS: Readonly<Record<string, number>> = { 'kbit/s': 1e3, 'Mbit/s': 1e6, 'Gbit/s': 1e9 };

/** `1.5GiB` → bytes. */
export function parseSize(text: string): ParsedQuantity {
  return parseQuantity(text, SIZE_UNITS, 'a size with a unit, such as 512MiB or 2GB');
}

/** `90s`, `30m` → milliseconds. */
export function parseDuration(text: string): ParsedQuantity {
  return parseQuantity(text, DURATION_UNITS, 'a time with a unit, such as 30s, 15m or 2h');
}

/** `20Mbit/s` or `2MiB/s` → bits per second. */
export function parseBitRate(text: string): ParsedQuantity {
  const perSecond = /^(.*)\/s$/.exec(text);
  if (perSecond !== null && !(text.replace(/^[0-9. ]+/, '') in BIT_RATE_UNITS)) {
    const size = parseSize(perSecond[1] ?? '');
    if (size.ok) return { ok: true, value: size.value * 8 };
  }
  return parseQuantity(text, BIT_RATE_UNITS, 'a rate with a unit, such as 20Mbit/s or 2MiB/s');
}

/** `50MiB/s` → bytes per second. */
export function parseByteRate(text: string): ParsedQuantity {
  const perSecond = /^(.*)\/s$/.exec(text);
  const size = perSecond === null ? null : parseSize(perSecond[1] ?? '');
  return size?.ok === true ? size : { ok: false, rule: 'must be a rate with a unit, such as 50MiB/s' };
}

function parseQuantity(text: string, units: Readonly<Record<string, number>>, what: string): ParsedQuantity {
  const match = /^(\d{1,15}(?:\.\d{1,6})?) ?([A-Za-z/]+)$/.exec(text);
  const factor = match === null ? undefined : units[match[2] ?? ''];
  if (match === null || factor === undefined) return { ok: false, rule: `must be ${what}` };
  const value = Math.round(Number(match[1]) * factor);
  if (!Number.isSafeInteger(value)) return { ok: false, rule: `must be ${what}, and small enough to count exactly` };
  return { ok: true, value };
}

const SIZE_STEPS = ['TiB', 'GiB', 'MiB', 'KiB'] as const;

/** Bytes for people: `1.5 GiB`. Whole numbers stay whole. */
export function formatBytes(bytes: number): string {
  for (const unit of SIZE_STEPS) {
    const factor = SIZE_UNITS[unit] ?? 1;
    if (bytes >= factor) return `${trimmed(bytes / factor)} ${unit}`;
  }
  return `${bytes} B`;
}

/** Milliseconds for people: `850 ms`, `12.3 s`, `4m 05s`, `2h 07m`. */
export function formatDuration(milliseconds: number): string {
  const ms = Math.max(0, Math.round(milliseconds));
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60_000) return `${trimmed(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${pad(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h ${pad(Math.floor((seconds % 3600) / 60))}m`;
}

function trimmed(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2).replace(/\.?0+$/, '');
}

function pad(value: number): string {
  return String(value).padStart(2, '0');
}
