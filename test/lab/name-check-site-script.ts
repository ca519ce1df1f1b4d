import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';

/**
 * The attacked side of the name check: TLS and HTTP servers that write a line for all they see. Bytes are counted
 * before any protocol, so that nothing that arrives goes unsaid.
 */
type Setup = { readonly tlsPort: number; readonly httpPort: number; readonly key: string; readonly cert: string };

const setup = JSON.parse(process.argv[2] ?? '{}') as Setup;
const tell = (line: unknown): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

const secure = createTlsServer({ key: readFileSync(setup.key), cert: readFileSync(setup.cert) }, (socket) => {
  tell({ event: 'name', protocol: 'tls', name: socket.servername === false ? '' : socket.servername });
  socket.on('error', () => socket.destroy());
  socket.pipe(socket);
});
secure.on('tlsClientError', () => undefined);

const site = createHttpServer((request, response) => {
  request.resume();
  request.on('end', () => {
    tell({ event: 'name', protocol: 'http', name: request.headers.host, path: request.url });
    response.end(`hello from ${request.headers.host ?? ''}${request.url ?? ''}\n`);
  });
});
site.on('upgrade', (request, socket: Socket) => {
  tell({ event: 'name', protocol: 'http', name: request.headers.host, path: request.url });
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  socket.pipe(socket);
});

await listen(setup.tlsPort, secure);
await listen(setup.httpPort, site);
tell({ event: 'ready' });

async function listen(port: number, protocol: Pick<Server, 'emit'>): Promise<void> {
  await new Promise<void>((resolve) => {
    createServer((socket) => {
      tell({ event: 'open', port });
      // A connection that is cut is what some tests are about.
      socket.on('error', () => socket.destroy());
      socket.on('close', () => tell({ event: 'close', port, bytes: socket.bytesRead }));
      protocol.emit('connection', socket);
    }).listen(port, '0.0.0.0', resolve);
  });
}
