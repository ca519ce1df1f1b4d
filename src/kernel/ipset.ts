import { assertNever } from '../core/assert.ts';
import { byteAttribute, errorNumber, nested, netfilterMessage, networkAttribute, textAttribute } from './netlink.ts';
import { attribute, openNetlink, parseAttributes, parseMessages } from './netlink.ts';
import { NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR } from './netlink.ts';
import type { NetlinkSocket } from './netlink.ts';

/**
 * Entries of IP sets, added, removed and read through nfnetlink. Every call is synchronous: when it returns, the kernel
 * has acknowledged, so a DNS answer may leave and a kill may go on. Sets themselves are made by `ipset restore`.
 */
export type IpsetEntry =
  | { readonly kind: 'ip'; readonly address: string }
  | { readonly kind: 'net,iface'; readonly network: string; readonly prefixLength: number; readonly device: string }
  | {
      readonly kind: 'ip,port,ip';
      readonly source: string;
      readonly port: number;
      readonly protocol: IpsetProtocol;
      readonly destination: string;
    }
  | {
      readonly kind: 'ip,port,net';
      readonly source: string;
      readonly port: number;
      readonly protocol: IpsetProtocol;
      readonly network: string;
      readonly prefixLength: number;
    };

export type IpsetProtocol = 'tcp' | 'udp';

/** For `add`: what the entry starts with. Only sets created with the extension take it. */
export type IpsetExtras = {
  readonly timeoutSeconds?: number;
  readonly bytes?: bigint;
  readonly packets?: bigint;
};

export type IpsetMember = {
  readonly entry: IpsetEntry;
  readonly timeoutSeconds: number | null;
  readonly bytes: bigint | null;
  readonly packets: bigint | null;
};

export type IpsetCounters = { readonly bytes: bigint; readonly packets: bigint };

export type Ipset = {
  /** Adds, or renews what is there already: time-out and counters start anew. */
  add(set: string, entry: IpsetEntry, extras?: IpsetExtras): void;
  /** Removing what is not there is a success. */
  remove(set: string, entry: IpsetEntry): void;
  test(set: string, entry: IpsetEntry): boolean;
  list(set: string): IpsetMember[];
  /** Counters of a set of addresses (`hash:ip`), by address. */
  counters(set: string): Map<string, IpsetCounters>;
  close(): void;
};

/** What the kernel answered; `code` is the name of the errno, or of ip_set's own numbers from 4096. */
export class IpsetError extends Error {
  readonly errno: number;
  readonly code: string;

  constructor(action: string, set: string, errno: number) {
    const code = ERROR_NAMES[errno] ?? `errno ${errno}`;
    super(`ipset ${action} ${set}: ${code}`);
    this.name = 'IpsetError';
    this.errno = errno;
    this.code = code;
  }
}

const SUBSYSTEM_IPSET = 6;
const PROTOCOL_VERSION = 6;
const AF_INET = 2;
const COMMAND = { list: 7, add: 9, del: 10, test: 11 } as const;
const ATTRIBUTE = { protocol: 1, setName: 2, data: 7, entries: 8 } as const;
const DATA = {
  ip: 1,
  cidr: 3,
  port: 4,
  timeout: 6,
  protocol: 7,
  lineNumber: 9,
  ip2: 20,
  cidr2: 21,
  device: 23,
  bytes: 24,
  packets: 25,
} as const;
const IPADDR_IPV4 = 1;
const IPSET_ERR_EXIST = 4103;
const ERROR_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  2: 'ENOENT',
  12: 'ENOMEM',
  17: 'EEXIST',
  22: 'EINVAL',
  4097: 'IPSET_ERR_PROTOCOL',
  4102: 'IPSET_ERR_TYPE_MISMATCH',
  [IPSET_ERR_EXIST]: 'IPSET_ERR_EXIST',
  4104: 'IPSET_ERR_INVALID_CIDR',
  4106: 'IPSET_ERR_INVALID_FAMILY',
  4107: 'IPSET_ERR_TIMEOUT',
  4109: 'IPSET_ERR_IPADDR_IPV4',
  4111: 'IPSET_ERR_COUNTER',
  4352: 'IPSET_ERR_HASH_FULL',
  4353: 'IPSET_ERR_HASH_ELEM',
};
const PROTOCOL_NUMBERS: Readonly<Record<IpsetProtocol, number>> = { tcp: 6, udp: 17 };
/** A set holds at most 65,536 entries by default; ten times that many datagrams is a kernel that never ends its dump. */
const DUMP_DATAGRAMS_MAX = 655_360;

export function openIpset(): Ipset {
  const socket = openNetlink({ receiveBufferBytes: null });
  let sequence = 0;
  const change = (action: 'add' | 'del' | 'test', set: string, data: Buffer[], flags: number): number => {
    sequence += 1;
    const type = (SUBSYSTEM_IPSET << 8) | COMMAND[action];
    socket.send(
      netfilterMessage({
        type,
        flags: NLM_F_REQUEST | NLM_F_ACK | flags,
        sequence,
        family: AF_INET,
        resource: 0,
        attributes: [
          byteAttribute(ATTRIBUTE.protocol, PROTOCOL_VERSION),
          textAttribute(ATTRIBUTE.setName, set),
          nested(ATTRIBUTE.data, data),
        ],
      }),
    );
    return acknowledged(socket, sequence);
  };
  const list = (set: string): IpsetMember[] => {
    sequence += 1;
    return dump(socket, { set, sequence });
  };
  return {
    add: (set, entry, extras = {}) => {
      const errno = change('add', set, [...entryAttributes(entry), ...extraAttributes(extras)], 0);
      if (errno !== 0) throw new IpsetError('add', set, errno);
    },
    remove: (set, entry) => {
      const errno = change('del', set, entryAttributes(entry), 0);
      if (errno !== 0 && errno !== IPSET_ERR_EXIST) throw new IpsetError('del', set, errno);
    },
    test: (set, entry) => {
      const errno = change('test', set, entryAttributes(entry), NLM_F_EXCL);
      if (errno !== 0 && errno !== IPSET_ERR_EXIST) throw new IpsetError('test', set, errno);
      return errno === 0;
    },
    list,
    counters: (set) => {
      const counters = new Map<string, IpsetCounters>();
      for (const member of list(set)) {
        if (member.entry.kind !== 'ip' || member.bytes === null || member.packets === null) continue;
        counters.set(member.entry.address, { bytes: member.bytes, packets: member.packets });
      }
      return counters;
    },
    close: () => socket.close(),
  };
}

/** Reads until the acknowledgement of this request; answers to earlier ones that timed out are passed over. */
function acknowledged(socket: NetlinkSocket, sequence: number): number {
  for (let attempt = 0; attempt < 64; attempt += 1) {
    for (const message of parseMessages(socket.receiveAnswer())) {
      if (message.sequence === sequence && message.type === NLMSG_ERROR) return errorNumber(message);
    }
  }
  throw new Error('ipset: 64 foreign answers and none to this request');
}

function dump(socket: NetlinkSocket, request: { readonly set: string; readonly sequence: number }): IpsetMember[] {
  socket.send(
    netfilterMessage({
      type: (SUBSYSTEM_IPSET << 8) | COMMAND.list,
      flags: NLM_F_REQUEST | NLM_F_DUMP,
      sequence: request.sequence,
      family: AF_INET,
      resource: 0,
      attributes: [byteAttribute(ATTRIBUTE.protocol, PROTOCOL_VERSION), textAttribute(ATTRIBUTE.setName, request.set)],
    }),
  );
  const members: IpsetMember[] = [];
  for (let datagram = 0; datagram < DUMP_DATAGRAMS_MAX; datagram += 1) {
    for (const message of parseMessages(socket.receiveAnswer())) {
      if (message.sequence !== request.sequence) continue;
      if (message.type === NLMSG_DONE) return members;
      if (message.type === NLMSG_ERROR) throw new IpsetError('list', request.set, errorNumber(message));
      for (const member of parseListing(message.body)) members.push(member);
    }
  }
  throw new Error(`ipset list ${request.set}: the dump does not end`);
}

/** The members in one message of a dump. What is too short to be what it says is left out. */
export function parseListing(body: Buffer): IpsetMember[] {
  const members: IpsetMember[] = [];
  // The first four bytes are the netfilter header.
  for (const top of parseAttributes(body.subarray(4))) {
    if (top.type !== ATTRIBUTE.entries) continue;
    for (const data of parseAttributes(top.payload)) {
      const member = data.type === ATTRIBUTE.data ? parseMember(data.payload) : null;
      if (member !== null) members.push(member);
    }
  }
  return members;
}

const NUMBER_BYTES: Readonly<Record<number, number>> = {
  [DATA.port]: 2,
  [DATA.timeout]: 4,
  [DATA.bytes]: 8,
  [DATA.packets]: 8,
};

function parseMember(payload: Buffer): IpsetMember | null {
  const fields = new Map<number, Buffer>();
  for (const field of parseAttributes(payload)) {
    if (field.payload.length >= (NUMBER_BYTES[field.type] ?? 0)) fields.set(field.type, field.payload);
  }
  const entry = parseEntry(fields);
  if (entry === null) return null;
  return {
    entry,
    timeoutSeconds: fields.get(DATA.timeout)?.readUInt32BE(0) ?? null,
    bytes: fields.get(DATA.bytes)?.readBigUInt64BE(0) ?? null,
    packets: fields.get(DATA.packets)?.readBigUInt64BE(0) ?? null,
  };
}

function parseEntry(fields: ReadonlyMap<number, Buffer>): IpsetEntry | null {
  const address = parseAddress(fields.get(DATA.ip));
  if (address === null) return null;
  const device = fields.get(DATA.device);
  const port = fields.get(DATA.port)?.readUInt16BE(0);
  const destination = parseAddress(fields.get(DATA.ip2));
  if (device !== undefined) {
    const name = device.toString('utf8').replace(/\0.*$/s, '');
    return { kind: 'net,iface', network: address, prefixLength: fields.get(DATA.cidr)?.[0] ?? 32, device: name };
  }
  if (port === undefined || destination === null) return { kind: 'ip', address };
  const number = fields.get(DATA.protocol)?.[0];
  const protocol = number === PROTOCOL_NUMBERS.tcp ? 'tcp' : number === PROTOCOL_NUMBERS.udp ? 'udp' : null;
  if (protocol === null) return null;
  const prefixLength = fields.get(DATA.cidr2)?.[0];
  if (prefixLength === undefined) return { kind: 'ip,port,ip', source: address, port, protocol, destination };
  return { kind: 'ip,port,net', source: address, port, protocol, network: destination, prefixLength };
}

function parseAddress(payload: Buffer | undefined): string | null {
  const inner = payload === undefined ? undefined : parseAttributes(payload)[0];
  if (inner === undefined || inner.type !== IPADDR_IPV4 || inner.payload.length < 4) return null;
  return inner.payload.subarray(0, 4).join('.');
}

function entryAttributes(entry: IpsetEntry): Buffer[] {
  switch (entry.kind) {
    case 'ip':
      return [addressAttribute(DATA.ip, entry.address), lineAttribute()];
    case 'net,iface':
      return [
        addressAttribute(DATA.ip, entry.network),
        byteAttribute(DATA.cidr, entry.prefixLength),
        textAttribute(DATA.device, entry.device),
        lineAttribute(),
      ];
    case 'ip,port,ip':
      return [...sourceAndPort(entry), addressAttribute(DATA.ip2, entry.destination), lineAttribute()];
    case 'ip,port,net':
      return [
        ...sourceAndPort(entry),
        addressAttribute(DATA.ip2, entry.network),
        byteAttribute(DATA.cidr2, entry.prefixLength),
        lineAttribute(),
      ];
    default:
      return assertNever(entry);
  }
}

function sourceAndPort(entry: { source: string; port: number; protocol: IpsetProtocol }): Buffer[] {
  return [
    addressAttribute(DATA.ip, entry.source),
    networkAttribute(DATA.port, { bits: 16, value: BigInt(entry.port) }),
    byteAttribute(DATA.protocol, PROTOCOL_NUMBERS[entry.protocol]),
  ];
}

/** The kernel writes the line of a failing entry here; several set types refuse a request that leaves no room for it. */
function lineAttribute(): Buffer {
  return attribute(DATA.lineNumber, Buffer.alloc(4));
}

function extraAttributes(extras: IpsetExtras): Buffer[] {
  const attributes: Buffer[] = [];
  if (extras.timeoutSeconds !== undefined) {
    attributes.push(networkAttribute(DATA.timeout, { bits: 32, value: BigInt(extras.timeoutSeconds) }));
  }
  if (extras.bytes !== undefined) attributes.push(networkAttribute(DATA.bytes, { bits: 64, value: extras.bytes }));
  if (extras.packets !== undefined)
    attributes.push(networkAttribute(DATA.packets, { bits: 64, value: extras.packets }));
  return attributes;
}

function addressAttribute(type: number, address: string): Buffer {
  const parts = address.split('.').map(Number);
  if (parts.length !== 4 || parts.some((part) => !Number.isInteger(part) || part < 0 || part > 255)) {
    throw new Error(`ipset: not an IPv4 address: ${JSON.stringify(address).slice(0, 64)}`);
  }
  return nested(type, [networkAttribute(IPADDR_IPV4, { bits: 32, value: BigInt(Buffer.from(parts).readUInt32BE(0)) })]);
}
