import { createHash, randomBytes } from 'node:crypto';
import { Agent, createServer, request as httpRequest } from 'node:http';
import type { IncomingMessage, RequestOptions, Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { until } from '../../test/support/until.ts';
import { connectRaw, LOOPBACK, opened, startChecker, startHost, stopHost } from './testing.ts';
import type { CheckedWorld, Host, RawClient } from './testing.ts';
import type { CheckVerdict } from './messages.ts';

const WAIT = { deadlineMs: 10_000 };

let world: CheckedWorld;
let host: Host | null;
let site: { readonly port: number; readonly seen: string[]; readonly server: Server };

beforeEach(async () => {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    const hash = createHash('sha256');
    request.on('data', (chunk: Buffer) => hash.update(chunk));
    request.on('error', () => undefined);
    request.on('end', () => {
      seen.push(`${request.method} ${request.headers.host} ${request.url}`);
      if (request.url === '/big') response.end(BIG);
      else response.end(`${request.url} ${hash.digest('hex')}`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, LOOPBACK, resolve));
  site = { port: (server.address() as AddressInfo).port, seen, server };
  world = await startChecker();
  world.destination = { address: '203.0.113.9', port: site.port };
  host = null;
});
afterEach(async () => {
  if (host !== null) stopHost(host);
  site.server.closeAllConnections();
  site.server.close();
  await world.checker.stop();
  expect(world.checker.connections()).toBe(0);
});

const BIG = randomBytes(8 * 1024 * 1024);

async function useHost(serve?: Parameters<typeof startHost>[0]): Promise<Host> {
  host = await startHost(serve);
  world.destination = { address: '203.0.113.9', port: host.port };
  return host;
}

async function fetched(
  options: RequestOptions,
  body?: Buffer,
): Promise<{ status: number; body: Buffer; response: IncomingMessage }> {
  return await new Promise((resolve, reject) => {
    const request = httpRequest({ host: LOOPBACK, port: world.port, ...options }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks), response }));
    });
    request.on('error', reject);
    request.on('continue', () => request.end(body));
    if (options.headers !== undefined && 'Expect' in options.headers) request.flushHeaders();
    else request.end(body);
  });
}

/** Sends raw bytes to the checker and returns what came back until it closed. */
async function said(bytes: string, options: { readonly half?: boolean } = {}): Promise<string> {
  const client = await connectRaw(world.port);
  client.socket.write(bytes, 'latin1');
  if (options.half === true) client.socket.end();
  await until('the connection is over', () => client.ended() !== 'open', WAIT);
  return client.received();
}

async function received(client: RawClient, text: string): Promise<void> {
  await until(`the client has ${JSON.stringify(text)}`, () => client.received().includes(text), WAIT);
}

const GOOD = 'GET /one HTTP/1.1\r\nHost: good.test\r\n\r\n';
const EVIL = 'GET /two HTTP/1.1\r\nHost: evil.test\r\n\r\n';
const denied = (rule: string, destination: string) => ({
  kind: 'denied',
  source: LOOPBACK,
  destination,
  port: world.destination?.port,
  rule,
  explanation: expect.stringMatching(/./) as string,
});

describe('a listed name', () => {
  test('passes with all requests of its connection', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    for (const path of ['/a', '/b', '/c']) {
      const { status, body } = await fetched({ agent, path, headers: { Host: 'good.test' } });
      expect([status, body.toString().split(' ')[0]]).toEqual([200, path]);
    }
    agent.destroy();
    expect(site.seen).toEqual(['GET good.test /a', 'GET good.test /b', 'GET good.test /c']);
    expect(world.questions).toEqual([{ source: LOOPBACK, name: 'good.test', port: site.port, protocol: 'http' }]);
    await until('it is over', () => world.checker.connections() === 0, WAIT);
    world.checker.flush();
    expect(world.reports).toMatchObject([{ kind: 'passed', name: 'good.test', connections: 1 }]);
  });

  test('passes with its port, and not with another one', async () => {
    expect(await said(`GET / HTTP/1.0\r\nHost: good.test:${site.port}\r\n\r\n`)).toContain('200 OK');
    const wrong = await said(`GET / HTTP/1.0\r\nHost: good.test:81\r\n\r\n`);
    expect(wrong).toContain('403 Forbidden');
    expect([site.seen.length, world.reports]).toEqual([1, [denied('check.name', 'good.test')]]);
  });

  test.each([
    ['with a length', {}],
    ['in chunks', { 'Transfer-Encoding': 'chunked' }],
    ['after 100 Continue', { Expect: '100-continue' }],
  ])('passes with a large body %s, whole both ways', async (_, headers) => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const options = { agent, method: 'POST', headers: { Host: 'good.test', ...headers } };
    const { body } = await fetched({ ...options, path: '/hash' }, BIG);
    expect(body.toString()).toBe(`/hash ${createHash('sha256').update(BIG).digest('hex')}`);
    const down = await fetched({ agent, path: '/big', headers: { Host: 'good.test' } });
    expect(down.body.equals(BIG)).toBe(true);
    agent.destroy();
    expect(world.questions).toHaveLength(1);
  });

  test('passes to a client that ends its side after the request', async () => {
    expect(await said(GOOD, { half: true })).toContain('/one');
  });

  test('passes with an answer that ends with its connection', async () => {
    await useHost((socket) => socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\n\r\nuntil the end')));
    expect(await said(GOOD)).toBe('HTTP/1.1 200 OK\r\n\r\nuntil the end');
  });

  test('goes upstream byte for byte', async () => {
    const { received: atHost } = await useHost();
    const client = await connectRaw(world.port);
    const head = 'POST /x?y=%20 HTTP/1.1\r\nhOST:  GOOD.test \r\nX-a:b\r\nTransfer-Encoding: chunked\r\n\r\n';
    const body = '5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n';
    for (const char of `${head}${body}`.split('')) client.socket.write(char);
    await until('the host has it', () => atHost().length >= head.length + body.length, WAIT);
    expect(atHost()).toBe(`${head}${body}`);
    client.socket.destroy();
  });
});

describe('another name', () => {
  test('is refused with a 403 that a person and a program can read', async () => {
    const { status, body, response } = await fetched({ path: '/', headers: { Host: 'evil.test' } });
    expect([status, response.headers['content-type']]).toEqual([403, 'application/problem+json']);
    expect(JSON.parse(body.toString())).toEqual({
      detail: `Ringfence refused this request to evil.test:${site.port}: "evil.test" is not in egress.allow.`,
      title: 'Refused by the egress rules of this agent',
      status: 403,
      type: 'about:blank',
      agent: LOOPBACK,
      destination: `evil.test:${site.port}`,
      rule: 'check.name',
      line: `evil.test:${site.port}`,
    });
    expect([site.seen, world.reports]).toEqual([[], []]);
  });

  test('is refused without a body to HEAD', async () => {
    const answer = await said('HEAD / HTTP/1.1\r\nHost: evil.test\r\n\r\n');
    expect(answer).toMatch(/^HTTP\/1\.1 403 Forbidden\r\n[^]*\r\n\r\n$/);
  });

  test('is refused in a later request, after the answer to the first', async () => {
    const client = await connectRaw(world.port);
    client.socket.write(GOOD);
    await received(client, '/one');
    client.socket.write(EVIL);
    await until('the connection is over', () => client.ended() !== 'open', WAIT);
    expect(client.received()).toMatch(/^HTTP\/1\.1 200 OK[^]*\/one [0-9a-f]{64}HTTP\/1\.1 403 Forbidden[^]*evil\.test/);
    expect([site.seen, world.reports]).toEqual([['GET good.test /one'], [denied('check.name', 'evil.test')]]);
  });

  test('is refused in a request sent ahead, between whole answers', async () => {
    const answer = await said(`${GOOD}${GOOD}${EVIL}${GOOD}`);
    expect(answer.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 200', 'HTTP/1.1 403']);
    expect(site.seen).toEqual(['GET good.test /one', 'GET good.test /one']);
  });

  test('is refused behind a body, also when it is cut in the middle of a name', async () => {
    const client = await connectRaw(world.port);
    const post = 'POST /p HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\n\r\nhello';
    client.socket.write(`${post}${EVIL.slice(0, 30)}`);
    await received(client, '/p');
    client.socket.write(EVIL.slice(30));
    await until('the connection is over', () => client.ended() !== 'open', WAIT);
    expect(client.received()).toContain('403 Forbidden');
    expect(site.seen).toEqual(['POST good.test /p']);
  });

  test('is refused by closing when no answer would be read as one', async () => {
    await useHost((socket) => socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\n\r\nendless')));
    const client = await connectRaw(world.port);
    client.socket.write(GOOD);
    await received(client, 'endless');
    client.socket.write(EVIL);
    await until('the connection is over', () => client.ended() !== 'open', WAIT);
    expect(client.received()).toBe('HTTP/1.1 200 OK\r\n\r\nendless');
    expect([host?.received(), world.reports]).toEqual([GOOD, [denied('check.name', 'evil.test')]]);
  });
});

/** A second request hidden from a careless reader: the host must see neither it nor anything of its name. */
describe('a request that two readers could take in two ways is refused', () => {
  test.each([
    [
      'a length and chunks',
      `POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${EVIL}`,
    ],
    [
      'two lengths',
      `POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 0\r\nContent-Length: ${EVIL.length}\r\n\r\n${EVIL}`,
    ],
    [
      'an encoding with a space before its colon',
      `POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n${EVIL}`,
    ],
    [
      'a folded encoding',
      `POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n${EVIL}`,
    ],
    [
      'a bare LF in its head',
      `GET / HTTP/1.1\r\nHost: good.test\r\nX: y\n\nGET /two HTTP/1.1\r\nHost: evil.test\r\n\r\n`,
    ],
    ['two Hosts', 'GET / HTTP/1.1\r\nHost: good.test\r\nHost: evil.test\r\n\r\n'],
    ['an absolute target', 'GET http://evil.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n'],
    ['CONNECT', 'CONNECT evil.test:443 HTTP/1.1\r\nHost: good.test\r\n\r\n'],
  ])('%s', async (_, bytes) => {
    await useHost();
    expect(await said(bytes)).toContain('403 Forbidden');
    expect([host?.sockets, world.questions, world.reports.length]).toEqual([[], [], 1]);
  });

  test.each([
    ['an extension of a chunk', `5;x=\nEVIL\r\nhello\r\n0\r\n\r\n${EVIL}`],
    ['a chunk longer than its size', `5\r\nhello!\r\n0\r\n\r\n${EVIL}`],
    ['a Host among the trailers', `0\r\nHost: evil.test\r\n\r\n`],
  ])('%s, of which nothing passes', async (_, body) => {
    await useHost();
    const head = 'POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n';
    const client = await connectRaw(world.port);
    client.socket.write(head);
    await until('the head passes', () => host?.received() === head, WAIT);
    client.socket.write(body);
    await until('the connection is over', () => client.ended() !== 'open', WAIT);
    expect(client.received()).toContain('403 Forbidden');
    expect(host?.received().toLowerCase()).not.toContain('evil');
    expect(world.reports).toEqual([denied('check.request', 'good.test')]);
  });
});

describe('an upgrade', () => {
  const ASK = 'GET /ws HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  const AGREED = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';

  test('becomes a tunnel when the host agrees, and not a byte before', async () => {
    const { received: atHost, sockets } = await useHost();
    const client = await connectRaw(world.port);
    client.socket.write(`${ASK}frame`);
    await until('the host is asked', () => atHost().length >= ASK.length, WAIT);
    sockets[0]?.write('HTTP/1.1 103 Early Hints\r\n\r\n');
    await received(client, '103');
    expect(atHost()).toBe(ASK);
    sockets[0]?.write(`${AGREED}hello`);
    await received(client, 'hello');
    client.socket.write(EVIL);
    await until('the tunnel carries anything', () => atHost() === `${ASK}frame${EVIL}`, WAIT);
    client.socket.destroy();
  });

  test('does not hide the next request when the host refuses', async () => {
    const { received: atHost, sockets } = await useHost();
    const client = await connectRaw(world.port);
    client.socket.write(`${ASK}${EVIL}`);
    await until('the host is asked', () => atHost().length >= ASK.length, WAIT);
    sockets[0]?.write('HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno');
    await until('the connection is over', () => client.ended() !== 'open', WAIT);
    expect(client.received()).toMatch(/400 Bad Request[^]*noHTTP\/1\.1 403 Forbidden/);
    expect(atHost()).toBe(ASK);
  });

  test('to HTTP/2 is not offered to the host', async () => {
    const { received: atHost } = await useHost();
    const client = await connectRaw(world.port);
    client.socket.write('GET / HTTP/1.1\r\nHost: good.test\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n');
    await until('the host is asked', () => atHost().endsWith('\r\n\r\n'), WAIT);
    expect(atHost()).toBe('GET / HTTP/1.1\r\nHost: good.test\r\n\r\n');
    client.socket.destroy();
  });

  test('that the host makes without being asked ends the connection at the next one', async () => {
    const { received: atHost, sockets } = await useHost();
    const client = await connectRaw(world.port);
    client.socket.write(GOOD);
    await until('the host is asked', () => atHost() === GOOD, WAIT);
    sockets[0]?.write(AGREED);
    await received(client, '101');
    client.socket.write('\x81\x05hello');
    await until('the connection is over', () => client.ended() !== 'open', WAIT);
    expect(atHost()).toBe(GOOD);
  });
});

test('closes what is no HTTP, without an answer', async () => {
  world.destination = { address: '203.0.113.9', port: 80 };
  for (const bytes of ['SSH-2.0-OpenSSH_9.2p1\r\n', '\x16\x03\x01\x00\x05\x01', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n']) {
    expect(await said(bytes)).toBe('');
  }
  expect(world.reports).toEqual([1, 2, 3].map(() => denied('check.protocol', '203.0.113.9')));
});

test('says 502 when no approved address answers or the name has none, and blames nobody', async () => {
  world.verdict = (question) => opened(question, ['127.0.0.2']);
  expect(await said(GOOD)).toContain('502 Bad Gateway');
  world.verdict = () => ({
    kind: 'refuse',
    rule: 'check.upstream',
    explanation: '"good.test" has no address',
    line: null,
  });
  expect(await said(GOOD)).toContain('502 Bad Gateway');
  expect([site.seen, world.reports]).toEqual([[], []]);
});

test('stops reading requests whose answers nobody reads', async () => {
  const client = await connectRaw(world.port);
  client.socket.pause();
  const requests = GOOD.replace('/one', '/big').repeat(64);
  client.socket.write(requests);
  let before = -1;
  await until(
    'the site answers no more',
    async () => {
      const now = site.seen.length;
      if (now === before) return now > 0;
      before = now;
      await new Promise((resolve) => setTimeout(resolve, 300));
      return false;
    },
    WAIT,
  );
  expect(site.seen.length).toBeLessThan(40);
  world.checker.flush();
  const [passed] = world.reports;
  expect(passed?.kind === 'passed' && passed.ingressBytes).toBeLessThan(64 * 1024 * 1024);
  client.socket.destroy();
});

test('closes a tunnel and an upload under a revoked name', async () => {
  const { received: atHost, sockets } = await useHost();
  const client = await connectRaw(world.port);
  client.socket.write('POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 1000000\r\n\r\nabc');
  await until('the upload runs', () => atHost().endsWith('abc'), WAIT);
  const closed = new Promise<void>((resolve) => sockets[0]?.once('close', () => resolve()));
  world.checker.close(LOOPBACK, ['good.test']);
  await until('the client is cut', () => client.ended() === 'reset', WAIT);
  await closed;
});

test('closes a connection on which the check itself fails, and goes on with the others', async () => {
  world.verdict = (question) => ({ ...opened(question), inspect: true }) as CheckVerdict;
  expect(await said(GOOD)).toBe('');
  expect(world.reports).toMatchObject([
    { kind: 'denied', rule: 'check.protocol', explanation: expect.stringContaining('the name check failed') as string },
  ]);
  world.verdict = (question) => opened(question);
  expect(await said(GOOD, { half: true })).toContain('200 OK');
});
