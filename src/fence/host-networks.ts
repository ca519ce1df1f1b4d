import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { formatIpv4, networkOf, overlaps } from '../profile/ipv4.ts';
import type { Ipv4Network } from '../profile/ipv4.ts';
import { FENCE_BRIDGE_PREFIX } from '../core/fence-names.ts';
import { parseNetwork } from './pool.ts';

/** A network that the host uses, and the device or engine network that it belongs to. */
export type HostNetwork = Ipv4Network & { readonly owner: string };

/** Addresses and routes of this network namespace; the default route is everywhere and counts for nothing. */
export function hostNetworks(): HostNetwork[] {
  const networks: HostNetwork[] = [];
  for (const [owner, addresses] of Object.entries(networkInterfaces())) {
    for (const { cidr, family } of addresses ?? []) {
      const parsed = family === 'IPv4' && cidr !== null ? parseNetwork(cidr) : null;
      if (parsed === null) continue;
      networks.push({
        owner,
        prefixLength: parsed.prefixLength,
        network: networkOf(parsed.network, parsed.prefixLength),
      });
    }
  }
  return [...networks, ...parseRoutes(readFileSync('/proc/self/net/route', 'utf8'))];
}

/** Lines of /proc/net/route: device, destination and mask as hexadecimal in the byte order of the host. */
export function parseRoutes(text: string): HostNetwork[] {
  const networks: HostNetwork[] = [];
  for (const line of text.split('\n').slice(1)) {
    const [owner, destination, , , , , , mask] = line.split('\t');
    if (owner === undefined || destination === undefined || mask === undefined) continue;
    const prefixLength = swapped(mask).toString(2).replaceAll('0', '').length;
    if (prefixLength > 0) networks.push({ owner, network: swapped(destination), prefixLength });
  }
  return networks;
}

/** Names of all devices, up or down. Not from /sys, which shows the namespace in which it was mounted. */
export function hostDevices(): ReadonlySet<string> {
  const lines = readFileSync('/proc/self/net/dev', 'utf8').split('\n').slice(2);
  return new Set(lines.map((line) => line.split(':')[0]?.trim() ?? '').filter((name) => name !== ''));
}

function swapped(hex: string): number {
  return Buffer.from(hex.padStart(8, '0'), 'hex').readUInt32LE(0);
}

/** The engine's networks. Those of four addresses in the pool are runs of ours: in use, but no conflict. */
export function engineNetworks(subnets: readonly string[], pool: Ipv4Network): HostNetwork[] {
  return subnets.flatMap((subnet) => {
    const parsed = parseNetwork(subnet);
    if (parsed === null) return [];
    const network = networkOf(parsed.network, parsed.prefixLength);
    const ours = parsed.prefixLength === 30 && overlaps(parsed, pool);
    return [
      { network, prefixLength: parsed.prefixLength, owner: ours ? FENCE_BRIDGE_PREFIX : `engine network ${subnet}` },
    ];
  });
}

/** What of these stands in the way of a pool: anything that shares an address with it and is not a bridge of ours. */
export function poolConflicts(pool: Ipv4Network, networks: readonly HostNetwork[]): string[] {
  const foreign = networks.filter(
    (network) => overlaps(network, pool) && !network.owner.startsWith(FENCE_BRIDGE_PREFIX),
  );
  return [
    ...new Set(foreign.map((network) => `${formatIpv4(network.network)}/${network.prefixLength} (${network.owner})`)),
  ];
}
