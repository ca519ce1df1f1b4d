import {
  connect,
  constants,
  type ClientHttp2Session,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
} from 'node:http2';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, test } from 'vitest';
import { http2Site, httpsSite, NAME, setUp, type Rig } from './testing.ts';

let rig: Rig | null = null;
let session: ClientHttp2Session | null = null;
afterEach(async () => {
  session?.destroy();
  await rig?.close();
  session = null;
  rig = null;
});

function open(to: Rig): ClientHttp2Session {
  session = connect(`https://${NAME}:${to.sitePort}`, {
    createConnection: () =>
      connectTls({ host: '127.0.0.1', port: to.port, servername: NAME, ca: to.ca, ALPNProtocols: ['h2', 'http/1.1'] }),
  });
  session.on('error', () => undefined);
  return session;
}

type Answer = { status: number; body: string; headers: IncomingHttpHeaders; trailers: IncomingHttpHeaders };

async function ask(over: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: string): Promise<Answer> {
  return await new Promise((resolve, reject) => {
    const stream = over.request({ ':path': '/', ...headers }, { endStream: body === undefined });
    let answer: IncomingHttpHeaders = {};
    let trailers: IncomingHttpHeaders = {};
    let text = '';
    stream.setEncoding('utf8');
    stream.on('response', (received) => {
      answer = received;
    });
    stream.on('trailers', (received) => {
      trailers = received;
    });
    stream.on('data', (chunk: string) => {
      text += chunk;
    });
    stream.on('close', () => resolve({ status: Number(answer[':status']), body: text, headers: answer, trailers }));
    stream.on('error', reject);
    if (body !== undefined) stream.end(body);
  });
}

type Seen = { method: string; path: string; authority: string; body: string; names: readonly string[] };

function echoSite(seen: Seen[]) {
  return http2Site((site) => {
    site.on('stream', (stream, headers) => {
      let body = '';
      stream.setEncoding('utf8');
      stream.on('data', (chunk: string) => {
        body += chunk;
      });
      stream.on('end', () => {
        const { ':method': method = '', ':path': path = '', ':authority': authority = '' } = headers;
        seen.push({
          method,
          path,
          authority,
          body,
          names: Object.keys(headers).filter((name) => !name.startsWith(':')),
        });
        stream.respond({ ':status': 200, 'alt-svc': 'h3=":443"', 'x-kept': '1' }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
        stream.end(`${method} ${path} ${body.length}`);
      });
    });
  });
}

describe('over HTTP/2', () => {
  test('a listed request passes, with its body and the trailers of its answer', async () => {
    const seen: Seen[] = [];
    rig = await setUp({ site: echoSite(seen), requests: ['POST /pkg.Service/*'] });
    const answer = await ask(
      open(rig),
      { ':method': 'POST', ':path': '/pkg.Service/%43all', te: 'trailers', 'x-mine': '1' },
      'x'.repeat(300_000),
    );
    expect(answer).toMatchObject({
      status: 200,
      body: 'POST /pkg.Service/Call 300000',
      trailers: { 'grpc-status': '0' },
    });
    expect([answer.headers['x-kept'], answer.headers['alt-svc']]).toEqual(['1', undefined]);
    expect(seen).toEqual([
      {
        method: 'POST',
        path: '/pkg.Service/Call',
        authority: `${NAME}:${rig.sitePort}`,
        body: 'x'.repeat(300_000),
        names: ['te', 'x-mine'],
      },
    ]);
    expect(rig.denials).toEqual([]);
  });

  test.each([
    [{ ':method': 'DELETE', ':path': '/pkg.Service/Call' }, 'DELETE /pkg.Service/Call is in no line of requests'],
    [{ ':path': '/pkg.Service/../admin' }, 'the path must have no segment of dots'],
    [{ ':authority': 'evil.example' }, 'the host of the request is "evil.example"'],
    [{ ':path': '/pkg.Service/Call', 'x-original-url': '/admin' }, 'the header x-original-url names a second path'],
    [
      { ':path': '/pkg.Service/Call', ':authority': NAME, host: 'evil.example' },
      'the request names more than one host',
    ],
    [{ ':method': 'CONNECT', ':path': undefined, ':authority': NAME }, 'CONNECT is never passed on'],
  ])('%j is refused, and the next stream of the session passes', async (headers, explanation) => {
    const seen: Seen[] = [];
    rig = await setUp({ site: echoSite(seen), requests: ['GET /pkg.Service/*'] });
    const over = open(rig);
    const refused = await ask(over, headers);
    expect(refused.status).toBe(403);
    expect(refused.headers['content-type']).toBe('application/problem+json');
    expect((JSON.parse(refused.body) as { detail: string }).detail).toContain(explanation);
    expect(await ask(over, { ':path': '/pkg.Service/Call' })).toMatchObject({ status: 200 });
    expect(seen.map(({ method, path }) => `${method} ${path}`)).toEqual(['GET /pkg.Service/Call']);
    expect(rig.denials).toEqual([
      { rule: 'check.request', explanation: expect.stringContaining(explanation) as string },
    ]);
  });

  test('a refused upload is told without its end', async () => {
    rig = await setUp({ site: echoSite([]), requests: ['GET /'] });
    const stream = open(rig).request({ ':method': 'POST', ':path': '/upload' }, { endStream: false });
    const status = await new Promise((resolve, reject) => {
      stream.on('response', (headers) => resolve(headers[':status']));
      stream.on('error', reject);
    });
    expect(status).toBe(403);
    stream.destroy();
  });

  test('a response reaches the agent while it is still being said', async () => {
    const first = Promise.withResolvers<void>();
    rig = await setUp({
      site: http2Site((site) => {
        site.on('stream', (stream) => {
          stream.respond({ ':status': 200 });
          stream.write('one ');
          void first.promise.then(() => stream.end('two'));
        });
      }),
    });
    const stream = open(rig).request({ ':path': '/' });
    const body = await new Promise<string>((resolve, reject) => {
      let text = '';
      stream.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        first.resolve();
      });
      stream.on('end', () => resolve(text));
      stream.on('error', reject);
    });
    expect(body).toBe('one two');
  });

  test('a stream that the site resets is reset, and one that the agent gives up is given up', async () => {
    const gone = Promise.withResolvers<number>();
    rig = await setUp({
      site: http2Site((site) => {
        site.on('stream', (stream, headers) => {
          stream.on('error', () => undefined);
          if (headers[':path'] === '/reset') {
            stream.respond({ ':status': 200 });
            stream.write('half', () => stream.destroy(new Error('broken')));
          } else stream.on('close', () => gone.resolve(stream.rstCode));
        });
      }),
    });
    const over = open(rig);
    await expect(ask(over, { ':path': '/reset' })).rejects.toThrow(/NGHTTP2_INTERNAL_ERROR/);
    const given = over.request({ ':path': '/wait' });
    given.on('error', () => undefined);
    // The site has the stream once an answer to a later one is there.
    await ask(over, { ':path': '/reset' }).catch(() => undefined);
    given.close(constants.NGHTTP2_CANCEL);
    expect(await gone.promise).toBe(constants.NGHTTP2_CANCEL);
  });

  test('a response whose connection breaks off does not look whole', async () => {
    rig = await setUp({
      site: http2Site((site) => {
        site.on('stream', (stream) => {
          stream.on('error', () => undefined);
          stream.respond({ ':status': 200 });
          stream.write('half', () => stream.session?.destroy());
        });
      }),
    });
    await expect(ask(open(rig), { ':path': '/' })).rejects.toThrow(/NGHTTP2_|aborted/);
  });

  test('a site that speaks HTTP/1.1 only is offered as such', async () => {
    rig = await setUp({ site: httpsSite((_incoming, response) => response.end()) });
    const { port, ca } = rig;
    const chosen = await new Promise((resolve, reject) => {
      const socket = connectTls(
        { host: '127.0.0.1', port, servername: NAME, ca, ALPNProtocols: ['h2', 'http/1.1'] },
        () => {
          resolve(socket.alpnProtocol);
          socket.destroy();
        },
      );
      socket.on('error', reject);
    });
    expect(chosen).toBe('http/1.1');
  });
});
