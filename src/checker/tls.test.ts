import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createServer as createTlsServer, connect as tlsConnect } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import type { AddressInfo } from 'node:net';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { until } from '../../test/support/until.ts';
import { CONNECTIONS_PER_SOURCE_MAX } from './checker.ts';
import { connectRaw, LOOPBACK, onlyGood, opened, startChecker, startHost, stopHost } from './testing.ts';
import type { CheckedWorld, Host } from './testing.ts';
import { helloOf, recordsOf, serverNameOf } from './testing-hello.ts';
import type { CheckVerdict } from './messages.ts';

const WAIT = { deadlineMs: 10_000 };
const HELLO = ((hello) => recordsOf(hello, [hello.length]))(helloOf({ extensions: [serverNameOf('good.test')] }));
const ALERT_ACCESS_DENIED = Buffer.from('15030300020231', 'hex').toString('latin1');
const ALERT_INTERNAL_ERROR = Buffer.from('15030300020250', 'hex').toString('latin1');

let world: CheckedWorld;
let host: Host;
let folder: string;
let secure: { readonly port: number; readonly names: string[]; close(): void };

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'rf-checker-'));
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const subject = ['-subj', '/CN=good.test', '-addext', 'subjectAltName=DNS:good.test'];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  await execa('openssl', ['req', '-x509', ...curve, '-nodes', '-keyout', key, '-out', cert, '-days', '1', ...subject]);
  const names: string[] = [];
  const server = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, (socket) => {
    names.push(socket.servername === false ? '' : String(socket.servername));
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, LOOPBACK, resolve));
  secure = { port: (server.address() as AddressInfo).port, names, close: () => server.close() };
});
afterAll(() => {
  secure.close();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(async () => {
  secure.names.length = 0;
  world = await startChecker();
  host = await startHost();
  world.destination = { address: '203.0.113.9', port: host.port };
});
afterEach(async () => {
  stopHost(host);
  await world.checker.stop();
  expect(world.checker.connections()).toBe(0);
});

/** Sends `ping` and hangs up after the echo: what came back, or the code of what went wrong. */
async function echoOf(options: { readonly servername?: string; readonly port?: number }): Promise<string> {
  const socket: TLSSocket = tlsConnect({ host: LOOPBACK, port: world.port, rejectUnauthorized: false, ...options });
  return await new Promise((resolve) => {
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.on('end', () => resolve('ended'));
    socket.on('secureConnect', () => socket.write('ping'));
    socket.on('data', (data: Buffer) => {
      socket.end();
      resolve(data.toString());
    });
  });
}

test('leads a connection with a listed name to the address that the gate approved, and counts it', async () => {
  world.destination = { address: '203.0.113.9', port: secure.port };
  expect(await echoOf({ servername: 'good.test' })).toBe('ping');
  expect(world.questions).toEqual([{ source: LOOPBACK, name: 'good.test', port: secure.port, protocol: 'tls' }]);
  expect(secure.names).toEqual(['good.test']);
  await until('the connection is over', () => world.checker.connections() === 0, WAIT);
  world.checker.flush();
  expect(world.reports).toEqual([
    {
      kind: 'passed',
      source: LOOPBACK,
      name: 'good.test',
      port: secure.port,
      connections: 1,
      egressBytes: expect.any(Number) as number,
      ingressBytes: expect.any(Number) as number,
    },
  ]);
  const [passed] = world.reports;
  expect(passed?.kind === 'passed' && passed.egressBytes > 200 && passed.ingressBytes > 500).toBe(true);
  world.checker.flush();
  expect(world.reports).toHaveLength(1);
});

test('refuses another name with an alert that says so, and connects to nobody', async () => {
  expect(await echoOf({ servername: 'other.test' })).toBe('ERR_SSL_TLSV1_ALERT_ACCESS_DENIED');
  // The gate has recorded its own refusal.
  expect([world.reports, host.sockets.length]).toEqual([[], 0]);
});

test.each<[string, string | Buffer, string, string]>([
  [
    'no name',
    ((hello) => recordsOf(hello, [hello.length]))(helloOf({ extensions: null })),
    'check.no-name',
    ALERT_ACCESS_DENIED,
  ],
  [
    'a malformed hello',
    Buffer.concat([HELLO.subarray(0, 50), Buffer.alloc(HELLO.length, 0xff)]),
    'check.protocol',
    ALERT_ACCESS_DENIED,
  ],
  ['SSH', 'SSH-2.0-OpenSSH_9.2p1\r\n', 'check.protocol', ''],
  ['HTTP', 'GET / HTTP/1.1\r\nHost: good.test\r\n\r\n', 'check.protocol', ''],
])('refuses %s on port 443 and reports it', async (_, bytes, rule, said) => {
  world.destination = { address: '203.0.113.9', port: 443 };
  const client = await connectRaw(world.port);
  client.socket.write(bytes);
  await until('the connection is closed', () => client.ended() !== 'open', WAIT);
  expect(client.received()).toBe(said);
  expect(world.reports).toEqual([
    {
      kind: 'denied',
      source: LOOPBACK,
      destination: '203.0.113.9',
      port: 443,
      rule,
      explanation: expect.stringMatching(/./) as string,
    },
  ]);
  expect(world.questions).toEqual([]);
});

test('refuses a hello that trickles, and says nothing of a client that never spoke', async () => {
  world.destination = { address: '203.0.113.9', port: 443 };
  const [slow, silent] = [await connectRaw(world.port), await connectRaw(world.port)];
  let sent = 0;
  const trickle = setInterval(() => {
    slow.socket.write(HELLO.subarray(sent, sent + 1));
    sent += 1;
  }, 100);
  await until('both are closed', () => slow.ended() !== 'open' && silent.ended() !== 'open', WAIT);
  clearInterval(trickle);
  expect(world.reports).toMatchObject([{ kind: 'denied', rule: 'check.slow' }]);
  expect([slow.received(), silent.received()]).toEqual([ALERT_ACCESS_DENIED, '']);
});

test('forwards the hello byte for byte, in however many pieces it came, and what follows', async () => {
  const client = await connectRaw(world.port);
  for (const byte of HELLO) client.socket.write(Buffer.of(byte));
  client.socket.write('early');
  await until('the host has it all', () => host.received().length >= HELLO.length + 5, WAIT);
  expect(host.received()).toBe(`${HELLO.toString('latin1')}early`);
  client.socket.destroy();
});

test('keeps the half-close of either side', async () => {
  const client = await connectRaw(world.port);
  client.socket.write(HELLO);
  const [socket] = await until('the host is connected', () => (host.sockets.length > 0 ? host.sockets : null), WAIT);
  const ended = new Promise<void>((resolve) => socket?.once('end', () => resolve()));
  client.socket.end('last');
  await ended;
  expect(host.received()).toBe(`${HELLO.toString('latin1')}last`);
  socket?.end('answer');
  await until('the client has the answer', () => client.ended() === 'end', WAIT);
  expect(client.received()).toBe('answer');
  await until('both are closed', () => world.checker.connections() === 0, WAIT);
});

test('carries a reset across, so that half an answer is not taken for a whole one', async () => {
  const client = await connectRaw(world.port);
  client.socket.write(HELLO);
  const [socket] = await until('the host is connected', () => (host.sockets.length > 0 ? host.sockets : null), WAIT);
  socket?.write('half');
  await until('half is there', () => client.received() === 'half', WAIT);
  socket?.resetAndDestroy();
  await until('the client is cut', () => client.ended() !== 'open', WAIT);
  expect(client.ended()).toBe('reset');
});

test('stops reading from a client whose host does not read', async () => {
  const client = await connectRaw(world.port);
  client.socket.write(HELLO);
  const [socket] = await until('the host is connected', () => (host.sockets.length > 0 ? host.sockets : null), WAIT);
  socket?.pause();
  const megabyte = Buffer.alloc(1024 * 1024);
  for (let count = 0; count < 64; count += 1) client.socket.write(megabyte);
  let before = -1;
  await until(
    'nothing moves any more',
    async () => {
      const now = client.socket.writableLength;
      if (now === before) return true;
      before = now;
      await new Promise((resolve) => setTimeout(resolve, 300));
      return false;
    },
    WAIT,
  );
  expect(client.socket.writableLength).toBeGreaterThan(32 * 1024 * 1024);
  socket?.resume();
  await until('all of it went', () => client.socket.writableLength === 0, WAIT);
  client.socket.destroy();
});

test('tries the approved addresses in turn and no other, and blames nobody when none answers', async () => {
  const good = await connectRaw(world.port);
  world.verdict = (question) => opened(question, ['localhost', '::1', '127.0.0.2', LOOPBACK]);
  good.socket.write(HELLO);
  await until('the second one answers', () => host.sockets.length === 1, WAIT);
  good.socket.destroy();
  world.verdict = (question) => opened(question, ['127.0.0.2', 'localhost']);
  const none = await connectRaw(world.port);
  none.socket.write(HELLO);
  await until('it is closed', () => none.ended() !== 'open', WAIT);
  expect([none.received(), world.reports, host.sockets.length]).toEqual([ALERT_INTERNAL_ERROR, [], 1]);
});

test('closes what is open under a revoked name, and only that', async () => {
  const client = await connectRaw(world.port);
  client.socket.write(HELLO);
  await until('the host is connected', () => host.sockets.length === 1, WAIT);
  world.checker.close('10.213.0.2', null);
  world.checker.close(LOOPBACK, ['other.test']);
  host.sockets[0]?.write('still');
  await until('it is open', () => client.received() === 'still', WAIT);
  const closed = new Promise<void>((resolve) => host.sockets[0]?.once('close', () => resolve()));
  world.checker.close(LOOPBACK, ['other.test', 'good.test']);
  await until('the client is cut', () => client.ended() !== 'open', WAIT);
  await closed;
});

test('closes a connection whose verdict is still on its way', async () => {
  const decided = Promise.withResolvers<CheckVerdict>();
  world.verdict = async () => await decided.promise;
  const client = await connectRaw(world.port);
  client.socket.write(HELLO);
  const [question] = await until(
    'the gate is asked',
    () => (world.questions.length > 0 ? world.questions : null),
    WAIT,
  );
  if (question === undefined) throw new Error('no question');
  // The verdict was sent before the rules changed, in this order.
  decided.resolve(opened(question));
  world.checker.close(LOOPBACK, ['good.test']);
  await until('the client is cut', () => client.ended() !== 'open', WAIT);
  expect(host.sockets).toEqual([]);
});

test('connects to nobody for a client that gave up while a person decided', async () => {
  const decided = Promise.withResolvers<CheckVerdict>();
  world.verdict = async () => await decided.promise;
  const client = await connectRaw(world.port);
  client.socket.write(HELLO);
  const [question] = await until(
    'the gate is asked',
    () => (world.questions.length > 0 ? world.questions : null),
    WAIT,
  );
  client.socket.destroy();
  await until('it is noticed', () => world.checker.connections() === 0, WAIT);
  if (question !== undefined) decided.resolve(opened(question));
  world.verdict = onlyGood;
  const next = await connectRaw(world.port);
  next.socket.write(HELLO);
  await until('the next one passes', () => host.sockets.length > 0, WAIT);
  expect(host.sockets).toHaveLength(1);
  next.socket.destroy();
});

test('closes what was led here by nobody', async () => {
  for (const destination of [null, { address: LOOPBACK, port: world.port }]) {
    world.destination = destination;
    const client = await connectRaw(world.port);
    await until('it is closed', () => client.ended() !== 'open', WAIT);
  }
  expect(world.reports).toMatchObject([
    { kind: 'denied', rule: 'check.protocol', destination: LOOPBACK, port: world.port },
    { kind: 'denied', rule: 'check.protocol' },
  ]);
});

test('bounds the connections of one source', async () => {
  const clients = [];
  for (let count = 0; count < CONNECTIONS_PER_SOURCE_MAX; count += 1) clients.push(await connectRaw(world.port));
  await until('all are taken', () => world.checker.connections() === CONNECTIONS_PER_SOURCE_MAX, WAIT);
  const oneMore = await connectRaw(world.port);
  await until('one more is not', () => oneMore.ended() !== 'open', WAIT);
  expect(world.reports).toMatchObject([{ kind: 'denied', rule: 'check.size' }]);
  clients[0]?.socket.destroy();
  await until('there is room', () => world.checker.connections() < CONNECTIONS_PER_SOURCE_MAX, WAIT);
  const again = await connectRaw(world.port);
  again.socket.write(HELLO);
  await until('it passes', () => host.sockets.length === 1, WAIT);
  for (const client of [...clients, again]) client.socket.destroy();
});

test('hands an inspected connection over with its first bytes, and refuses it when that fails', async () => {
  await world.checker.stop();
  const handed: unknown[] = [];
  world = await startChecker({
    inspector: {
      authority: async () => await Promise.resolve(''),
      forget: () => undefined,
      inspect: async (connection) => {
        const { source, head, name, port, protocol, addresses, requests } = connection;
        handed.push({ source, head: head.toString('latin1'), name, port, protocol, addresses, requests });
        connection.count({ egress: 3, ingress: 4 });
        connection.deny('check.request', 'GET /secret is not in requests');
        await Promise.resolve();
      },
    },
  });
  world.destination = { address: '203.0.113.9', port: 443 };
  const requests = [{ text: 'GET /v1/*', method: 'GET', path: '/v1/', pathPrefix: true }];
  world.verdict = (question) => ({
    kind: 'open',
    name: question.name,
    addresses: ['198.51.100.1'],
    inspect: true,
    requests,
  });
  const client = await connectRaw(world.port);
  client.socket.write(HELLO);
  await until('it is over', () => client.ended() !== 'open', WAIT);
  const expected = { source: LOOPBACK, head: HELLO.toString('latin1'), name: 'good.test', port: 443, protocol: 'tls' };
  expect(handed).toEqual([{ ...expected, addresses: ['198.51.100.1'], requests }]);
  world.checker.flush();
  expect(world.reports).toMatchObject([
    { kind: 'denied', rule: 'check.request', destination: 'good.test', port: 443 },
    { kind: 'passed', name: 'good.test', connections: 1, egressBytes: 3, ingressBytes: 4 },
  ]);
});
