import { SystemCallError } from './libc.ts';
import { NETLINK_ROUTE, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ERROR } from './netlink.ts';
import { openNetlink, parseAttributes, parseMessages } from './netlink.ts';
import type { NetlinkMessage, NetlinkSocket } from './netlink.ts';

/**
 * The kernel's own news of network devices (rtnetlink(7)), for whoever must know at once that a container was given
 * another one. Nothing here waits: put `fd` into poll(2) and call `read` when it is readable.
 */
export type Links = {
  readonly fd: number;
  /** What has changed, oldest first. After messages were lost it begins with `reset`, and every link that there is. */
  read(): LinkNews[];
  /** Removes a device and its peer. False when it is gone already. Throws for everything else. */
  remove(index: number): boolean;
  close(): void;
};

export type LinkNews =
  | { readonly kind: 'reset' }
  | ({ readonly kind: 'link' } & LinkFacts)
  /** `movedTo`: it was not removed but put into another network namespace, which goes by this number here. */
  | { readonly kind: 'gone'; readonly index: number; readonly linkKind: string; readonly movedTo: number | null };

export type LinkFacts = {
  readonly index: number;
  /** `veth`, `bridge`, `macvlan`; empty for hardware. */
  readonly linkKind: string;
  /** The bridge that it is a port of, by its index. */
  readonly master: number | null;
  /** The namespace, by the number it has here, in which its peer lies; null when that is this one. */
  readonly peerNamespace: number | null;
};

const RTM = { newLink: 16, deleteLink: 17, getLink: 18 } as const;
const GROUP_LINK = 1;
const AF_UNSPEC = 0;
const FIELD = { master: 10, info: 18, peerNamespace: 37, newNamespace: 45 } as const;
const INFO_KIND = 1;
const HEADER_BYTES = 16;
const IFINFO_BYTES = 16;
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;
const ENOBUFS = 105;
const ENODEV = 19;
const ANSWERS_MAX = 4_096;

export function openLinks(): Links {
  const news = openNetlink({ protocol: NETLINK_ROUTE, groups: GROUP_LINK, receiveBufferBytes: RECEIVE_BUFFER_BYTES });
  let orders: NetlinkSocket;
  try {
    orders = openNetlink({ protocol: NETLINK_ROUTE, receiveBufferBytes: null });
    news.send(linkMessage(RTM.getLink, { flags: NLM_F_REQUEST | NLM_F_DUMP, sequence: 1, index: 0 }));
  } catch (error) {
    news.close();
    throw error;
  }
  let sequence = 1;
  return {
    fd: news.fd,
    read: () => {
      const found: LinkNews[] = [];
      for (;;) {
        try {
          const datagram = news.receive();
          if (datagram === null) return found;
          for (const message of parseMessages(datagram)) found.push(...newsOf(message));
        } catch (error) {
          if (!(error instanceof SystemCallError && error.errno === ENOBUFS)) throw error;
          found.push({ kind: 'reset' });
          news.send(linkMessage(RTM.getLink, { flags: NLM_F_REQUEST | NLM_F_DUMP, sequence: 1, index: 0 }));
        }
      }
    },
    remove: (index) => {
      sequence += 1;
      orders.send(linkMessage(RTM.deleteLink, { flags: NLM_F_REQUEST | NLM_F_ACK, sequence, index }));
      const errno = acknowledged(orders, sequence);
      if (errno === ENODEV) return false;
      if (errno !== 0) throw new SystemCallError(`removal of device ${index}`, errno);
      return true;
    },
    close: () => {
      news.close();
      orders.close();
    },
  };
}

function linkMessage(
  type: number,
  options: { readonly flags: number; readonly sequence: number; readonly index: number },
): Buffer {
  const buffer = Buffer.alloc(HEADER_BYTES + IFINFO_BYTES);
  buffer.writeUInt32LE(buffer.length, 0);
  buffer.writeUInt16LE(type, 4);
  buffer.writeUInt16LE(options.flags, 6);
  buffer.writeUInt32LE(options.sequence >>> 0, 8);
  buffer.writeInt32LE(options.index, HEADER_BYTES + 4);
  return buffer;
}

function acknowledged(socket: NetlinkSocket, sequence: number): number {
  for (let count = 0; count < ANSWERS_MAX; count += 1) {
    for (const message of parseMessages(socket.receiveAnswer())) {
      if (message.type === NLMSG_ERROR && message.sequence === sequence) return -message.body.readInt32LE(0);
    }
  }
  throw new Error('links: no acknowledgement');
}

/** Bridges tell of their ports in a family of their own, with half the facts; those are left out. */
export function newsOf({ type, body }: Pick<NetlinkMessage, 'type' | 'body'>): readonly LinkNews[] {
  if (type !== RTM.newLink && type !== RTM.deleteLink) return [];
  if (body.length < IFINFO_BYTES || body.readUInt8(0) !== AF_UNSPEC) return [];
  const index = body.readInt32LE(4);
  const fields = new Map(parseAttributes(body.subarray(IFINFO_BYTES)).map((field) => [field.type, field.payload]));
  const number = (field: number): number | null => {
    const payload = fields.get(field);
    return payload === undefined || payload.length < 4 ? null : payload.readInt32LE(0);
  };
  const linkKind = kindOf(fields.get(FIELD.info));
  if (type === RTM.deleteLink) return [{ kind: 'gone', index, linkKind, movedTo: number(FIELD.newNamespace) }];
  return [{ kind: 'link', index, linkKind, master: number(FIELD.master), peerNamespace: number(FIELD.peerNamespace) }];
}

function kindOf(info: Buffer | undefined): string {
  if (info === undefined) return '';
  const kind = parseAttributes(info).find(({ type }) => type === INFO_KIND);
  return kind === undefined ? '' : kind.payload.toString('latin1').replace(/\0.*$/s, '');
}
