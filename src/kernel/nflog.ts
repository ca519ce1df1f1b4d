import { setSocketOption, SOL_NETLINK, SystemCallError } from './libc.ts';
import { attribute, errorNumber, netfilterMessage, openNetlink, parseAttributes, parseMessages } from './netlink.ts';
import { NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR } from './netlink.ts';
import type { NetlinkSocket } from './netlink.ts';
import { parsePacket } from './packet.ts';
import type { PacketFacts } from './packet.ts';

/**
 * The feed of denied packets: the receiving end of the NFLOG target. One process of a namespace may hold a group.
 * Nothing here waits: put `fd` into poll(2) and call `read` when it is readable.
 */
export type Nflog = {
  readonly fd: number;
  /** What has arrived, oldest first, at most `PACKETS_PER_READ_MAX`; call again until it is empty. */
  read(): NflogPacket[];
  /** How many logged packets never reached us (the receive buffer was full), by the gaps in the sequence numbers. */
  lost(): number;
  close(): void;
};

export type NflogPacket = {
  /** The `--nflog-prefix` of the rule, such as `rf:deny`. */
  readonly prefix: string;
  readonly sequence: number;
  readonly packet: PacketFacts | null;
  /** Index of the incoming device, or null for packets that the host itself made. */
  readonly inputDevice: number | null;
  /** Index of the outgoing device, where the rule is late enough for the route to be known. */
  readonly outputDevice: number | null;
  /** User of the socket, known only for packets that the host itself made. */
  readonly uid: number | null;
};

const PACKETS_PER_READ_MAX = 256;
const SUBSYSTEM_LOG = 4;
const MESSAGE = { packet: 0, config: 1 } as const;
const CONFIG = { command: 1, mode: 2, timeout: 4, threshold: 5, flags: 6 } as const;
const FIELD = { inputDevice: 4, outputDevice: 5, payload: 9, prefix: 10, uid: 11, sequence: 12 } as const;
const BIND = 1;
const COPY_PACKET = 2;
const FLAG_SEQUENCE = 1;
const AF_UNSPEC = 0;
const NETLINK_NO_ENOBUFS = 5;
/** Headers and ports; the payload of an agent is nobody's business, and short copies make the buffer last. */
const COPY_BYTES = 96;
/** In units of 10 ms: with the threshold of one packet it never matters, but zero would mean the default of a second. */
const TIMEOUT_CENTISECONDS = 1;
const RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024;
const PREFIX_CHARS_MAX = 64;

export function openNflog(options: { readonly group: number }): Nflog {
  const socket = openNetlink({ receiveBufferBytes: RECEIVE_BUFFER_BYTES });
  try {
    configure(socket, options.group);
  } catch (error) {
    socket.close();
    throw error;
  }
  let expected: number | null = null;
  let lostPackets = 0;
  return {
    fd: socket.fd,
    read: () => {
      const packets: NflogPacket[] = [];
      while (packets.length < PACKETS_PER_READ_MAX) {
        const datagram = socket.receive();
        if (datagram === null) break;
        for (const message of parseMessages(datagram)) {
          if (message.type !== ((SUBSYSTEM_LOG << 8) | MESSAGE.packet)) continue;
          const packet = parseLogged(message.body.subarray(4));
          // Sequence numbers of 32 bits start at 0 with the binding and count every packet given to this group.
          lostPackets += (packet.sequence - (expected ?? 0)) >>> 0;
          expected = (packet.sequence + 1) >>> 0;
          packets.push(packet);
        }
      }
      return packets;
    },
    lost: () => lostPackets,
    close: () => socket.close(),
  };
}

function configure(socket: NetlinkSocket, group: number): void {
  // Overruns are counted by sequence number; the error would only interrupt the reading of what did arrive.
  setSocketOption(socket.fd, { level: SOL_NETLINK, name: NETLINK_NO_ENOBUFS, value: 1 });
  let sequence = 0;
  const send = (name: string, family: number, attributes: Buffer[]): void => {
    sequence += 1;
    socket.send(
      netfilterMessage({
        type: (SUBSYSTEM_LOG << 8) | MESSAGE.config,
        flags: NLM_F_REQUEST | NLM_F_ACK,
        sequence,
        family,
        resource: group,
        attributes,
      }),
    );
    const errno = acknowledged(socket, sequence);
    if (errno !== 0) throw new SystemCallError(`nflog ${name} of group ${group}`, errno);
  };
  const mode = Buffer.alloc(6);
  mode.writeUInt32BE(COPY_BYTES, 0);
  mode.writeUInt8(COPY_PACKET, 4);
  send('bind', AF_UNSPEC, [attribute(CONFIG.command, Buffer.of(BIND))]);
  send('mode', AF_UNSPEC, [attribute(CONFIG.mode, mode)]);
  send('flags', AF_UNSPEC, [attribute(CONFIG.flags, Buffer.of(0, FLAG_SEQUENCE))]);
  send('threshold', AF_UNSPEC, [attribute(CONFIG.threshold, Buffer.of(0, 0, 0, 1))]);
  send('time-out', AF_UNSPEC, [attribute(CONFIG.timeout, Buffer.of(0, 0, 0, TIMEOUT_CENTISECONDS))]);
}

/** Packets may arrive between binding and the last acknowledgement; they are few, and counted as lost by their numbers. */
function acknowledged(socket: NetlinkSocket, sequence: number): number {
  for (let attempt = 0; attempt < 4_096; attempt += 1) {
    for (const message of parseMessages(socket.receiveAnswer())) {
      if (message.type === NLMSG_ERROR && message.sequence === sequence) return errorNumber(message);
    }
  }
  throw new Error('nflog: no acknowledgement among 4096 messages');
}

/** One logged packet. What is missing in it is null. */
export function parseLogged(attributes: Buffer): NflogPacket {
  let prefix = '';
  let sequence = 0;
  let packet: PacketFacts | null = null;
  let inputDevice: number | null = null;
  let outputDevice: number | null = null;
  let uid: number | null = null;
  for (const field of parseAttributes(attributes)) {
    if (field.type === FIELD.prefix) {
      prefix = field.payload.toString('latin1').replace(/\0.*$/s, '').slice(0, PREFIX_CHARS_MAX);
    } else if (field.type === FIELD.payload) packet = parsePacket(field.payload);
    else if (field.payload.length < 4) continue;
    else if (field.type === FIELD.sequence) sequence = field.payload.readUInt32BE(0);
    else if (field.type === FIELD.inputDevice) inputDevice = field.payload.readUInt32BE(0);
    else if (field.type === FIELD.outputDevice) outputDevice = field.payload.readUInt32BE(0);
    else if (field.type === FIELD.uid) uid = field.payload.readUInt32BE(0);
  }
  return { prefix, sequence, packet, inputDevice, outputDevice, uid };
}
