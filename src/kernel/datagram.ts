import koffi from 'koffi';
import { closeDescriptor, openSocket, sendNow, SystemCallError } from './libc.ts';

const libc = koffi.load('libc.so.6');
const connect = libc.func('int connect(int fd, const void *address, unsigned int length)');

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
/** `sun_path` with its closing NUL. */
const PATH_BYTES_MAX = 108;

/** One message to a unix datagram socket, which Node.js cannot do. False when the receiver's queue is full now. */
export function sendDatagram(path: string, data: Uint8Array): boolean {
  const fd = openSocket({ domain: AF_UNIX, type: SOCK_DGRAM, protocol: 0 });
  try {
    const address = unixAddress(path);
    if ((connect(fd, address, address.length) as number) < 0) throw new SystemCallError('connect', koffi.errno());
    return sendNow(fd, data);
  } finally {
    closeDescriptor(fd);
  }
}

/** `struct sockaddr_un` of a path. */
export function unixAddress(path: string): Buffer {
  const name = Buffer.from(path);
  if (name.length >= PATH_BYTES_MAX || name.includes(0)) throw new SystemCallError('connect', ENAMETOOLONG);
  const address = Buffer.alloc(2 + name.length + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}

const ENAMETOOLONG = 36;
