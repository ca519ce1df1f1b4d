/** IPv4 addresses as numbers from 0 to 2³² − 1. Only the canonical dotted decimal is an address here. */
const OCTET = '(?:0|[1-9][0-9]{0,2})';
const CANONICAL = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}$`);

/** `10.20.0.5` → a number; null for anything else, so that `010.1`, `0x7f.1` and `2130706433` are never addresses. */
export function parseIpv4(text: string): number | null {
  if (text.length > 15 || !CANONICAL.test(text)) return null;
  let value = 0;
  for (const octet of text.split('.')) {
    if (Number(octet) > 255) return null;
    value = value * 256 + Number(octet);
  }
  return value;
}

export function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

export type Ipv4Network = { readonly network: number; readonly prefixLength: number };

/** The first address of the network of this length that holds the address. */
export function networkOf(address: number, prefixLength: number): number {
  const size = 2 ** (32 - prefixLength);
  return Math.floor(address / size) * size;
}

export function contains(outer: Ipv4Network, address: number): boolean {
  return networkOf(address, outer.prefixLength) === outer.network;
}

/** Two networks share an address exactly when the wider one holds the first address of the narrower one. */
export function overlaps(left: Ipv4Network, right: Ipv4Network): boolean {
  return left.prefixLength <= right.prefixLength ? contains(left, right.network) : contains(right, left.network);
}

/** A network that we wrote ourselves: of anything else it makes one that holds nothing. */
export function parseCidr(cidr: string): Ipv4Network {
  const [network = '', length = ''] = cidr.split('/');
  return { network: parseIpv4(network) ?? -1, prefixLength: Number(length) };
}
