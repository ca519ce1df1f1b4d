import { Agent, request, type RequestOptions } from 'node:https';
import type { IncomingMessage, RequestListener } from 'node:http';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { afterEach, describe, expect, test } from 'vitest';
import { httpsSite, NAME, setUp, siteContext, SOURCE, type Rig, type RigOptions } from './testing.ts';

let rig: Rig | null = null;
afterEach(async () => {
  await rig?.close();
  rig = null;
});

type Seen = { method: string; url: string; headers: IncomingMessage['headers']; body: string; trailers: object };

/** A site that answers with what it saw. */
function echo(seen: Seen[]): RequestListener {
  return (incoming, response) => {
    let body = '';
    incoming.setEncoding('utf8');
    incoming.on('data', (chunk: string) => {
      body += chunk;
    });
    incoming.on('end', () => {
      const { method = '', url = '', headers, trailers } = incoming;
      seen.push({ method, url, headers, body, trailers });
      response.setHeader('X-Seen', String(seen.length));
      response.end(`${method} ${url} ${body.length}`);
    });
  };
}

async function start(seen: Seen[], options: Partial<RigOptions> = {}): Promise<Rig> {
  rig = await setUp({ site: httpsSite(echo(seen)), ...options });
  return rig;
}

type Answer = { status: number; body: string; headers: IncomingMessage['headers'] };

async function ask(to: Rig, options: RequestOptions & { body?: string } = {}): Promise<Answer> {
  const { body, ...more } = options;
  return await new Promise((resolve, reject) => {
    const outgoing = request(
      { host: '127.0.0.1', port: to.port, servername: NAME, ca: to.ca, headers: { Host: NAME }, ...more },
      (answer) => {
        let text = '';
        answer.setEncoding('utf8');
        answer.on('data', (chunk: string) => {
          text += chunk;
        });
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: text, headers: answer.headers }));
        answer.on('error', reject);
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

/** Says these bytes over TLS and gives everything that came back until the other side closed. */
async function say(to: Rig, text: string): Promise<string> {
  const socket = await open(to);
  let back = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    back += chunk;
  });
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.write(text, 'latin1');
  await closed;
  return back;
}

async function open(to: Rig): Promise<TLSSocket> {
  return await new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port: to.port, servername: NAME, ca: to.ca });
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
  });
}

describe('without rules for requests', () => {
  test('every request to the name passes as it came, and both directions are counted', async () => {
    const seen: Seen[] = [];
    const to = await start(seen);
    const answer = await ask(to, { method: 'POST', path: '/a//%2f?q=1', body: 'x'.repeat(100_000) });
    expect(answer).toMatchObject({ status: 200, body: 'POST /a//%2f?q=1 100000' });
    expect(seen[0]?.headers.host).toBe(`${NAME}:${to.sitePort}`);
    to.inspector.forget(SOURCE);
    await expect.poll(() => to.counted.egress).toBeGreaterThan(100_000);
    expect(to.counted.ingress).toBeGreaterThan(1_000);
    expect(to.denials).toEqual([]);
  });

  test.each(['other.example.com', `${NAME}.evil.example`, `${NAME}:1`, '127.0.0.1', `${NAME}@evil.example`, ''])(
    'a request for the host %j is refused, and the connection goes on',
    async (host) => {
      const seen: Seen[] = [];
      const to = await start(seen);
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      const refused = await ask(to, { agent, headers: { Host: host } });
      expect(refused.status).toBe(403);
      expect(JSON.parse(refused.body)).toMatchObject({ rule: 'check.request', status: 403 });
      const passed = await ask(to, { agent, headers: { Host: `${NAME}:${to.sitePort}` } });
      expect(passed).toMatchObject({ status: 200, body: 'GET / 0' });
      agent.destroy();
      expect(seen.length).toBe(1);
      expect(to.denials).toEqual([{ rule: 'check.request', explanation: expect.stringMatching(/host/) as string }]);
    },
  );
});

describe('with rules for requests', () => {
  const requests = ['GET /v1/*', 'POST /v1/chat'];

  test('a listed one passes, in the form that was judged', async () => {
    const seen: Seen[] = [];
    const to = await start(seen, { requests });
    expect(await ask(to, { path: '/%76%31/models?limit=%2e' })).toMatchObject({ status: 200 });
    expect(await ask(to, { method: 'POST', path: '/v1/chat', body: 'hello' })).toMatchObject({ status: 200 });
    expect(seen.map(({ method, url, body }) => `${method} ${url} ${body}`)).toEqual([
      'GET /v1/models?limit=%2e ',
      'POST /v1/chat hello',
    ]);
    expect(to.denials).toEqual([]);
  });

  test.each([
    ['POST', '/v1/models', 'POST /v1/models is in no line of requests', 'requests: [POST /v1/models]'],
    ['GET', '/v2', 'GET /v2 is in no line of requests', 'requests: [GET /v2]'],
    ['DELETE', '/v1/chat', 'DELETE /v1/chat is in no line of requests', 'requests: [DELETE /v1/chat]'],
    ['GET', '/v1/../admin', 'the path must have no segment of dots', null],
    ['GET', '/v1/%2e%2e/admin', 'the path must have no escaped dot', null],
    ['GET', '/v1/..%2fadmin', 'the path must have no escaped slash or backslash', null],
    ['GET', '//evil.example/v1/', 'the path must have no empty segment (two slashes in a row)', null],
  ])('%s %s is refused with the line to add', async (method, path, explanation, line) => {
    const seen: Seen[] = [];
    const to = await start(seen, { requests });
    const answer = await ask(to, { method, path });
    expect(answer.status).toBe(403);
    expect(JSON.parse(answer.body)).toMatchObject({
      rule: 'check.request',
      destination: `${NAME}:${to.sitePort}`,
      line,
      detail: `Ringfence refused this request to ${NAME}:${to.sitePort}: ${explanation}.`,
    });
    expect(seen).toEqual([]);
    expect(to.denials).toEqual([{ rule: 'check.request', explanation }]);
  });

  test.each([
    [{ 'X-HTTP-Method-Override': 'DELETE' }, 403],
    [{ 'X-HTTP-Method-Override': 'GET' }, 200],
    [{ 'X-Method-Override': 'put' }, 403],
    [{ 'X-HTTP-Method-Override': 'POST' }, 200],
    [{ 'X-Original-URL': '/admin' }, 403],
    [{ 'X-Rewrite-Url': '/v1/chat' }, 403],
  ])('headers by which a server takes another request: %j', async (headers, status) => {
    const to = await start([], { requests });
    const answer = await ask(to, { method: 'POST', path: '/v1/chat', headers: { Host: NAME, ...headers } });
    expect(answer.status).toBe(status);
  });

  test('a refused body is read to its end, or ends the connection when it is long', async () => {
    const to = await start([], { requests });
    const short = await ask(to, { method: 'PUT', path: '/v1/x', body: 'x'.repeat(1_000) });
    expect([short.status, short.headers.connection]).toEqual([403, 'keep-alive']);
    const agent = new Agent({ keepAlive: true });
    const kept = await ask(to, {
      agent,
      method: 'PUT',
      path: '/v1/x',
      headers: { Host: NAME, 'Content-Length': 3 },
      body: 'abc',
    });
    expect(kept.headers.connection).not.toBe('close');
    const long = await ask(to, {
      agent,
      method: 'PUT',
      path: '/v1/x',
      headers: { Host: NAME, 'Content-Length': 100_000 },
      body: 'x'.repeat(100_000),
    }).catch((error: unknown) => error);
    agent.destroy();
    if (!(long instanceof Error)) expect(long).toMatchObject({ status: 403, headers: { connection: 'close' } });
  });
});

describe('what is forwarded', () => {
  test('a response reaches the agent while it is still being said', async () => {
    const first = Promise.withResolvers<void>();
    rig = await setUp({
      site: httpsSite((_incoming, response) => {
        response.writeHead(200, { 'Content-Type': 'text/event-stream' });
        response.write('data: one\n\n');
        // Only the arrival of the first event lets the site say the second.
        void first.promise.then(() => response.end('data: two\n\n'));
      }),
    });
    const to = rig;
    const body = await new Promise<string>((resolve, reject) => {
      const outgoing = request(
        { host: '127.0.0.1', port: to.port, servername: NAME, ca: to.ca, headers: { Host: NAME } },
        (answer) => {
          let text = '';
          answer.on('data', (chunk: Buffer) => {
            text += chunk.toString();
            first.resolve();
          });
          answer.on('end', () => resolve(text));
        },
      );
      outgoing.on('error', reject);
      outgoing.end();
    });
    expect(body).toBe('data: one\n\ndata: two\n\n');
  });

  test('Expect: 100-continue is answered by the name, and trailers go both ways', async () => {
    const seen: Seen[] = [];
    let continued = 0;
    const site = httpsSite((incoming, response) => {
      incoming.on('end', () => {
        seen.push({ method: '', url: '', headers: incoming.headers, body: '', trailers: incoming.trailers });
        response.writeHead(200, { Trailer: 'X-Sum' });
        response.write('body');
        response.addTrailers({ 'X-Sum': '42' });
        response.end();
      });
      incoming.resume();
    });
    site.on('checkContinue', (incoming: IncomingMessage, response: { writeContinue(): void }) => {
      continued += 1;
      response.writeContinue();
      site.emit('request', incoming, response);
    });
    rig = await setUp({ site });
    const to = rig;
    const got = await new Promise<object>((resolve, reject) => {
      const headers = { Host: NAME, Expect: '100-continue', Trailer: 'X-End', 'Transfer-Encoding': 'chunked' };
      const outgoing = request(
        { host: '127.0.0.1', port: to.port, servername: NAME, ca: to.ca, method: 'POST', headers },
        (answer) => {
          answer.resume();
          answer.on('end', () => resolve(answer.trailers));
        },
      );
      outgoing.on('error', reject);
      outgoing.on('continue', () => {
        outgoing.addTrailers({ 'X-End': '7' });
        outgoing.end('abc');
      });
      outgoing.flushHeaders();
    });
    expect(got).toEqual({ 'x-sum': '42' });
    expect([continued, seen[0]?.trailers]).toEqual([1, { 'x-end': '7' }]);
  });

  test('no header of the connection itself, and no invitation to another way', async () => {
    const seen: Seen[] = [];
    const to = await start(seen);
    const headers = {
      Host: NAME,
      Connection: 'X-Hop, keep-alive',
      'X-Hop': '1',
      'X-Kept': '2',
      Upgrade: 'h2c',
      TE: 'gzip',
    };
    await ask(to, { headers });
    const { host: _host, ...received } = seen[0]?.headers ?? {};
    expect(received).toEqual({ 'x-kept': '2', connection: 'keep-alive' });
    await to.close();
    rig = await setUp({
      site: httpsSite((_incoming, response) => {
        response.writeHead(200, { 'Alt-Svc': 'h3=":443"', 'Set-Cookie': ['a=1', 'b=2'] });
        response.end();
      }),
    });
    const answer = await ask(rig);
    expect([answer.headers['alt-svc'], answer.headers['set-cookie']]).toEqual([undefined, ['a=1', 'b=2']]);
  });

  test('a response that breaks off does not look whole', async () => {
    rig = await setUp({
      site: httpsSite((_incoming, response) => {
        response.writeHead(200, { 'Content-Length': 10 });
        response.write('half', () => response.destroy());
      }),
    });
    await expect(ask(rig)).rejects.toThrow(/aborted|hang up|ECONNRESET/);
  });
});

describe('bytes that two readers could frame differently', () => {
  const line = 'POST /v1/chat HTTP/1.1\r\nHost: api.example.com\r\n';
  const inner = 'GET /admin HTTP/1.1\r\nHost: api.example.com\r\n\r\n';

  test.each([
    ['both a length and chunks', `${line}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${inner}`],
    ['two lengths', `${line}Content-Length: 0\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`],
    ['a coding behind chunked', `${line}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n${inner}`],
    ['a coding before chunked', `${line}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${inner}`],
    ['a misspelt coding', `${line}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${inner}`],
    ['two codings', `${line}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${inner}`],
    ['a space before the colon', `${line}Content-Length : 4\r\n\r\n${inner}`],
    ['a bare line feed', `${line}X: y\nContent-Length: 4\r\n\r\n${inner}`],
    ['two hosts', `POST /v1/chat HTTP/1.1\r\nHost: ${NAME}\r\nHost: evil.example\r\n\r\n`],
    ['no host', 'POST /v1/chat HTTP/1.1\r\n\r\n'],
    ['the absolute form', `POST https://evil.example/v1/chat HTTP/1.1\r\nHost: ${NAME}\r\n\r\n`],
    ['CONNECT', `CONNECT evil.example:443 HTTP/1.1\r\nHost: ${NAME}\r\n\r\n`],
    ['HTTP/2 without ALPN', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['no HTTP at all', 'SSH-2.0-OpenSSH_9.2\r\n'],
    ['a head without end', `GET /v1/chat HTTP/1.1\r\nHost: ${NAME}\r\nX: ${'x'.repeat(40_000)}`],
  ])('%s', async (_what, bytes) => {
    const seen: Seen[] = [];
    const to = await start(seen, { requests: ['POST /v1/chat', 'POST /next'] });
    // The last request closes what is still open, so that the answer has an end.
    const last = `POST /next HTTP/1.1\r\nHost: ${NAME}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`;
    const back = await say(to, `${bytes}${bytes.includes('x'.repeat(99)) ? '' : last}`);
    expect(back).toMatch(/^HTTP\/1\.1 (?:400|403|431) /);
    expect(seen.map(({ method, url }) => `${method} ${url}`).filter((each) => each !== 'POST /next')).toEqual([]);
    expect(to.denials.length).toBeGreaterThan(0);
  });

  test('a body that nobody announced is a request of its own', async () => {
    const seen: Seen[] = [];
    const to = await start(seen, { requests: ['GET /a'] });
    const back = await say(
      to,
      `GET /a HTTP/1.1\r\nHost: ${NAME}\r\n\r\nGET /b HTTP/1.1\r\nHost: ${NAME}\r\nConnection: close\r\n\r\n`,
    );
    expect(back.match(/HTTP\/1\.1 (\d+)/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 403']);
    expect(seen.map(({ url }) => url)).toEqual(['/a']);
  });

  test('chunks are framed anew, and a GET may have some', async () => {
    const seen: Seen[] = [];
    const to = await start(seen);
    const back = await say(
      to,
      `GET /a HTTP/1.1\r\nHost: ${NAME}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n` +
        `GET /b HTTP/1.1\r\nHost: ${NAME}\r\nConnection: close\r\n\r\n`,
    );
    expect(back.match(/HTTP\/1\.1 (\d+)/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 200']);
    expect(seen.map(({ url, body }) => `${url} ${body}`)).toEqual(['/a abc', '/b ']);
  });
});

test('whatever a site answers ends at most its own connection', async () => {
  const ok = 'HTTP/1.1 200 OK\r\n';
  const answers = [
    'HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\nmore',
    'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n',
    `${ok}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`,
    `${ok}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    `${ok}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Trailer: a\x01b\r\n\r\n`,
    `${ok}X: a\x01b\r\nContent-Length: 0\r\n\r\n`,
    `${ok}X: ${'x'.repeat(40_000)}\r\nContent-Length: 0\r\n\r\n`,
    'SSH-2.0-OpenSSH_9.2\r\n',
    '',
  ];
  let turn = 0;
  const site = createServer({ SNICallback: (_name, answer) => answer(null, siteContext()) }, (socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => socket.end(Buffer.from(answers[turn] ?? '', 'latin1')));
  });
  rig = await setUp({ site });
  const statuses: (number | null)[] = [];
  for (turn = 0; turn < answers.length; turn += 1) {
    statuses.push(
      await ask(rig, { agent: new Agent() }).then(
        ({ status }) => status,
        () => null,
      ),
    );
  }
  // None of them was taken for a success but the one that is.
  expect(statuses.filter((status) => status === 200 || status === 101)).toEqual([]);
  expect(statuses[4]).toBe(204);
  await expect.poll(() => rig?.held()).toBe(0);
});

describe('WebSocket', () => {
  function socketSite(asked: string[]) {
    const site = httpsSite((_incoming, response) => response.writeHead(426).end());
    site.on('upgrade', (incoming: IncomingMessage, socket: TLSSocket) => {
      asked.push(`${incoming.url} ${incoming.headers.upgrade} ${incoming.headers.connection}`);
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello');
      socket.on('data', (chunk: Buffer) => socket.end(`echo ${chunk.toString()}`));
    });
    return site;
  }
  const upgrade = (path: string): string =>
    `GET ${path} HTTP/1.1\r\nHost: ${NAME}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n` +
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';

  test('a listed upgrade becomes a tunnel', async () => {
    const asked: string[] = [];
    rig = await setUp({ site: socketSite(asked), requests: ['GET /socket'] });
    const back = await say(rig, `${upgrade('/socket')}ping`);
    expect(back).toMatch(/^HTTP\/1\.1 101 Switching Protocols\r\n[^]*\r\n\r\nhelloecho ping$/);
    expect(asked).toEqual(['/socket websocket Upgrade']);
  });

  test('another one is refused', async () => {
    const asked: string[] = [];
    rig = await setUp({ site: socketSite(asked), requests: ['GET /socket'] });
    expect(await say(rig, upgrade('/other'))).toMatch(/^HTTP\/1\.1 403 [^]*GET \/other is in no line of requests/);
    expect(asked).toEqual([]);
  });

  test('a site that does not upgrade opens no tunnel', async () => {
    rig = await setUp({ site: httpsSite((_incoming, response) => response.writeHead(404).end('no')) });
    expect(await say(rig, `${upgrade('/socket')}GET /admin HTTP/1.1\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 404 [^]*\r\nno\r\n/,
    );
  });
});
