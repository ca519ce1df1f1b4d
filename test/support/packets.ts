import { decode, streamDecode, type Packet as DnsPacket } from 'dns-packet';

/** One captured frame, as far down as the tests ask. Ports are 0 where the protocol has none. */
export type Packet = {
  readonly at: string;
  readonly sourceMac: string;
  readonly source: string;
  readonly destination: string;
  readonly protocol: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly icmpType: number;
  /** On the wire, headers included. */
  readonly bytes: number;
  /** Bytes after the TCP or UDP header, as the lengths in the headers say (the capture may hold fewer). */
  readonly payloadBytes: number;
  readonly payload: Buffer;
};

const RECORD_HEADER_BYTES = 16;
const ETHERNET_BYTES = 14;
const IPV4 = 0x0800;
const IPV6 = 0x86dd;
const PROTOCOLS: Readonly<Record<number, string>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  47: 'gre',
  58: 'icmp6',
  132: 'sctp',
};

/** Reads the records of a capture (little-endian, microseconds, Ethernet); a torn last record is left out. */
export function parsePackets(capture: Buffer): Packet[] {
  const packets: Packet[] = [];
  for (let offset = 0; offset + RECORD_HEADER_BYTES <= capture.length;) {
    const captured = capture.readUInt32LE(offset + 8);
    const frame = capture.subarray(offset + RECORD_HEADER_BYTES, offset + RECORD_HEADER_BYTES + captured);
    if (frame.length < captured) break;
    const atMs = capture.readUInt32LE(offset) * 1000 + capture.readUInt32LE(offset + 4) / 1000;
    packets.push(parseFrame(frame, { at: new Date(atMs).toISOString(), bytes: capture.readUInt32LE(offset + 12) }));
    offset += RECORD_HEADER_BYTES + captured;
  }
  return packets;
}

function parseFrame(frame: Buffer, record: { readonly at: string; readonly bytes: number }): Packet {
  const nothing: Packet = {
    ...record,
    sourceMac: [...frame.subarray(6, 12)].map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
    source: '',
    destination: '',
    protocol: `ethertype ${frame.readUInt16BE(12).toString(16)}`,
    sourcePort: 0,
    destinationPort: 0,
    icmpType: -1,
    payloadBytes: 0,
    payload: Buffer.alloc(0),
  };
  const body = frame.subarray(ETHERNET_BYTES);
  switch (frame.readUInt16BE(12)) {
    case IPV4:
      return { ...nothing, ...parseIpv4(body) };
    case IPV6:
      return { ...nothing, ...parseIpv6(body) };
    default:
      return nothing;
  }
}

function parseIpv4(body: Buffer): Partial<Packet> {
  const headerBytes = ((body[0] ?? 0) & 0x0f) * 4;
  const laterFragment = (body.readUInt16BE(6) & 0x1fff) !== 0;
  return {
    source: [...body.subarray(12, 16)].join('.'),
    destination: [...body.subarray(16, 20)].join('.'),
    ...parseTransport(body.subarray(headerBytes), {
      protocol: body[9] ?? 0,
      // Zero when the sending card was to fill it in: then the frame is as long as it looks.
      bytes: (body.readUInt16BE(2) || body.length) - headerBytes,
      laterFragment,
    }),
  };
}

const IPV6_HEADER_BYTES = 40;

function parseIpv6(body: Buffer): Partial<Packet> {
  return {
    source: ipv6Text(body.subarray(8, 24)),
    destination: ipv6Text(body.subarray(24, 40)),
    ...parseTransport(body.subarray(IPV6_HEADER_BYTES), {
      protocol: body[6] ?? 0,
      bytes: body.readUInt16BE(4),
      laterFragment: false,
    }),
  };
}

function ipv6Text(address: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, index) => address.readUInt16BE(index * 2).toString(16));
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1);
}

function parseTransport(
  body: Buffer,
  header: { readonly protocol: number; readonly bytes: number; readonly laterFragment: boolean },
): Partial<Packet> {
  const protocol = PROTOCOLS[header.protocol] ?? `protocol ${header.protocol}`;
  if (header.laterFragment || body.length < 8) return { protocol };
  switch (protocol) {
    case 'tcp':
      return { protocol, ...ports(body), ...payload(body, ((body[12] ?? 0) >> 4) * 4, header.bytes) };
    case 'udp':
      return { protocol, ...ports(body), ...payload(body, 8, header.bytes) };
    case 'icmp':
    case 'icmp6':
      return { protocol, icmpType: body[0] ?? -1 };
    default:
      return { protocol };
  }
}

const ports = (body: Buffer): Pick<Packet, 'sourcePort' | 'destinationPort'> => ({
  sourcePort: body.readUInt16BE(0),
  destinationPort: body.readUInt16BE(2),
});

const payload = (body: Buffer, headerBytes: number, bytes: number): Pick<Packet, 'payload' | 'payloadBytes'> => ({
  payload: body.subarray(headerBytes, Math.max(headerBytes, bytes)),
  payloadBytes: Math.max(0, bytes - headerBytes),
});

/** A question that reached a resolver out there. */
export type DnsQuery = {
  readonly at: string;
  readonly name: string;
  readonly type: string;
  readonly resolver: string;
  readonly protocol: string;
};

const DNS_PORT = 53;

/** The questions among packets. What goes to port 53 and is no DNS shows as type `not DNS`. */
export function dnsQueries(packets: readonly Packet[]): DnsQuery[] {
  return packets
    .filter((packet) => packet.destinationPort === DNS_PORT && packet.payloadBytes > 0)
    .flatMap((packet) =>
      questionsOf(packet).map((question) => ({
        at: packet.at,
        name: question.name.toLowerCase(),
        type: question.type,
        resolver: packet.destination,
        protocol: packet.protocol,
      })),
    );
}

function questionsOf(packet: Packet): readonly { readonly name: string; readonly type: string }[] {
  try {
    const message: DnsPacket | null = packet.protocol === 'tcp' ? streamDecode(packet.payload) : decode(packet.payload);
    if (message?.questions !== undefined && message.questions.length > 0) return message.questions;
  } catch {
    // Anything may be sent to this port; that it arrived is what counts.
  }
  return [{ name: '', type: 'not DNS' }];
}
