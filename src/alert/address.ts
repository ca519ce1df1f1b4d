import { BlockList, isIP } from 'node:net';

/**
 * Where a sink may be. `public`: anywhere on the internet. `local`: private or loopback, only with `allowPrivate`.
 * `documentation`: reserved for examples and never routed, so it is neither. `never`: metadata services, link-local,
 * multicast and what is no destination at all; no setting opens those.
 */
export type AddressClass = 'public' | 'local' | 'documentation' | 'never';

const LOCAL = networks([
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['172.16.0.0', 12],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['::1', 128],
  ['fc00::', 7],
]);
const DOCUMENTATION = networks([
  ['192.0.2.0', 24],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['2001:db8::', 32],
]);
const NEVER = networks([
  ['0.0.0.0', 8],
  ['169.254.0.0', 16],
  ['168.63.129.16', 32],
  ['100.100.100.200', 32],
  ['192.0.0.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
  ['fd00:ec2::', 32],
  // These hold an IPv4 address, which could be any of the above.
  ['2001::', 32],
  ['2002::', 16],
]);
/** Global unicast: everything else of IPv6, IPv4-mapped addresses included, is no place for a sink. */
const IPV6_PUBLIC = networks([['2000::', 3]]);

export function addressClass(address: string): AddressClass {
  const family = isIP(address);
  if (family === 0) return 'never';
  const within = (list: BlockList): boolean => list.check(address, family === 4 ? 'ipv4' : 'ipv6');
  // An IPv4-mapped address is checked by BlockList as the address in it; it is refused before that can matter.
  if (family === 6 && address.toLowerCase().startsWith('::ffff:')) return 'never';
  if (within(NEVER)) return 'never';
  if (within(LOCAL)) return 'local';
  if (within(DOCUMENTATION)) return 'documentation';
  return family === 4 || within(IPV6_PUBLIC) ? 'public' : 'never';
}

function networks(entries: readonly (readonly [network: string, prefixLength: number])[]): BlockList {
  const list = new BlockList();
  for (const [network, prefixLength] of entries) {
    list.addSubnet(network, prefixLength, isIP(network) === 4 ? 'ipv4' : 'ipv6');
  }
  return list;
}
