/** Amounts short enough for a column: `1.5G` is GiB, `4m05s` is a duration. */

const SIZES: readonly (readonly [string, number])[] = [
  ['T', 2 ** 40],
  ['G', 2 ** 30],
  ['M', 2 ** 20],
  ['K', 2 ** 10],
];

export function shortBytes(bytes: number): string {
  for (const [unit, factor] of SIZES) if (bytes >= factor) return `${short(bytes / factor)}${unit}`;
  return `${Math.round(bytes)}B`;
}

export function shortDuration(milliseconds: number): string {
  const ms = Math.max(0, Math.round(milliseconds));
  if (ms < 1_000) return `${ms}ms`;
  if (ms < 60_000) return `${short(ms / 1_000)}s`;
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 3_600) return pair({ high: Math.floor(seconds / 60), low: seconds % 60, units: 'ms' });
  if (seconds < 86_400) {
    return pair({ high: Math.floor(seconds / 3_600), low: Math.floor((seconds % 3_600) / 60), units: 'hm' });
  }
  return pair({ high: Math.floor(seconds / 86_400), low: Math.floor((seconds % 86_400) / 3_600), units: 'dh' });
}

/** Whole seconds, minutes, hours or days: how old something is. */
export function shortAge(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1_000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

function pair(options: { readonly high: number; readonly low: number; readonly units: string }): string {
  const { high, low, units } = options;
  return low === 0 ? `${high}${units[0]}` : `${high}${units[0]}${String(low).padStart(2, '0')}${units[1]}`;
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, '');
}
