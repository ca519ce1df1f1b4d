/** The first bytes of a packet, as far as a report needs them. What is not there is null; nothing here ever throws. */
export type PacketFacts = {
  readonly family: 4 | 6;
  readonly source: string;
  readonly destination: string;
  /** `tcp`, `udp`, `icmp`, `icmpv6`, or the number in decimal. */
  readonly protocol: string;
  readonly sourcePort: number | null;
  readonly destinationPort: number | null;
};

const PROTOCOL_NAMES: Readonly<Record<number, string>> = {
  1: 'icmp',
  2: 'igmp',
  6: 'tcp',
  17: 'udp',
  41: 'ipv6',
  47: 'gre',
  50: 'esp',
  58: 'icmpv6',
  132: 'sctp',
};
const PROTOCOLS_WITH_PORTS: ReadonlySet<number> = new Set([6, 17, 33, 132, 136]);
const IPV4_HEADER_BYTES_MIN = 20;
const IPV6_HEADER_BYTES = 40;
const FRAGMENT_OFFSET_MASK = 0x1fff;

export function parsePacket(bytes: Uint8Array): PacketFacts | null {
  const version = (bytes[0] ?? 0) >> 4;
  if (version === 4 && bytes.length >= IPV4_HEADER_BYTES_MIN) return parseIpv4(bytes);
  if (version === 6 && bytes.length >= IPV6_HEADER_BYTES) return parseIpv6(bytes);
  return null;
}

function parseIpv4(bytes: Uint8Array): PacketFacts {
  const protocol = bytes[9] ?? 0;
  const headerBytes = ((bytes[0] ?? 0) & 0xf) * 4;
  // Only the first fragment carries the ports; in a later one these bytes are payload.
  const first = (readUint16(bytes, 6) & FRAGMENT_OFFSET_MASK) === 0;
  return {
    family: 4,
    source: bytes.subarray(12, 16).join('.'),
    destination: bytes.subarray(16, 20).join('.'),
    ...protocolAndPorts(bytes, { protocol, offset: first ? headerBytes : bytes.length }),
  };
}

function parseIpv6(bytes: Uint8Array): PacketFacts {
  return {
    family: 6,
    source: formatIpv6(bytes.subarray(8, 24)),
    destination: formatIpv6(bytes.subarray(24, 40)),
    // Extension headers are not walked: IPv6 is denied whole, so the report needs no port behind them.
    ...protocolAndPorts(bytes, { protocol: bytes[6] ?? 0, offset: IPV6_HEADER_BYTES }),
  };
}

function protocolAndPorts(
  bytes: Uint8Array,
  at: { readonly protocol: number; readonly offset: number },
): Pick<PacketFacts, 'protocol' | 'sourcePort' | 'destinationPort'> {
  const hasPorts = PROTOCOLS_WITH_PORTS.has(at.protocol) && bytes.length >= at.offset + 4;
  return {
    protocol: PROTOCOL_NAMES[at.protocol] ?? String(at.protocol),
    sourcePort: hasPorts ? readUint16(bytes, at.offset) : null,
    destinationPort: hasPorts ? readUint16(bytes, at.offset + 2) : null,
  };
}

function readUint16(bytes: Uint8Array, offset: number): number {
  return ((bytes[offset] ?? 0) << 8) | (bytes[offset + 1] ?? 0);
}

/** RFC 5952: lower case, no leading zeros, the longest run of zero groups as `::`. */
export function formatIpv6(bytes: Uint8Array): string {
  const groups = Array.from({ length: 8 }, (_, index) => readUint16(bytes, index * 2));
  let bestStart = -1;
  let bestLength = 1;
  for (let start = 0; start < groups.length; start += 1) {
    let length = 0;
    while (start + length < groups.length && groups[start + length] === 0) length += 1;
    if (length > bestLength) {
      bestStart = start;
      bestLength = length;
    }
  }
  const text = (from: number, to: number): string =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(':');
  if (bestStart < 0) return text(0, 8);
  return `${text(0, bestStart)}::${text(bestStart + bestLength, 8)}`;
}
