import type { Duplex, Writable } from 'node:stream';

/**
 * Writes and, when the other side is slow, waits for it. False when it is gone, so that the caller stops: a reader who
 * left is no error. The wait has no deadline of its own: it ends when the connection does, which `close` tells.
 */
export function writeSlowly(stream: Writable, bytes: Uint8Array | string): Promise<boolean> {
  if (stream.destroyed || stream.writableEnded) return Promise.resolve(false);
  if (stream.write(bytes)) return Promise.resolve(true);
  return new Promise((resolve) => {
    const settle = (alive: boolean) => {
      stream.off('drain', drained);
      stream.off('close', closed);
      resolve(alive);
    };
    const drained = () => settle(true);
    const closed = () => settle(false);
    stream.once('drain', drained);
    stream.once('close', closed);
  });
}

// Long enough for the last bytes to be read, short enough that a client who never closes costs nothing.
const LINGER_MS = 1_000;

/**
 * Ends a connection from our side: the last bytes go out, what the client still sends is dropped unread, and after a
 * moment the connection is gone even if the client keeps its end open.
 */
export function endConnection(socket: Duplex, bytes?: string | Uint8Array): void {
  if (socket.destroyed) return;
  socket.end(bytes);
  socket.resume();
  const linger = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('end', () => socket.destroy());
  socket.once('close', () => clearTimeout(linger));
}
