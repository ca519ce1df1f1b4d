import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import type { Gate } from './gate.ts';

/** The gate's two sockets. Who asks is told by the source address, which the packet rules tie to a bridge. */
export type Listeners = { close(): Promise<void> };

/** A run alone cannot take the connections of the others, even when all of its own are held for a person. */
const TCP_CONNECTIONS_MAX = 4_096;
const TCP_CONNECTIONS_PER_SOURCE_MAX = 8;
const TCP_IDLE_MS = 5_000;
/** A query is a name and an EDNS record; what announces more is no query. */
const TCP_MESSAGE_BYTES_MAX = 2_048;
const UDP_RECEIVE_BUFFER_BYTES = 1024 * 1024;

/** Listens on all addresses: bridges come and go, and the filter drops what does not come from one of ours. */
export async function listen(gate: Gate, port: number): Promise<Listeners> {
  const datagrams = createSocket({ type: 'udp4', recvBufferSize: UDP_RECEIVE_BUFFER_BYTES });
  datagrams.on('message', (message, peer) => {
    // Nobody waits for a datagram; a failure inside is an answer that never comes.
    void gate.handle(peer.address, message, 'udp').then((answer) => {
      if (answer !== null) datagrams.send(answer, peer.port, peer.address, () => undefined);
    });
  });
  const open = new Map<string, number>();
  const server = createServer((socket) => {
    const source = socket.remoteAddress ?? '';
    const count = open.get(source) ?? 0;
    if (!gate.knows(source) || count >= TCP_CONNECTIONS_PER_SOURCE_MAX) {
      socket.destroy();
      return;
    }
    open.set(source, count + 1);
    socket.on('close', () => {
      const left = (open.get(source) ?? 1) - 1;
      if (left === 0) open.delete(source);
      else open.set(source, left);
    });
    serveStream(gate, socket, source);
  });
  server.maxConnections = TCP_CONNECTIONS_MAX;
  await new Promise<void>((resolve, reject) => {
    datagrams.once('error', reject);
    datagrams.bind({ port, address: '0.0.0.0', exclusive: true }, () => resolve());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host: '0.0.0.0' }, () => resolve());
  });
  // Errors of single sends and accepts concern one client; the sockets go on.
  datagrams.removeAllListeners('error').on('error', () => undefined);
  server.removeAllListeners('error').on('error', () => undefined);
  return {
    close: async () => {
      await new Promise<void>((resolve) => datagrams.close(() => resolve()));
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

/** Messages of a connection one after the other, each behind its length (RFC 1035, 4.2.2). */
function serveStream(gate: Gate, socket: Socket, source: string): void {
  let received = Buffer.alloc(0);
  let busy = false;
  socket.setTimeout(TCP_IDLE_MS, () => {
    // A question that is held for a person is no idle client; writing its answer starts the time anew.
    if (!busy) socket.destroy();
  });
  socket.on('error', () => socket.destroy());
  const next = async (): Promise<void> => {
    while (received.length >= 2) {
      const length = received.readUInt16BE(0);
      // Bytes that are no DNS (an SSH hello announces 21,331 bytes): the gate counts them, the connection ends.
      const tooLong = length > TCP_MESSAGE_BYTES_MAX;
      if (!tooLong && received.length < 2 + length) return;
      const message = tooLong ? Buffer.alloc(0) : received.subarray(2, 2 + length);
      const answer = await gate.handle(source, message, 'tcp');
      if (answer === null || socket.destroyed) {
        socket.destroy();
        return;
      }
      received = received.subarray(2 + length);
      const prefix = Buffer.alloc(2);
      prefix.writeUInt16BE(answer.length);
      // A client that does not read its answers is not worth a buffer.
      if (!socket.write(Buffer.concat([prefix, answer]))) socket.destroy();
    }
  };
  socket.on('data', (chunk: Buffer) => {
    received = Buffer.concat([received, chunk]);
    if (received.length > 2 * TCP_MESSAGE_BYTES_MAX + 4 && busy) {
      socket.destroy();
      return;
    }
    if (busy) return;
    busy = true;
    void next().finally(() => {
      busy = false;
    });
  });
}
