import type { Breach, Denial } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { formatBytes, formatDuration } from '../core/units.ts';

/** An amount with its unit, for people: `3.02 s`, `200 MiB`, `21 denials`. */
export function formatAmount(amount: number, unit: string): string {
  switch (unit) {
    case 'ms':
      return formatDuration(amount);
    case 'bytes':
    case 'byte':
      return formatBytes(amount);
    case 'byte/s':
      return `${formatBytes(amount)}/s`;
    case 'millicores':
      return `${amount / 1000} ${amount === 1000 ? 'core' : 'cores'}`;
    case 'count':
      return String(amount);
    default:
      return `${amount} ${amount === 1 ? singular(unit) : unit}`;
  }
}

function singular(unit: string): string {
  if (unit === 'processes') return 'process';
  return unit.endsWith('s') && !unit.endsWith('/s') ? unit.slice(0, -1) : unit;
}

const DURATION_STEPS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1_000],
] as const;
const SIZE_STEPS = [
  ['TiB', 2 ** 40],
  ['GiB', 2 ** 30],
  ['MiB', 2 ** 20],
  ['KiB', 2 ** 10],
] as const;

/** An amount as it is written in a profile: `90s`, `200MiB`, `1.5`, `128`. Exact, so that it can be copied. */
export function profileAmount(amount: number, unit: string): string {
  if (unit === 'ms') return exactly(amount, DURATION_STEPS) ?? `${Math.round(amount)}ms`;
  if (unit === 'bytes') return exactly(amount, SIZE_STEPS) ?? `${Math.round(amount)}B`;
  if (unit === 'millicores') return String(amount / 1000);
  return String(amount);
}

function exactly(amount: number, steps: readonly (readonly [unit: string, factor: number])[]): string | null {
  const step = steps.find(([, factor]) => amount >= factor && amount % factor === 0);
  return step === undefined ? null : `${amount / step[1]}${step[0]}`;
}

const DESTINATION_CHARS_MAX = 100;

/** `203.0.113.10:22/tcp`, or the name that was asked. */
export function destinationOf(denial: Denial): string {
  const destination = printable(denial.destination, DESTINATION_CHARS_MAX);
  if (denial.kind === 'name') return `the name ${destination}`;
  const protocol = printable(denial.protocol, 16);
  return denial.port === null ? `${destination} (${protocol})` : `${destination}:${denial.port}/${protocol}`;
}

/** What usually listens on a port. It colours an explanation and never decides anything. */
const USUAL_PORTS: Readonly<Record<number, string>> = {
  22: 'SSH',
  25: 'mail',
  53: 'DNS',
  853: 'DNS over TLS',
  1080: 'SOCKS proxies',
  2375: 'the Docker API',
  3333: 'mining pools',
  4444: 'mining pools and reverse shells',
  5432: 'PostgreSQL',
  6379: 'Redis',
  6667: 'IRC',
  9001: 'Tor relays',
  14444: 'mining pools',
};

export function usualPort(denial: Denial): string | null {
  const usual = denial.port === null ? undefined : USUAL_PORTS[denial.port];
  return usual === undefined ? null : `port ${denial.port} is the usual one of ${usual}`;
}

/** `3.02 s, 3 s allowed`. */
export function formatBreach(breach: Breach): string {
  return `${formatAmount(breach.measured, breach.unit)}, ${formatAmount(breach.limit, breach.unit)} allowed`;
}
