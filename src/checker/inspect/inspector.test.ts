import { X509Certificate } from 'node:crypto';
import { request as requestPlain } from 'node:http';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, type ConnectionOptions } from 'node:tls';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { http2Site, httpSite, httpsSite, NAME, setUp, siteContext, SOURCE, type Rig } from './testing.ts';

let rig: Rig | null = null;
let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ringfence-inspect-'));
});
afterEach(async () => {
  await rig?.close();
  rig = null;
  await rm(folder, { recursive: true });
});

const COMMAND_MS = 30_000;

async function curl(to: Rig, path: string, ...more: readonly string[]) {
  await writeFile(join(folder, 'ca.pem'), to.ca);
  const where = ['--connect-to', `${NAME}::127.0.0.1:${to.port}`, '--cacert', join(folder, 'ca.pem')];
  const args = ['-sS', '--max-time', '20', ...where, ...more, `https://${NAME}:${to.sitePort}${path}`];
  return await execa('curl', args, { reject: false, timeout: COMMAND_MS, env: { no_proxy: '*' } });
}

async function shake(to: Rig, options: ConnectionOptions): Promise<string> {
  return await new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port: to.port, servername: NAME, ca: to.ca, ...options });
    socket.once('secureConnect', () => {
      resolve('secured');
      socket.destroy();
    });
    socket.once('error', (error: Error & { code?: string }) => resolve(error.code ?? error.message));
    socket.once('close', () => resolve('closed'));
  });
}

const hello = () => httpsSite((_incoming, response) => response.end('hello'));

describe('the certificates', () => {
  test('are what openssl accepts in its strictest mode, for this name and no other', async () => {
    rig = await setUp({ site: hello() });
    await writeFile(join(folder, 'ca.pem'), rig.ca);
    const client = async (name: string) =>
      await execa(
        'openssl',
        `s_client -connect 127.0.0.1:${rig?.port ?? 0} -servername ${NAME} -verify_return_error -x509_strict -brief`
          .split(' ')
          .concat('-verify_hostname', name, '-CAfile', join(folder, 'ca.pem')),
        { reject: false, input: '', timeout: COMMAND_MS, all: true },
      );
    expect((await client(NAME)).all).toContain('Verification: OK');
    expect((await client('other.example.com')).all).toContain('hostname mismatch');
  });

  test('of an authority can sign names and nothing further, and live as long as they must', async () => {
    rig = await setUp({ site: hello() });
    const ca = new X509Certificate(rig.ca);
    expect([ca.ca, ca.subject]).toEqual([true, 'CN=Ringfence rtest00000000']);
    const leaf = await new Promise<X509Certificate | undefined>((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port: rig?.port ?? 0, servername: NAME, ca: rig?.ca ?? '' }, () => {
        resolve(socket.getPeerX509Certificate());
        socket.destroy();
      });
      socket.once('error', reject);
    });
    expect(leaf?.subjectAltName).toBe(`DNS:${NAME}`);
    expect(leaf?.ca).toBe(false);
    expect(leaf?.verify(ca.publicKey)).toBe(true);
    const lifeMs = Date.parse(leaf?.validTo ?? '') - Date.parse(leaf?.validFrom ?? '');
    expect(lifeMs).toBeLessThanOrEqual(25 * 3_600_000);
    await writeFile(join(folder, 'ca.pem'), rig.ca);
    const { stdout } = await execa('openssl', ['x509', '-in', join(folder, 'ca.pem'), '-noout', '-text']);
    expect(stdout).toMatch(/CA:TRUE, pathlen:0/);
  });

  test('stay the same for a run, and are another authority for the next one at that address', async () => {
    rig = await setUp({ site: hello() });
    expect(await rig.inspector.authority(SOURCE, 'rtest00000000')).toBe(rig.ca);
    expect(await rig.inspector.authority(SOURCE, 'rother0000000')).not.toBe(rig.ca);
  });
});

describe('real clients', () => {
  test.each([
    ['HTTP/1.1', ['--http1.1'], hello],
    [
      'HTTP/2',
      ['--http2'],
      () =>
        http2Site((site) => site.on('stream', (stream) => (stream.respond({ ':status': 200 }), stream.end('hello')))),
    ],
    ['no ALPN at all', ['--no-alpn'], hello],
    ['TLS 1.2', ['--tls-max', '1.2'], hello],
  ] as const)('curl with %s reads what is listed and is told what is not', async (_what, options, site) => {
    rig = await setUp({ site: site(), requests: ['GET /v1/*'] });
    expect(await curl(rig, '/v1/x', ...options)).toMatchObject({ stdout: 'hello', exitCode: 0 });
    const refused = await curl(rig, '/v1/x', '-X', 'POST', '-w', '%{http_code}', ...options);
    expect(refused.stdout).toMatch(/POST \/v1\/x is in no line of requests[^]*403$/);
    expect(rig.denials).toEqual([{ rule: 'check.request', explanation: 'POST /v1/x is in no line of requests' }]);
  });

  test('a client that does not believe the authority is a clear denial', async () => {
    rig = await setUp({ site: hello() });
    const { exitCode, stderr } = await curl({ ...rig, ca: await otherAuthority(rig) }, '/');
    expect([exitCode, stderr]).toEqual([60, expect.stringMatching(/certificate/) as string]);
    await expect
      .poll(() => rig?.denials)
      .toEqual([
        {
          rule: 'check.protocol',
          explanation: expect.stringMatching(/^the client refused the inspection certificate/) as string,
        },
      ]);
  });

  test('a client that offers another protocol only is refused before the name is reached', async () => {
    let reached = 0;
    const site = hello();
    site.on('connection', () => {
      reached += 1;
    });
    rig = await setUp({ site });
    expect(await shake(rig, { ALPNProtocols: ['smtp'] })).not.toBe('secured');
    expect(reached).toBe(0);
    expect(rig.denials).toEqual([
      { rule: 'check.request', explanation: 'the client offers neither HTTP/1.1 nor HTTP/2' },
    ]);
  });
});

async function otherAuthority(of: Rig): Promise<string> {
  return await of.inspector.authority('10.213.0.6', 'rother0000000');
}

describe('a name that cannot be reached as itself', () => {
  test.each([
    [
      'is for another name',
      () => siteContext('other.example.com'),
      /does not prove the name: Hostname\/IP does not match/,
    ],
    [
      'has run out',
      () => siteContext(NAME, Date.now() - 30 * 86_400_000),
      /does not prove the name: certificate has expired/,
    ],
  ])('its certificate %s', async (_what, context, explanation) => {
    const seen: string[] = [];
    const site = httpsSite((incoming, response) => {
      seen.push(incoming.url ?? '');
      response.end('secret');
    }, context());
    rig = await setUp({ site });
    for (const version of ['--http1.1', '--http2']) {
      const answer = await curl(rig, '/', version, '-w', '%{http_code}');
      expect(answer.stdout).toMatch(/502$/);
      expect(answer.stdout).toMatch(explanation);
    }
    expect(seen).toEqual([]);
    expect(rig.denials).toHaveLength(2);
    expect(rig.denials[0]).toEqual({
      rule: 'check.upstream',
      explanation: expect.stringMatching(explanation) as string,
    });
  });

  test('nobody whom the host trusts has signed it', async () => {
    rig = await setUp({ site: hello(), upstreamCa: [] });
    const answer = await curl(rig, '/', '-w', '%{http_code}');
    expect(answer.stdout).toMatch(/unable to (?:verify|get)[^]*502$/);
    expect(rig.denials.map(({ rule }) => rule)).toEqual(['check.upstream']);
  });

  test('it does not answer: told, and no denial', async () => {
    rig = await setUp({ site: hello() });
    const { port, ca, sitePort, denials } = rig;
    await rig.close();
    rig = await setUp({ site: createServer((socket) => socket.destroy()) });
    expect([port, ca, sitePort, denials].length).toBe(4);
    const answer = await curl(rig, '/', '-w', '%{http_code}');
    expect(answer.stdout).toMatch(/502$/);
    expect(rig.denials).toEqual([]);
  });
});

describe('plain HTTP', () => {
  test('goes by the same rules, without an authority', async () => {
    const seen: string[] = [];
    rig = await setUp({
      site: httpSite((incoming, response) => {
        seen.push(`${incoming.method} ${incoming.url} ${incoming.headers.host}`);
        response.end('hello');
      }),
      protocol: 'http',
      requests: ['GET /v1/*'],
      withoutAuthority: true,
    });
    const { port, sitePort } = rig;
    const get = async (path: string): Promise<number> =>
      await new Promise((resolve, reject) => {
        requestPlain({ host: '127.0.0.1', port, path, headers: { Host: NAME } }, (answer) => {
          answer.resume();
          answer.on('end', () => resolve(answer.statusCode ?? 0));
        })
          .on('error', reject)
          .end();
      });
    expect([await get('/v1/x'), await get('/v2/x')]).toEqual([200, 403]);
    expect(seen).toEqual([`GET /v1/x ${NAME}:${sitePort}`]);
  });
});

describe('what is held', () => {
  test('nothing once clients are gone, and nothing of a run that is forgotten', async () => {
    rig = await setUp({ site: hello() });
    await curl(rig, '/');
    await expect.poll(() => rig?.held()).toBe(0);
    const socket = connect({ host: '127.0.0.1', port: rig.port, servername: NAME, ca: rig.ca });
    await new Promise((resolve, reject) => {
      socket.once('secureConnect', resolve);
      socket.once('error', reject);
    });
    expect(rig.held()).toBe(1);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    rig.inspector.forget(SOURCE);
    await closed;
    await expect.poll(() => rig?.held()).toBe(0);
  });

  test('a run without an authority is refused with an alert', async () => {
    rig = await setUp({ site: hello(), withoutAuthority: true });
    expect(await shake(rig, {})).toBe('ERR_SSL_TLSV1_ALERT_ACCESS_DENIED');
    expect(rig.denials).toEqual([
      { rule: 'check.request', explanation: expect.stringMatching(/no certificate authority/) as string },
    ]);
  });

  test('more connections than a run may have are refused, and one that ends makes room', async () => {
    rig = await setUp({ site: hello(), connectionsMax: 1 });
    const { port, ca } = rig;
    const socket = connect({ host: '127.0.0.1', port, servername: NAME, ca });
    await new Promise((resolve, reject) => {
      socket.once('secureConnect', resolve);
      socket.once('error', reject);
    });
    expect(await shake(rig, {})).toBe('ERR_SSL_TLSV1_ALERT_ACCESS_DENIED');
    socket.destroy();
    await expect.poll(() => rig?.held()).toBe(0);
    expect(await shake(rig, {})).toBe('secured');
  });
});
