import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import { TokenBucket } from '../core/token-bucket.ts';
import type { Caller } from './service.ts';

/** The part of a logger that the server needs; pino's fits. */
export type ApiLog = {
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
};

export type ApiLimits = {
  readonly connectionsMax: number;
  /** Of one user other than root, so that root always finds one free. */
  readonly connectionsPerUserMax: number;
  /** New ones of one user other than root: who connects again and again must not keep the daemon from everybody else. */
  readonly connectionRate: { readonly perSecond: number; readonly burst: number };
  readonly headerBytesMax: number;
  readonly headersMax: number;
  readonly headersTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly idleTimeoutMs: number;
};

export const LIMITS: ApiLimits = {
  connectionsMax: 512,
  connectionsPerUserMax: 384,
  connectionRate: { perSecond: 20, burst: 400 },
  headerBytesMax: 16 * 1024,
  headersMax: 64,
  headersTimeoutMs: 5_000,
  requestTimeoutMs: 15_000,
  idleTimeoutMs: 5_000,
};

/** Knows who connects before the first byte is read, and keeps one user from taking every connection. */
export function connectionGuard(options: {
  readonly limits: ApiLimits;
  readonly callers: WeakMap<Duplex, Caller>;
  readonly sockets: Set<Socket>;
  readonly peerOf: (fd: number) => Caller;
  readonly log: ApiLog;
}): (socket: Socket) => void {
  const { limits, callers, sockets, peerOf, log } = options;
  const connectionsByUser = new Map<number, number>();
  const rates = new Map<number, TokenBucket>();
  /** Users are few: the socket's group is the host's own. */
  const mayConnect = (uid: number): boolean => {
    const rate = rates.get(uid) ?? new TokenBucket(limits.connectionRate, performance.now());
    rates.set(uid, rate);
    return rate.take(performance.now());
  };
  let refused = 0;
  return (socket) => {
    let caller: Caller;
    try {
      caller = peerOf(descriptorOf(socket));
    } catch (error) {
      log.warn({ err: error }, 'client without credentials refused');
      socket.destroy();
      return;
    }
    const open = connectionsByUser.get(caller.uid) ?? 0;
    if (caller.uid !== 0 && (open >= limits.connectionsPerUserMax || !mayConnect(caller.uid))) {
      refused += 1;
      // The 1st, 2nd, 4th, 8th … time: a flood of connections must not become a flood of log lines.
      if ((refused & (refused - 1)) === 0) log.warn({ uid: caller.uid, refused }, 'too many connections of one user');
      socket.destroy();
      return;
    }
    connectionsByUser.set(caller.uid, open + 1);
    callers.set(socket, caller);
    sockets.add(socket);
    socket.once('close', () => {
      sockets.delete(socket);
      const left = (connectionsByUser.get(caller.uid) ?? 1) - 1;
      if (left > 0) connectionsByUser.set(caller.uid, left);
      else connectionsByUser.delete(caller.uid);
    });
    // A client that vanishes is reported by `close`; without a listener the error would end the daemon.
    socket.on('error', () => undefined);
  };
}

/** Node.js has no public way to the descriptor of a connected socket, and the credentials hang on it. */
function descriptorOf(socket: Socket): number {
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) throw new Error('the socket has no descriptor');
  return fd;
}
