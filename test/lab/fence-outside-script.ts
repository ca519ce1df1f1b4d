import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

/**
 * The internet of a test: accepts on every given TCP port, sends back what comes, and writes a line for each
 * connection and for the bytes it got. A client that sends `GET n` gets n bytes; one that begins with `PUT n` gets `done`
 * after n bytes.
 */
const ports = (JSON.parse(process.argv[2] ?? '[]') as number[]).filter((port) => port !== 53);
const tell = (line: unknown): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

await Promise.all(
  ports.map(
    (port) =>
      new Promise<void>((resolve) => {
        createServer((socket) => {
          let bytes = 0;
          let awaited: number | null = null;
          const where = { address: socket.localAddress, port };
          tell({ event: 'open', ...where });
          socket.on('data', (chunk: Buffer) => {
            bytes += chunk.length;
            const text = chunk.subarray(0, 32).toString('latin1');
            if (bytes === chunk.length && text.startsWith('PUT ')) awaited = Number(/^PUT ([0-9]+)/.exec(text)?.[1]);
            if (awaited !== null) {
              if (bytes >= awaited) socket.write('done');
              return;
            }
            const wanted = /^GET ([0-9]+)/.exec(text);
            socket.write(wanted === null ? chunk : Buffer.alloc(Number(wanted[1])));
          });
          socket.on('error', () => socket.destroy());
          socket.on('close', () => tell({ event: 'close', ...where, bytes }));
        }).listen(port, '0.0.0.0', () => resolve());
      }),
  ),
);
const echo = createSocket('udp4');
echo.on('message', (message, peer) => echo.send(message, peer.port, peer.address));
await new Promise<void>((resolve) => echo.bind(443, '0.0.0.0', () => resolve()));
tell({ event: 'ready' });
