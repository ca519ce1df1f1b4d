import { assert } from '../core/assert.ts';

/** What the daemon starts the warden with: one JSON value in its first argument. */
export type WardenConfig = {
  /** A directory of its own, 0700: who holds which run, and what was done while no daemon was there to hear it. */
  readonly directory: string;
  /** The NFLOG group of the fence's rules; null runs without the feed of denied packets. */
  readonly nflogGroup: number | null;
  /** The `hash:net,iface` set whose entry lets a run send; null where there is no fence. */
  readonly silenceSet: string | null;
  /** The `hash:ip` sets that count what each address sent and received; null where there is no fence. */
  readonly trafficSets: { readonly egress: string; readonly ingress: string; readonly connections: string } | null;
  /** True when the fence cuts off at budgets of bytes and connections by itself and logs it. */
  readonly egressHeldByKernel: boolean;
  /** How often the daemon must hear that the loop turns, for the watchdog of systemd; null where there is none. */
  readonly turningEveryMs: number | null;
};

/** Descriptors that the daemon leaves open in the warden: both are ends of unix socket pairs. */
export const REQUESTS_FD = 3;
export const DENIED_NAMES_FD = 4;

/** Both ends are one program of one version, so a config that does not fit is our bug. */
export function parseWardenConfig(text: string | undefined): WardenConfig {
  assert(text !== undefined, 'the warden is started with its config');
  const config = JSON.parse(text) as WardenConfig;
  assert(typeof config.directory === 'string' && config.directory.startsWith('/'), 'the directory is absolute');
  assert(config.nflogGroup === null || Number.isInteger(config.nflogGroup), 'the NFLOG group is a number or null');
  assert(config.silenceSet === null || typeof config.silenceSet === 'string', 'the set has a name or is null');
  assert(
    config.trafficSets === null || typeof config.trafficSets.egress === 'string',
    'the sets have names or are null',
  );
  return config;
}
