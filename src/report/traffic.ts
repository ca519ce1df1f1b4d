import type { AllowedDestination } from '../api/service.ts';
import type { FenceDestination } from '../core/ports/fence.ts';

/** What one run was let through since the last look. Counters come as totals, so each look keeps them for the next. */
export type TrafficState = {
  readonly totals: ReadonlyMap<string, FenceDestination>;
  /** The latest first. */
  readonly last: readonly AllowedDestination[];
};

export const TRAFFIC_NONE: TrafficState = { totals: new Map(), last: [] };

/** Bytes of one name that the name check passed on, as it reports them. */
export type PassedName = {
  readonly name: string;
  readonly port: number;
  readonly connections: number;
  readonly egressBytes: number;
  readonly ingressBytes: number;
};

/**
 * What a record says of one destination. By address as the kernel counted packets, or by name as the name check counted
 * what it passed on: a checked connection is in both. `null`: not counted on that way.
 */
export type Flow = {
  readonly countedBy: 'kernel' | 'name-check';
  readonly destination: string;
  readonly name: string | null;
  readonly port: number | null;
  readonly protocol: 'tcp' | 'udp' | 'any';
  readonly egressBytes: number;
  readonly ingressBytes: number | null;
  readonly connections: number | null;
  readonly packets: number | null;
  /** How many destinations are in this one; more than 1 in the last record of a busy minute. */
  readonly destinations: number;
};

/** Destinations of a run that get a record of their own a minute; the rest is summed up. */
export const FLOWS_MAX = 64;
const LAST_KEPT_MAX = 16;

export function trafficSince(
  before: TrafficState,
  now: {
    readonly destinations: readonly FenceDestination[];
    readonly names: readonly PassedName[];
    readonly at: string;
  },
): { readonly state: TrafficState; readonly flows: readonly Flow[] } {
  const totals = new Map(now.destinations.map((each) => [keyOf(each), each]));
  const moved = now.destinations.map((each) => since(before.totals.get(keyOf(each)), each)).filter(hasMoved);
  const flows = [...now.names.map(flowOfName), ...moved.map(flowOfDestination)].toSorted(
    (one, other) => other.egressBytes - one.egressBytes,
  );
  const last = [...flows.flatMap((flow) => allowedOf(flow, now.at)), ...before.last];
  return { state: { totals, last: latest(last) }, flows: bounded(flows) };
}

function keyOf({ address, port, protocol }: FenceDestination): string {
  return `${protocol} ${address} ${port}`;
}

/** A counter that is lower than before was made anew meanwhile. */
function since(before: FenceDestination | undefined, now: FenceDestination): FenceDestination {
  if (before === undefined || now.packets < before.packets) return now;
  return { ...now, egressBytes: now.egressBytes - before.egressBytes, packets: now.packets - before.packets };
}

function hasMoved({ packets, egressBytes }: FenceDestination): boolean {
  return packets > 0 || egressBytes > 0;
}

function flowOfDestination({ address, port, protocol, egressBytes, packets }: FenceDestination): Flow {
  const uncounted = { name: null, ingressBytes: null, connections: null, destinations: 1 };
  return { countedBy: 'kernel', destination: address, port, protocol, egressBytes, packets, ...uncounted };
}

function flowOfName({ name, port, connections, egressBytes, ingressBytes }: PassedName): Flow {
  const counted = { egressBytes, ingressBytes, connections, packets: null, destinations: 1 };
  return { countedBy: 'name-check', destination: name, name, port, protocol: 'tcp', ...counted };
}

function bounded(flows: readonly Flow[]): readonly Flow[] {
  if (flows.length <= FLOWS_MAX) return flows;
  const rest = flows.slice(FLOWS_MAX - 1);
  const sum = (of: (flow: Flow) => number | null): number => rest.reduce((total, flow) => total + (of(flow) ?? 0), 0);
  const other: Flow = {
    countedBy: 'kernel',
    destination: 'other destinations',
    name: null,
    port: null,
    protocol: 'any',
    egressBytes: sum((flow) => flow.egressBytes),
    ingressBytes: sum((flow) => flow.ingressBytes),
    connections: sum((flow) => flow.connections),
    packets: sum((flow) => flow.packets),
    destinations: rest.length,
  };
  return [...flows.slice(0, FLOWS_MAX - 1), other];
}

function allowedOf(flow: Flow, lastAt: string): readonly AllowedDestination[] {
  const { destination, name, port, protocol, egressBytes } = flow;
  return port === null || protocol === 'any' ? [] : [{ destination, name, port, protocol, egressBytes, lastAt }];
}

/** Once each, as it was seen last. */
function latest(allowed: readonly AllowedDestination[]): readonly AllowedDestination[] {
  const byKey = new Map<string, AllowedDestination>();
  for (const each of allowed) {
    const key = `${each.destination} ${each.port} ${each.protocol}`;
    const known = byKey.get(key);
    byKey.set(key, known === undefined ? each : { ...known, egressBytes: known.egressBytes + each.egressBytes });
  }
  return [...byKey.values()].slice(0, LAST_KEPT_MAX);
}
