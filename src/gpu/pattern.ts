/**
 * What mining looks like from outside: a device that is kept busy at one level for minutes by an agent that reads and
 * writes next to nothing, or that tries to reach a pool meanwhile. A label for people who read an incident; it decides
 * nothing, because an honest training looks alike. Pure.
 */
export type GpuMoment = {
  readonly atMs: number;
  readonly percent: number;
  /** Of the network, in and out together, over the run. */
  readonly trafficBytes: number;
};

export type MiningSign = {
  readonly label: 'mining-like';
  readonly why: string;
  readonly meanPercent: number;
  readonly spreadPercent: number;
};

/** Newest last. */
export type GpuSeries = readonly GpuMoment[];

export const SERIES_MS_MAX = 300_000;
const SERIES_EVERY_MS = 1_000;
const SUSTAINED_MS = 180_000;
/** With a pool in the picture, less will do. */
const SUSTAINED_WITH_POOL_MS = 10_000;
const BUSY_PERCENT = 80;
const FLAT_PERCENT = 5;
const QUIET_BYTES_PER_S = 4_096;
/** What common pools listen on. 443 is everybody's, so it says nothing. */
const POOL_PORTS: ReadonlySet<number> = new Set([
  1314, 3032, 3333, 3334, 4444, 5555, 6666, 7777, 8008, 8332, 8333, 9332, 9999, 14433, 14444, 45560, 45700,
]);
const POOL_NAME =
  /(?:^|[.-])(?:pool|mine|mining|miner|stratum|nanopool|ethermine|f2pool|nicehash|minexmr)(?=[.-]|\d|$)/i;

/** At most one moment a second, and none older than five minutes. */
export function withMoment(series: GpuSeries, moment: GpuMoment): GpuSeries {
  const last = series.at(-1);
  if (last !== undefined && moment.atMs - last.atMs < SERIES_EVERY_MS) return series;
  return [...series.filter(({ atMs }) => moment.atMs - atMs <= SERIES_MS_MAX), moment];
}

export type DeniedDestination = { readonly destination: string; readonly port: number | null };

export function looksLikePool({ destination, port }: DeniedDestination): boolean {
  return (port !== null && POOL_PORTS.has(port)) || POOL_NAME.test(destination);
}

/** `deniedMeanwhile`: where the run was refused to go while the series was taken. */
export function miningSign(series: GpuSeries, deniedMeanwhile: readonly DeniedDestination[]): MiningSign | null {
  const first = series[0];
  const last = series.at(-1);
  if (first === undefined || last === undefined) return null;
  const pool = deniedMeanwhile.find(looksLikePool);
  const needsMs = pool === undefined ? SUSTAINED_MS : SUSTAINED_WITH_POOL_MS;
  const recent = series.filter(({ atMs }) => last.atMs - atMs <= needsMs);
  const begin = recent[0] ?? last;
  if (last.atMs - first.atMs < needsMs) return null;
  const meanPercent = recent.reduce((sum, { percent }) => sum + percent, 0) / recent.length;
  const spreadPercent = Math.sqrt(
    recent.reduce((sum, { percent }) => sum + (percent - meanPercent) ** 2, 0) / recent.length,
  );
  if (meanPercent < BUSY_PERCENT) return null;
  const measured = {
    label: 'mining-like',
    meanPercent: Math.round(meanPercent),
    spreadPercent: Math.round(spreadPercent),
  } as const;
  const busy = `a GPU was ${measured.meanPercent}% busy for ${Math.round((last.atMs - begin.atMs) / 1000)} s`;
  if (pool !== undefined)
    return { ...measured, why: `${busy} while the agent was refused a connection to what looks like a pool` };
  const seconds = Math.max(1, (last.atMs - begin.atMs) / 1000);
  const isQuiet = (last.trafficBytes - begin.trafficBytes) / seconds <= QUIET_BYTES_PER_S;
  if (spreadPercent > FLAT_PERCENT || !isQuiet) return null;
  return { ...measured, why: `${busy}, within ${measured.spreadPercent}%, with next to no traffic` };
}
