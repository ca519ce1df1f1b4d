import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer as createTlsServer } from 'node:https';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { WebhookSink } from '../../core/ports/alert.ts';
import type { Delivery } from '../deliverer.ts';
import type { HttpOptions } from '../http.ts';
import { alertOf, KEY, OTHER_KEY, startReceiver, withDirectory } from '../testing.ts';
import { openWebhook } from './webhook.ts';

const never = new AbortController().signal;
const message = alertOf('i0123456789ab_opened', { body: '{"type":"incident.opened","data":"é\\n✓"}' });

function sinkAt(url: string, more: Partial<WebhookSink> = {}): WebhookSink {
  return { type: 'webhook', url, keys: [KEY], allowPrivate: true, ...more };
}

async function send(sink: WebhookSink, options: Partial<HttpOptions> = {}): Promise<Delivery> {
  return await openWebhook(sink, { nowMs: Date.now, ...options }).send(message, never);
}

describe('what a receiver gets', () => {
  test('verifies with an independent implementation, and not with another key', async () => {
    const receiver = await startReceiver((response) => response.writeHead(204).end());
    expect(await send(sinkAt(receiver.url))).toEqual({ kind: 'delivered', status: 204 });
    const [request] = receiver.received;
    if (request === undefined) throw new Error('nothing was received');
    expect(request.body).toBe(message.body);
    expect(request.headers).toMatchObject({ 'webhook-id': message.id, 'content-type': 'application/json' });
    expect(receiver.verify(request)).toEqual({ type: 'incident.opened', data: 'é\n✓' });
    expect(() => receiver.verify(request, OTHER_KEY)).toThrow(/No matching signature/);
    const changed = { ...request, body: request.body.replace('opened', 'closed') };
    expect(() => receiver.verify(changed)).toThrow(/No matching signature/);
    await receiver.close();
  });

  test('carries the time of the attempt, which the receiver holds against its own', async () => {
    const receiver = await startReceiver((response) => response.writeHead(200).end());
    const minutes = [-6, -4, 4, 6];
    for (const off of minutes) await send(sinkAt(receiver.url), { nowMs: () => Date.now() + off * 60_000 });
    const verdicts = receiver.received.map((request) => {
      try {
        receiver.verify(request);
        return 'taken';
      } catch (error) {
        return String(error);
      }
    });
    expect(verdicts).toEqual([
      expect.stringMatching(/timestamp too old/),
      'taken',
      'taken',
      expect.stringMatching(/timestamp too new/),
    ]);
    await receiver.close();
  });

  test('verifies with either key during a rotation', async () => {
    const receiver = await startReceiver((response) => response.writeHead(200).end());
    await send(sinkAt(receiver.url, { keys: [KEY, OTHER_KEY] }));
    const [request] = receiver.received;
    if (request === undefined) throw new Error('nothing was received');
    expect(receiver.verify(request, KEY)).toEqual(receiver.verify(request, OTHER_KEY));
    await receiver.close();
  });
});

describe('answers', () => {
  type Case = readonly [status: number, headers: Record<string, string>, expected: Delivery];
  const cases: readonly Case[] = [
    [200, {}, { kind: 'delivered', status: 200 }],
    [202, {}, { kind: 'delivered', status: 202 }],
    [500, {}, { kind: 'failed', message: 'answered 500: what went wrong', retryAfterMs: null }],
    [
      429,
      { 'retry-after': '120' },
      { kind: 'failed', message: 'answered 429: what went wrong', retryAfterMs: 120_000 },
    ],
    [503, { 'retry-after': 'soon' }, { kind: 'failed', message: 'answered 503: what went wrong', retryAfterMs: null }],
    [401, {}, { kind: 'failed', message: 'answered 401: what went wrong', retryAfterMs: null }],
    [410, {}, { kind: 'gone', message: 'answered 410: what went wrong' }],
  ];
  for (const [status, headers, expected] of cases) {
    test(`${status} ${JSON.stringify(headers)}`, async () => {
      const receiver = await startReceiver((response) => response.writeHead(status, headers).end('what went wrong\n'));
      expect(await send(sinkAt(receiver.url))).toEqual(expected);
      await receiver.close();
    });
  }

  test('a redirect is a failure: its target hears nothing', async () => {
    const target = await startReceiver((response) => response.writeHead(200).end());
    const receiver = await startReceiver((response) => response.writeHead(307, { location: target.url }).end());
    expect(await send(sinkAt(receiver.url))).toEqual({
      kind: 'failed',
      message: `answered 307: a redirect to ${target.url} is not followed`,
      retryAfterMs: null,
    });
    expect(target.received).toEqual([]);
    await Promise.all([receiver.close(), target.close()]);
  });

  test('a date in Retry-After counts from now', async () => {
    const nowMs = Date.now();
    const date = new Date(nowMs + 60_000).toUTCString();
    const receiver = await startReceiver((response) => response.writeHead(503, { 'retry-after': date }).end());
    const delivery = await send(sinkAt(receiver.url), { nowMs: () => nowMs });
    expect(delivery.kind === 'failed' ? delivery.retryAfterMs : null).toBeGreaterThan(58_000);
    await receiver.close();
  });

  test('reads no more than 4 kB of a huge answer, whatever its status', async () => {
    for (const status of [200, 500]) {
      let sentBytes = 0;
      const receiver = await startReceiver((response) => {
        const chunk = Buffer.alloc(64 * 1024, 'x');
        response.writeHead(status, { 'content-length': String(2 ** 30) });
        const more = (): void => {
          while (!response.destroyed) {
            sentBytes += chunk.length;
            if (!response.write(chunk)) return;
          }
        };
        response.on('drain', more);
        more();
      });
      const delivery = await send(sinkAt(receiver.url));
      expect(delivery.kind).toBe(status === 200 ? 'delivered' : 'failed');
      if (delivery.kind === 'failed') expect(delivery.message.length).toBeLessThan(300);
      await receiver.close();
      expect(sentBytes).toBeLessThan(64 * 2 ** 20);
    }
  });

  test('does not wait for a receiver that never answers, or drips', async () => {
    const silent = await startReceiver(() => {});
    expect(await send(sinkAt(silent.url), { attemptMsMax: 100 })).toEqual({
      kind: 'failed',
      message: 'no answer in time',
      retryAfterMs: null,
    });
    await silent.close();
    for (const status of [200, 500]) {
      const dripping = await startReceiver((response) => {
        response.writeHead(status);
        const timer = setInterval(() => response.write('.'), 10);
        response.on('close', () => clearInterval(timer));
      });
      const delivery = await send(sinkAt(dripping.url), { attemptMsMax: 200 });
      expect(delivery).toMatchObject(
        status === 200 ? { kind: 'delivered' } : { message: expect.stringMatching(/^answered 500/) },
      );
      await dripping.close();
    }
  });

  test('says that nobody is there', async () => {
    const receiver = await startReceiver(() => {});
    await receiver.close();
    expect(await send(sinkAt(receiver.url))).toMatchObject({
      kind: 'failed',
      message: expect.stringMatching(/ECONNREFUSED/),
    });
  });

  test('ends at once when it is aborted', async () => {
    const silent = await startReceiver(() => {});
    const controller = new AbortController();
    const sending = openWebhook(sinkAt(silent.url), { nowMs: Date.now }).send(message, controller.signal);
    controller.abort();
    expect((await sending).kind).toBe('failed');
    await silent.close();
  });
});

describe('where a sink may be', () => {
  type Place = readonly [title: string, sink: WebhookSink, addresses: readonly string[], why: RegExp];
  const places: readonly Place[] = [
    ['a private address', sinkAt('https://sink.example/', { allowPrivate: false }), ['10.0.0.1'], /allowPrivate/],
    ['loopback', sinkAt('https://127.0.0.1/', { allowPrivate: false }), [], /allowPrivate/],
    ['loopback in disguise', sinkAt('https://0x7f.1/', { allowPrivate: false }), [], /127\.0\.0\.1, a private/],
    ['the metadata service', sinkAt('https://169.254.169.254/'), [], /where no sink may be/],
    ['IPv6 loopback', sinkAt('https://[::1]/', { allowPrivate: false }), [], /allowPrivate/],
    ['a mapped address', sinkAt('https://[::ffff:127.0.0.1]/'), [], /where no sink may be/],
    [
      'public and private',
      sinkAt('https://x.example/', { allowPrivate: false }),
      ['8.8.8.8', '10.0.0.1'],
      /10\.0\.0\.1/,
    ],
    ['plain http in public', sinkAt('http://sink.example/'), ['8.8.8.8'], /only https may be used/],
    ['no address', sinkAt('https://sink.example/'), [], /has no address/],
  ];
  for (const [title, sink, addresses, why] of places) {
    test(`not at: ${title}`, async () => {
      const resolve = async () => addresses.map((address) => ({ address, family: 4 as const }));
      const delivery = await send(sink, { resolve, attemptMsMax: 500 });
      expect(delivery).toMatchObject({ kind: 'failed', message: expect.stringMatching(why) });
    });
  }

  test('resolves once and connects to what was checked, under the original name', async () => {
    const receiver = await startReceiver((response) => response.writeHead(200).end());
    let lookups = 0;
    const resolve = async () => {
      lookups += 1;
      return [{ address: '127.0.0.1', family: 4 as const }];
    };
    const url = `http://sink.example:${receiver.port}/hook`;
    expect(await send(sinkAt(url), { resolve })).toEqual({ kind: 'delivered', status: 200 });
    expect(lookups).toBe(1);
    expect(receiver.received[0]?.headers.host).toBe(`sink.example:${receiver.port}`);
    await receiver.close();
  });

  test('uses no proxy of the environment', async () => {
    const receiver = await startReceiver((response) => response.writeHead(200).end());
    const before = { ...process.env };
    for (const name of ['http_proxy', 'HTTP_PROXY', 'https_proxy']) process.env[name] = 'http://127.0.0.1:1';
    process.env['NODE_USE_ENV_PROXY'] = '1';
    try {
      expect((await send(sinkAt(receiver.url))).kind).toBe('delivered');
    } finally {
      process.env = before;
      await receiver.close();
    }
  });

  const bad: readonly (readonly [string, Partial<WebhookSink>])[] = [
    ['http without allowPrivate', { url: 'http://127.0.0.1/', allowPrivate: false }],
    ['another protocol', { url: 'ftp://sink.example/' }],
    ['no URL', { url: 'sink' }],
    ['a password in the URL', { url: 'https://me:secret@sink.example/' }],
    ['no key', { keys: [] }],
    ['a key without its prefix', { keys: [Buffer.alloc(32).toString('base64')] }],
    ['a short key', { keys: [`whsec_${Buffer.alloc(8).toString('base64')}`] }],
    ['a key that is no base64', { keys: [`whsec_${'!'.repeat(44)}`] }],
  ];
  for (const [title, change] of bad) {
    test(`refuses a sink with ${title}, without showing the key`, () => {
      const open = () => openWebhook({ ...sinkAt('https://sink.example/'), ...change }, { nowMs: Date.now });
      expect(open).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
      expect(open).not.toThrow(/!!!!|secret|AAAA/);
    });
  }
});

type Certificate = { readonly key: string; readonly cert: string };

/** For `sink.example`, signed by itself; `from` and `to` as openssl writes moments. */
async function certificate(directory: string, from: string, to: string): Promise<Certificate> {
  const [key, cert, request, config] = ['key', 'cert', 'request', 'config'].map((name) => join(directory, name));
  const [extensions, database] = [join(directory, 'extensions'), join(directory, 'index')];
  if (key === undefined || cert === undefined || request === undefined || config === undefined) throw new Error('name');
  const policy = '[policy]\ncommonName=supplied\n';
  await writeFile(database, '');
  await writeFile(extensions, 'subjectAltName=DNS:sink.example\n');
  const lines = [`new_certs_dir=${directory}`, `database=${database}`, 'default_md=sha256', 'rand_serial=yes'];
  await writeFile(config, `[ca]\ndefault_ca=own\n[own]\n${lines.join('\n')}\npolicy=policy\n${policy}`);
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=sink.example'];
  execFileSync('openssl', ['req', ...kind, '-keyout', key, '-out', request], { stdio: 'ignore' });
  const times = ['-startdate', from, '-enddate', to];
  const files = ['-config', config, '-in', request, '-keyfile', key, '-out', cert, '-extfile', extensions];
  execFileSync('openssl', ['ca', '-batch', '-notext', '-selfsign', ...files, ...times], { stdio: 'ignore' });
  return { key: await readFile(key, 'utf8'), cert: await readFile(cert, 'utf8') };
}

type TlsReceiver = AsyncDisposable & { readonly port: number; readonly names: readonly unknown[] };

async function startTls(own: Certificate): Promise<TlsReceiver> {
  const names: unknown[] = [];
  const server = createTlsServer(own, (request, response) => {
    names.push((request.socket as unknown as { servername: unknown }).servername);
    response.writeHead(200).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    names,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const resolve = async () => [{ address: '127.0.0.1', family: 4 as const }];

describe('https', () => {
  test('checks the certificate against the name in the URL, and who signed it', async () => {
    await withDirectory(async (directory) => {
      const own = await certificate(directory, '20200101000000Z', '20991231000000Z');
      await using receiver = await startTls(own);
      const right = sinkAt(`https://sink.example:${receiver.port}/`, { ca: own.cert });
      const wrong = sinkAt(`https://other.example:${receiver.port}/`, { ca: own.cert });
      expect(await send(right, { resolve })).toEqual({ kind: 'delivered', status: 200 });
      expect(receiver.names).toEqual(['sink.example']);
      expect(await send(wrong, { resolve })).toMatchObject({
        kind: 'failed',
        message: expect.stringMatching(/other\.example/),
      });
      expect(await send(sinkAt(right.url), { resolve })).toMatchObject({
        kind: 'failed',
        message: 'the certificate of sink.example is self-signed; name its authority in `caFile`',
      });
      expect(receiver.names).toEqual(['sink.example']);
    });
  });

  test('says that a certificate has expired', async () => {
    await withDirectory(async (directory) => {
      const own = await certificate(directory, '20200101000000Z', '20200201000000Z');
      await using receiver = await startTls(own);
      const sink = sinkAt(`https://sink.example:${receiver.port}/`, { ca: own.cert });
      expect(await send(sink, { resolve })).toEqual({
        kind: 'failed',
        message: 'the certificate of sink.example has expired',
        retryAfterMs: null,
      });
      expect(receiver.names).toEqual([]);
    });
  });

  test('does not wait for a handshake that never ends', async () => {
    // It accepts, reads, and never says a word.
    const server = createServer((socket) => void socket.on('error', () => {}).resume());
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    const { port } = server.address() as AddressInfo;
    const sink = sinkAt(`https://sink.example:${port}/`);
    expect(await send(sink, { resolve, attemptMsMax: 100 })).toMatchObject({ message: 'no answer in time' });
    await new Promise((closed) => server.close(closed));
  });
});
