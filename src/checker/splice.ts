import type { Socket } from 'node:net';

/** A connection on which nothing at all has passed for so long is gone; keep-alive probes notice most of them sooner. */
const IDLE_MS = 60 * 60 * 1000;
/** After one side has ended, the other may finish what it has to say. */
const HALF_OPEN_IDLE_MS = 5 * 60 * 1000;

/**
 * Joins two sockets both ways with the backpressure of streams and their half-closes, until both have ended. Who owns
 * the sockets destroys both when one is closed by an error.
 */
export function splice(client: Socket, upstream: Socket): void {
  boundIdle(client, upstream);
  client.pipe(upstream);
  upstream.pipe(client);
}

/** Cuts both sides after a long silence. */
export function boundIdle(client: Socket, upstream: Socket): void {
  const cut = (): void => {
    client.destroy();
    upstream.destroy();
  };
  for (const socket of [client, upstream]) {
    socket.setTimeout(IDLE_MS, cut);
    socket.once('end', () => {
      client.setTimeout(HALF_OPEN_IDLE_MS);
      upstream.setTimeout(HALF_OPEN_IDLE_MS);
    });
  }
}
