import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import type { TestDaemon } from './daemon.ts';
import { docker } from './lab.ts';

/** What the benchmarks share: profiles of a few lines, quantiles, and a description of the machine without its name. */
export type BenchProfile = {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly budget: Readonly<Record<string, string | number>>;
  readonly alerts?: readonly string[];
  readonly egress?: Readonly<Record<string, readonly string[]>>;
};

/** Writes a profile into the daemon's folder and returns its path. */
export function writeProfile(daemon: TestDaemon, profile: BenchProfile): string {
  const path = `${daemon.folder}/${profile.name}.yaml`;
  const document = {
    apiVersion: 'ringfence/v1',
    owner: 'bench@example.com',
    description: 'A run of a benchmark.',
    user: 10001,
    limits: { cpu: 1, memory: '128MiB', pids: 32, disk: '16MiB', files: 256 },
    egress: {},
    on: { quarantine: false },
    ...profile,
  };
  // JSON is YAML too.
  writeFileSync(path, JSON.stringify(document, null, 2), { mode: 0o600 });
  return path;
}

/** A benchmark ends by itself: at a Ctrl-C or after this long it stops measuring, cleans up and says so. */
export function stopAfter(minutesMax: number): AbortSignal {
  const stop = new AbortController();
  const end = (why: string): void => stop.abort(new Error(`stopped before its end: ${why}`));
  process.on('SIGINT', () => end('by hand'));
  process.on('SIGTERM', () => end('by hand'));
  setTimeout(() => end(`longer than ${minutesMax} minutes`), minutesMax * 60_000).unref();
  return stop.signal;
}

/** Rows as a table of Markdown. */
export function markdown(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n');
}

export const DISTRIBUTION = ['n', 'p50', 'p90', 'p99', 'max'] as const;

/** The cells below DISTRIBUTION, with one decimal. */
export function distribution(values: readonly number[]): readonly string[] {
  const figures = [quantile(values, 0.5), quantile(values, 0.9), quantile(values, 0.99), Math.max(...values)];
  return [String(values.length), ...figures.map((figure) => figure.toFixed(1))];
}

/** The value below which this share of the values lies. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Date, processors, kernel, engine, Node.js and load: what a figure cannot be read without. */
export async function describeMachine(): Promise<string> {
  const engine = await docker('version', '--format', '{{.Server.Version}}');
  const [load] = readFileSync('/proc/loadavg', 'utf8').split(' ');
  // The numbers alone: what a vendor appends to its kernel's name says nothing here.
  const [kernel] = /^[0-9.]+/.exec(release()) ?? ['unknown'];
  const date = new Date().toISOString().slice(0, 16).replace('T', ' ');
  return `${date} UTC, ${cpus().length} cores, kernel ${kernel}, engine ${engine}, Node.js ${process.version}, load ${load}`;
}

export type LedgerLine = {
  readonly at: string;
  readonly kind: string;
  readonly runId?: string;
};

/** Every record of a daemon that has written less than one segment. */
export function ledgerLines(daemon: TestDaemon): readonly LedgerLine[] {
  const text = readFileSync(`${daemon.state}/ledger/ledger-000001.ndjson`, 'utf8');
  const lines = text.split('\n').filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line) as LedgerLine);
}
