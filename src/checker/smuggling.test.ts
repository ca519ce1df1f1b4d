import fc from 'fast-check';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../../test/support/until.ts';
import { connectRaw, LOOPBACK, startChecker } from './testing.ts';
import type { CheckedWorld } from './testing.ts';

/**
 * Two readers of the same bytes: this one, and a server that forgives everything Node.js can forgive. Whatever an agent
 * puts together, the server must never see a request of another name, and must see what was allowed.
 */
const EVIL = 'GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n';
const LAST_CHUNK = '0\r\n\r\n';
const FIELDS = [
  'Host: good.test\r\n',
  'Host: evil.test\r\n',
  ' Host: evil.test\r\n',
  'Content-Length: 5\r\n',
  `Content-Length: ${EVIL.length}\r\n`,
  `Content-Length: ${LAST_CHUNK.length + EVIL.length}\r\n`,
  'Content-Length: 0\r\n',
  'Content-Length : 5\r\n',
  'Content-Length: 5, 5\r\n',
  'Transfer-Encoding: chunked\r\n',
  'Transfer-Encoding: \x0bchunked\r\n',
  'Transfer-Encoding:\r\n chunked\r\n',
  'transfer-encoding: identity, chunked\r\n',
  'Connection: keep-alive\r\n',
  'Connection: close, Host\r\n',
  'Upgrade: h2c\r\n',
  'X: y\r\n',
  'X: y\n',
  'X: y\r',
  '\n',
] as const;
const BODIES = [
  LAST_CHUNK,
  '5\r\nhello\r\n',
  '5;x="\n"\r\nhello\r\n',
  '5\r\nhello\r\n0\r\nHost: evil.test\r\n\r\n',
  'hello',
  '\r\n',
  '\n',
  EVIL,
  'GET http://evil.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n',
  'GET /good HTTP/1.1\r\nHost: good.test\r\n\r\n',
  'POST /good HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\n\r\nhello',
  'POST /good HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
  'POST /good HTTP/1.1\r\nHost: good.test\r\nContent-Length: 45\r\n\r\n',
] as const;
const RUNS = 300;
const WAIT = { deadlineMs: 10_000 };

let world: CheckedWorld;
let lenient: Server;
const seen: string[] = [];

beforeAll(async () => {
  lenient = createServer({ insecureHTTPParser: true, requireHostHeader: false }, (request, response) => {
    // The target outranks Host, and of several Hosts nobody knows which one counts.
    const hosts = request.rawHeaders.filter((_, index) => request.rawHeaders[index - 1]?.toLowerCase() === 'host');
    seen.push(`${/^http:\/\/([^/]*)/.exec(request.url ?? '')?.[1] ?? ''}${hosts.join()}`);
    request.resume();
    request.on('error', () => undefined);
    response.end();
  });
  lenient.on('upgrade', (_, socket) => socket.destroy());
  lenient.on('clientError', (_, socket) => socket.destroy());
  await new Promise<void>((resolve) => lenient.listen(0, LOOPBACK, resolve));
  world = await startChecker();
  world.destination = { address: '203.0.113.9', port: (lenient.address() as AddressInfo).port };
});
afterAll(async () => {
  await world.checker.stop();
  lenient.closeAllConnections();
  lenient.close();
});

async function requestsOf(bytes: string): Promise<readonly string[]> {
  seen.length = 0;
  const client = await connectRaw(world.port);
  client.socket.write(bytes, 'latin1');
  client.socket.end();
  await new Promise((resolve) => client.socket.once('close', resolve));
  await until('both sides are closed', () => world.checker.connections() === 0, WAIT);
  return [...seen];
}

test('the lenient server is one: directly it would answer a request of another name', async () => {
  expect(await requestsOf('POST /good HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\n\r\nhello')).toEqual([
    'good.test',
  ]);
  const direct = await connectRaw(world.destination?.port ?? 0);
  seen.length = 0;
  direct.socket.end(
    'POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n',
  );
  await until('it has seen both', () => seen.includes('evil.test'), WAIT);
  direct.socket.destroy();
});

/** Where a hidden request lies, for a reader that believes in a length, in chunks, or in no body at all. */
const HIDDEN = [EVIL, `${LAST_CHUNK}${EVIL}`, `hello${EVIL}`, `5\r\nhello\r\n${LAST_CHUNK}${EVIL}`];

test('no two fields together make the host see another name', { timeout: 120_000 }, async () => {
  for (const first of FIELDS) {
    for (const second of FIELDS) {
      for (const body of HIDDEN) {
        const bytes = `POST / HTTP/1.1\r\nHost: good.test\r\n${first}${second}\r\n${body}`;
        const requests = await requestsOf(bytes);
        expect({ bytes, others: requests.filter((name) => name !== 'good.test') }).toEqual({ bytes, others: [] });
      }
    }
  }
});

test('no arrangement of pieces makes the host see another name', { timeout: 120_000 }, async () => {
  const fields = fc.array(fc.constantFrom(...FIELDS), { maxLength: 2 });
  const bodies = fc.array(fc.constantFrom(...BODIES), { maxLength: 5 });
  let passed = 0;
  const arranged = fc.asyncProperty(fields, bodies, async (head, body) => {
    const requests = await requestsOf(`POST / HTTP/1.1\r\nHost: good.test\r\n${head.join('')}\r\n${body.join('')}`);
    passed += requests.length;
    expect(requests.filter((name) => name !== 'good.test')).toEqual([]);
  });
  await fc.assert(arranged, { numRuns: RUNS });
  // A checker that let nothing pass would have proved nothing.
  expect(passed).toBeGreaterThan(RUNS / 4);
});
