import { connect, isIPv4 } from 'node:net';
import type { Socket } from 'node:net';

/** One address that swallows packets must not use up the time of the next. */
const CONNECT_MS = 5_000;
const ADDRESSES_MAX = 16;
const KEEP_ALIVE_MS = 30_000;

/**
 * Connects to the first of the approved addresses that answers; null when none does or `signal` aborts. Never looks
 * up anything: what is not an IPv4 address is passed over.
 */
export async function connectApproved(
  target: { readonly addresses: readonly string[]; readonly port: number },
  signal: AbortSignal,
): Promise<Socket | null> {
  for (const address of target.addresses.slice(0, ADDRESSES_MAX)) {
    if (signal.aborted) return null;
    if (!isIPv4(address)) continue;
    const socket = await connectOnce(address, target.port, signal);
    if (socket !== null) return socket;
  }
  return null;
}

async function connectOnce(address: string, port: number, signal: AbortSignal): Promise<Socket | null> {
  return await new Promise((resolve) => {
    const socket = connect({
      host: address,
      port,
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
    });
    const settle = (result: Socket | null): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', fail);
      socket.removeListener('connect', succeed);
      socket.removeListener('error', fail);
      if (result === null) {
        socket.on('error', () => undefined);
        socket.destroy();
      }
      resolve(result);
    };
    const fail = (): void => settle(null);
    const succeed = (): void => settle(socket);
    const timer = setTimeout(fail, CONNECT_MS);
    signal.addEventListener('abort', fail, { once: true });
    socket.once('connect', succeed);
    socket.once('error', fail);
  });
}
