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

/** `struct sockaddr_un` of a path, or of a name that is in no directory, which begins with `@` (unix(7), abstract). */
export function unixAddress(path: string): Buffer {
  const name = Buffer.from(path);
  if (name.length >= PATH_BYTES_MAX || name.includes(0)) throw new SystemCallError('connect', ENAMETOOLONG);
  const abstract = path.startsWith('@');
  if (abstract) name[0] = 0;
  // The length is part of an abstract name, so no closing NUL may follow it.
  const address = Buffer.alloc(2 + name.length + (abstract ? 0 : 1));
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}

const ENAMETOOLONG = 36;
