import koffi from 'koffi';
import { constants } from 'node:os';

/**
 * The system calls that Node.js does not have, and the only folder that loads native code. koffi has crashed when it
 * was loaded in two threads of one process (koffi issue 190), so each of our processes loads it in one thread only.
 * Every function throws SystemCallError with the errno; none blocks longer than the time-out it is given.
 */
const libc = koffi.load('libc.so.6');

const pollfd = koffi.struct('rf_pollfd', { fd: 'int', events: 'short', revents: 'short' });
const timespec = koffi.struct('rf_timespec', { tv_sec: 'long', tv_nsec: 'long' });
void pollfd;
void timespec;

const native = {
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  bind: libc.func('int bind(int fd, const void *address, unsigned int length)'),
  send: libc.func('long send(int fd, const void *data, size_t length, int flags)'),
  recv: libc.func('long recv(int fd, _Out_ void *data, size_t length, int flags)'),
  setsockopt: libc.func('int setsockopt(int fd, int level, int name, const void *value, unsigned int length)'),
  getsockopt: libc.func('int getsockopt(int fd, int level, int name, _Out_ void *value, _Inout_ unsigned int *length)'),
  poll: libc.func('int poll(_Inout_ rf_pollfd *entries, unsigned long count, int timeout)'),
  epoll_create1: libc.func('int epoll_create1(int flags)'),
  epoll_ctl: libc.func('int epoll_ctl(int set, int operation, int fd, void *event)'),
  epoll_wait: libc.func('int epoll_wait(int set, void *events, int count, int timeout)'),
  eventfd: libc.func('int eventfd(unsigned int initial, int flags)'),
  if_indextoname: libc.func('void *if_indextoname(unsigned int index, _Out_ void *name)'),
  close: libc.func('int close(int fd)'),
  prctl: libc.func('int prctl(int option, unsigned long value)'),
  clock_gettime: libc.func('int clock_gettime(int clock, _Out_ rf_timespec *now)'),
  syscall3: libc.func('long syscall(long number, long first, long second, long third, long fourth)'),
};

export class SystemCallError extends Error {
  readonly errno: number;
  readonly code: string;

  constructor(call: string, errno: number) {
    const code = nameOfErrno(errno);
    super(`${call}: ${code}`);
    this.name = 'SystemCallError';
    this.errno = errno;
    this.code = code;
  }
}

function nameOfErrno(errno: number): string {
  for (const [name, value] of Object.entries(constants.errno)) if (value === errno) return name;
  return `errno ${errno}`;
}

function checked(call: string, result: number): number {
  if (result < 0) throw new SystemCallError(call, koffi.errno());
  return result;
}

const EAGAIN = constants.errno.EAGAIN;
const EINTR = constants.errno.EINTR;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

export const AF_NETLINK = 16;
export const SOCK_RAW = 3;
export const SOCK_CLOEXEC = 0x80000;
export const SOL_SOCKET = 1;
export const SO_RCVBUFFORCE = 33;
export const SOL_NETLINK = 270;

export const POLLIN = 0x1;
export const POLLPRI = 0x2;
export const POLLOUT = 0x4;

export function openSocket(options: { domain: number; type: number; protocol: number }): number {
  return checked('socket', native.socket(options.domain, options.type | SOCK_CLOEXEC, options.protocol));
}

export function bindSocket(fd: number, address: Uint8Array): void {
  checked('bind', native.bind(fd, address, address.length));
}

export function closeDescriptor(fd: number): void {
  checked('close', native.close(fd));
}

export function setSocketOption(fd: number, option: { level: number; name: number; value: number }): void {
  const value = Buffer.alloc(4);
  value.writeInt32LE(option.value);
  checked('setsockopt', native.setsockopt(fd, option.level, option.name, value, value.length));
}

/** Sends the whole message now; false when the socket would block. */
export function sendNow(fd: number, data: Uint8Array): boolean {
  const sent = native.send(fd, data, data.length, MSG_DONTWAIT | MSG_NOSIGNAL) as number;
  if (sent < 0 && koffi.errno() === EAGAIN) return false;
  checked('send', sent);
  return sent === data.length;
}

/** Sends what fits now, for byte streams: the number of bytes taken, 0 when the socket would block. */
export function sendSome(fd: number, data: Uint8Array): number {
  const sent = native.send(fd, data, data.length, MSG_DONTWAIT | MSG_NOSIGNAL) as number;
  if (sent < 0 && koffi.errno() === EAGAIN) return 0;
  return checked('send', sent);
}

/**
 * One message (or what a stream has) into `buffer`: its length, 0 at the end of a stream, null when there is none now.
 * ENOBUFS (a netlink feed that lost messages) is thrown like any other error.
 */
export function receiveNow(fd: number, buffer: Uint8Array): number | null {
  const received = native.recv(fd, buffer, buffer.length, MSG_DONTWAIT) as number;
  if (received < 0 && (koffi.errno() === EAGAIN || koffi.errno() === EINTR)) return null;
  return checked('recv', received);
}

const PR_SET_PDEATHSIG = 1;

/**
 * SIGKILL for this process once the one that started it is gone: one that stands still hears of no closed channel, and
 * would keep its ports from its successor. A later change of user takes it back (prctl(2)). Where it is not to be had,
 * the closed channel alone has to do.
 */
export function endWithParent(): void {
  native.prctl(PR_SET_PDEATHSIG, constants.signals.SIGKILL);
}

export type PollEntry = { readonly fd: number; readonly events: number };

/** Waits until a descriptor is ready or `timeoutMs` has passed; the ready mask of each entry, in their order. */
export function pollDescriptors(entries: readonly PollEntry[], timeoutMs: number): number[] {
  const array = entries.map((entry) => ({ fd: entry.fd, events: entry.events, revents: 0 }));
  const ready = native.poll(array, array.length, Math.max(0, Math.ceil(timeoutMs))) as number;
  if (ready < 0 && koffi.errno() === EINTR) return array.map(() => 0);
  checked('poll', ready);
  return array.map((entry) => entry.revents);
}

const EPOLL_CLOEXEC = 0x80000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
/** The kernel's epoll_event is packed on x86-64 alone. */
const EVENT = process.arch === 'x64' ? { bytes: 12, dataOffset: 4 } : { bytes: 16, dataOffset: 8 };

/** `owner`: what the descriptor was opened for, because its number is used again when that is closed. */
export type PollSetEntry = PollEntry & { readonly owner: object };

/** Descriptors for a loop that waits often on the same hundreds: a wait costs what is ready, not what is watched. */
export type PollSet = {
  /** Replaces all entries. What was closed needs no word. */
  fill(entries: readonly PollSetEntry[]): void;
  /** Places of the ready entries, in their order; none after the time-out or an interruption. */
  wait(timeoutMs: number): readonly number[];
};

export function createPollSet(): PollSet {
  const set = checked('epoll_create1', native.epoll_create1(EPOLL_CLOEXEC));
  const registered = new Map<number, { readonly owner: object; readonly events: number }>();
  const control = Buffer.alloc(EVENT.bytes);
  const places = new Map<number, number>();
  let ready = Buffer.alloc(EVENT.bytes);
  const remove = (fd: number): void => {
    registered.delete(fd);
    if (native.epoll_ctl(set, EPOLL_CTL_DEL, fd, control) === 0) return;
    // The kernel forgets a descriptor that is closed, and its number may mean something else by now.
    if (![constants.errno.ENOENT, constants.errno.EBADF, constants.errno.EPERM].includes(koffi.errno()))
      throw new SystemCallError('epoll_ctl', koffi.errno());
  };
  const add = ({ fd, events, owner }: PollSetEntry): void => {
    control.writeUInt32LE(events, 0);
    control.writeUInt32LE(fd, EVENT.dataOffset);
    checked('epoll_ctl', native.epoll_ctl(set, EPOLL_CTL_ADD, fd, control));
    registered.set(fd, { owner, events });
  };
  return {
    fill: (entries) => {
      places.clear();
      entries.forEach(({ fd }, place) => places.set(fd, place));
      for (const fd of registered.keys()) if (!places.has(fd)) remove(fd);
      for (const entry of entries) {
        const known = registered.get(entry.fd);
        if (known?.owner === entry.owner && known.events === entry.events) continue;
        if (known !== undefined) remove(entry.fd);
        add(entry);
      }
      if (ready.length < entries.length * EVENT.bytes) ready = Buffer.alloc(entries.length * EVENT.bytes * 2);
    },
    wait: (timeoutMs) => {
      const room = ready.length / EVENT.bytes;
      const count = native.epoll_wait(set, ready, room, Math.max(0, Math.ceil(timeoutMs))) as number;
      if (count < 0 && koffi.errno() === EINTR) return [];
      const found: number[] = [];
      for (let index = 0; index < checked('epoll_wait', count); index += 1) {
        const place = places.get(ready.readUInt32LE(index * EVENT.bytes + EVENT.dataOffset));
        if (place !== undefined) found.push(place);
      }
      return found.toSorted((a, b) => a - b);
    },
  };
}

const EFD_CLOEXEC = 0x80000;
const EFD_NONBLOCK = 0x800;

/** A descriptor that the kernel makes readable to tell of an event; reading its 8 bytes resets it. */
export function openEventfd(): number {
  return checked('eventfd', native.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

const IF_NAMESIZE = 16;

/** The name of a network device of this process's namespace, or null when there is none of that index. */
export function deviceName(index: number): string | null {
  const name = Buffer.alloc(IF_NAMESIZE);
  if (native.if_indextoname(index, name) === null) return null;
  return name.toString('latin1', 0, Math.max(0, name.indexOf(0)));
}

const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;

/** A descriptor that means this process and no later one of the same number; readable when it has ended. */
export function openPidfd(pid: number): number {
  return checked('pidfd_open', Number(native.syscall3(SYS_PIDFD_OPEN, pid, 0, 0, 0)));
}

export function signalPidfd(pidfd: number, signal: number): void {
  checked('pidfd_send_signal', Number(native.syscall3(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, 0, 0)));
}

const SYS_KCMP = process.arch === 'arm64' ? 272 : 312;
const KCMP_FILES = 2;

/** Whether a thread has the open files of its process; false also where the kernel does not tell. */
export function sharesFiles(pid: number, threadId: number): boolean {
  return Number(native.syscall3(SYS_KCMP, pid, threadId, KCMP_FILES, 0)) === 0;
}

const CLOCK_BOOTTIME = 7;

/** Milliseconds since boot, sleep included: never set back, the same for every process of the host. */
export function bootTimeMs(): number {
  const now = { tv_sec: 0, tv_nsec: 0 };
  checked('clock_gettime', native.clock_gettime(CLOCK_BOOTTIME, now));
  return now.tv_sec * 1000 + now.tv_nsec / 1e6;
}

const SO_PEERCRED = 17;

/** Who is at the other end of a connected unix socket, as the kernel knows it. */
export function peerCredentials(fd: number): { pid: number; uid: number; gid: number } {
  const value = Buffer.alloc(12);
  const length = [value.length];
  checked('getsockopt', native.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length));
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) };
}

const SOL_IP = 0;
const SO_ORIGINAL_DST = 80;
const SOCKADDR_IN_BYTES = 16;

/** Where a connection was headed before a packet rule redirected it; netfilter keeps that with the connection. */
export function originalDestination(fd: number): { address: string; port: number } {
  const value = Buffer.alloc(SOCKADDR_IN_BYTES);
  const length = [value.length];
  checked('getsockopt', native.getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, value, length));
  return { address: [...value.subarray(4, 8)].join('.'), port: value.readUInt16BE(2) };
}
