import { AF_NETLINK, SOCK_RAW, SOL_SOCKET, SO_RCVBUFFORCE, SystemCallError } from './libc.ts';
import { bindSocket, closeDescriptor, openSocket, pollDescriptors, receiveNow, sendNow } from './libc.ts';
import { POLLIN, setSocketOption } from './libc.ts';

/**
 * Netlink messages as bytes: a 16-byte header, for the netfilter family a 4-byte one after it, then attributes of
 * (length, type, payload) each padded to four bytes. Headers are in the byte order of the host (little-endian on every
 * platform that Node.js runs on here), values inside netfilter attributes in network order.
 */
export const NETLINK_ROUTE = 0;
const NETLINK_NETFILTER = 12;
export const NLM_F_REQUEST = 0x1;
export const NLM_F_ACK = 0x4;
export const NLM_F_EXCL = 0x200;
export const NLM_F_DUMP = 0x300;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

const NLA_F_NESTED = 0x8000;
const NLA_F_NET_BYTEORDER = 0x4000;
const NLA_TYPE_MASK = 0x3fff;
const HEADER_BYTES = 16;
const ATTRIBUTE_HEADER_BYTES = 4;
/** Two netlink sockets of one process may not have the same port id; 0 lets the kernel choose one. */
const SOCKADDR_NL_BYTES = 12;
/** The kernel sends dumps in parts of at most 32 KiB, and a packet copy is cut by its copy range. */
const NETLINK_MESSAGE_BYTES_MAX = 65_536;
/** The kernel answers inside `send`; a second without an answer means that it never will. */
const ANSWER_DEADLINE_MS = 1_000;

export type NetlinkMessage = {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  /** What follows the header; a view into the receive buffer, valid until the next receive. */
  readonly body: Buffer;
};

export function attribute(type: number, payload: Uint8Array): Buffer {
  const length = ATTRIBUTE_HEADER_BYTES + payload.length;
  const buffer = Buffer.alloc(align(length));
  buffer.writeUInt16LE(length, 0);
  buffer.writeUInt16LE(type, 2);
  buffer.set(payload, ATTRIBUTE_HEADER_BYTES);
  return buffer;
}

export function nested(type: number, children: readonly Uint8Array[]): Buffer {
  return attribute(type | NLA_F_NESTED, Buffer.concat(children));
}

export function textAttribute(type: number, text: string): Buffer {
  return attribute(type, Buffer.from(`${text}\0`, 'utf8'));
}

export function byteAttribute(type: number, value: number): Buffer {
  return attribute(type, Buffer.of(value));
}

/** Numbers in network order, marked so where the kernel asks for the mark (ip_set refuses them without it). */
export function networkAttribute(type: number, value: { readonly bits: 16 | 32 | 64; readonly value: bigint }): Buffer {
  const payload = Buffer.alloc(value.bits / 8);
  if (value.bits === 16) payload.writeUInt16BE(Number(value.value));
  else if (value.bits === 32) payload.writeUInt32BE(Number(value.value));
  else payload.writeBigUInt64BE(value.value);
  return attribute(type | NLA_F_NET_BYTEORDER, payload);
}

/** A message of the netfilter family: `family` is AF_INET or 0, `resource` the group where there is one. */
export function netfilterMessage(options: {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly family: number;
  readonly resource: number;
  readonly attributes: readonly Uint8Array[];
}): Buffer {
  const body = Buffer.concat(options.attributes);
  const buffer = Buffer.alloc(HEADER_BYTES + 4 + body.length);
  buffer.writeUInt32LE(buffer.length, 0);
  buffer.writeUInt16LE(options.type, 4);
  buffer.writeUInt16LE(options.flags, 6);
  buffer.writeUInt32LE(options.sequence >>> 0, 8);
  buffer.writeUInt8(options.family, HEADER_BYTES);
  buffer.writeUInt16BE(options.resource, HEADER_BYTES + 2);
  buffer.set(body, HEADER_BYTES + 4);
  return buffer;
}

/** Every whole message in `bytes`; a torn one ends the list, since the kernel never sends one. */
export function parseMessages(bytes: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  let offset = 0;
  while (offset + HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(offset);
    if (length < HEADER_BYTES || offset + length > bytes.length) break;
    messages.push({
      type: bytes.readUInt16LE(offset + 4),
      flags: bytes.readUInt16LE(offset + 6),
      sequence: bytes.readUInt32LE(offset + 8),
      body: bytes.subarray(offset + HEADER_BYTES, offset + length),
    });
    offset += align(length);
  }
  return messages;
}

/** Attributes in order of appearance, their types without the flag bits. */
export function parseAttributes(bytes: Buffer): { readonly type: number; readonly payload: Buffer }[] {
  const attributes: { type: number; payload: Buffer }[] = [];
  let offset = 0;
  while (offset + ATTRIBUTE_HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt16LE(offset);
    if (length < ATTRIBUTE_HEADER_BYTES || offset + length > bytes.length) break;
    attributes.push({
      type: bytes.readUInt16LE(offset + 2) & NLA_TYPE_MASK,
      payload: bytes.subarray(offset + ATTRIBUTE_HEADER_BYTES, offset + length),
    });
    offset += align(length);
  }
  return attributes;
}

/** The (positive) error number of an acknowledgement: 0 is success. */
export function errorNumber(message: NetlinkMessage): number {
  return message.body.length >= 4 ? -message.body.readInt32LE(0) : 0;
}

/** A netlink socket in the network namespace of this process, with its own receive buffer. */
export type NetlinkSocket = {
  readonly fd: number;
  send(message: Uint8Array): void;
  /** The next datagram, or null when there is none now. The buffer is reused by the next call. */
  receive(): Buffer | null;
  /** The next datagram within the deadline for answers. */
  receiveAnswer(): Buffer;
  close(): void;
};

export function openNetlink(options: {
  readonly receiveBufferBytes: number | null;
  /** Left out: netfilter's. */
  readonly protocol?: number;
  /** The multicast groups to hear, as a mask. */
  readonly groups?: number;
}): NetlinkSocket {
  const fd = openSocket({ domain: AF_NETLINK, type: SOCK_RAW, protocol: options.protocol ?? NETLINK_NETFILTER });
  const buffer = Buffer.alloc(NETLINK_MESSAGE_BYTES_MAX);
  let open = true;
  const receive = (): Buffer | null => {
    const length = receiveNow(fd, buffer);
    return length === null ? null : buffer.subarray(0, length);
  };
  const close = (): void => {
    if (open) closeDescriptor(fd);
    open = false;
  };
  try {
    const address = Buffer.alloc(SOCKADDR_NL_BYTES);
    address.writeUInt16LE(AF_NETLINK, 0);
    address.writeUInt32LE(options.groups ?? 0, 8);
    bindSocket(fd, address);
    if (options.receiveBufferBytes !== null) {
      setSocketOption(fd, { level: SOL_SOCKET, name: SO_RCVBUFFORCE, value: options.receiveBufferBytes });
    }
  } catch (error) {
    close();
    throw error;
  }
  return {
    fd,
    send: (message) => {
      if (!sendNow(fd, message)) throw new SystemCallError('send to netlink', EAGAIN);
    },
    receive,
    receiveAnswer: () => {
      const first = receive();
      if (first !== null) return first;
      pollDescriptors([{ fd, events: POLLIN }], ANSWER_DEADLINE_MS);
      const late = receive();
      if (late === null) throw new SystemCallError('answer of netlink', ETIMEDOUT);
      return late;
    },
    close,
  };
}

const EAGAIN = 11;
const ETIMEDOUT = 110;

function align(length: number): number {
  return (length + 3) & ~3;
}
