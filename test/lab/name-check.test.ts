import { execa } from 'execa';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { FenceDenial } from '../../src/core/ports/fence.ts';
import { helloOf, recordsOf, serverNameOf } from '../../src/checker/testing-hello.ts';
import { grantOf, nameGrant } from '../support/grants.ts';
import { until } from '../support/until.ts';
import { besideThis } from './fence-namespace.ts';
import { CHECK_PORT, GOOD, makeWorld, OTHER } from './fence-world.ts';
import type { Agent, World } from './fence-world.ts';
import type { RawProbe, RawResult } from './name-check-probe-script.ts';

/**
 * The name check between real packet rules, the real gate and its checker: an agent that has learned an address uses
 * it for something else. Verdicts are what the site saw, and packets that reached an address.
 */
const TLS_PORT = 8443;
const HTTP_PORT = 8080;
const WAIT = { deadlineMs: 20_000 };
const PORTS = [
  { port: 443, protocol: 'tcp', check: 'tls' },
  { port: 80, protocol: 'tcp', check: 'http' },
] as const;
const ACCESS_DENIED = Buffer.from('15030300020231', 'hex').toString('latin1');

type Seen = { readonly event: string; readonly name?: string; readonly path?: string; readonly bytes?: number };

let world: World;
let agent: Agent;
let stopSite = async (): Promise<void> => undefined;
let seen: Seen[] = [];
const folder = mkdtempSync(join(tmpdir(), 'rft-names-'));

beforeAll(async () => {
  world = await makeWorld();
  await startSite();
  await world.call({ call: 'install' });
  await world.call({ call: 'startGate' });
  agent = await world.addAgent('rnnnnnnnnnn01');
  const names = ['good.test', 'alias.test'].map((name) => nameGrant(name, { ports: PORTS }));
  await world.arm(agent, {
    names: [...names, nameGrant('wild.test', { wildcard: true, ports: PORTS })],
  });
  const results = await agent.probe([
    { probe: 'dns', server: agent.lease.gateway, name: 'good.test' },
    { probe: 'dns', server: agent.lease.gateway, name: 'alias.test' },
  ]);
  expect(results.map(({ ok }) => ok)).toEqual([true, true]);
});
afterAll(async () => {
  await world.remove();
  await stopSite();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(async () => {
  await world.call({ call: 'denials' });
  seen = [];
});

async function startSite(): Promise<void> {
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const subject = ['-subj', '/CN=good.test', '-addext', 'subjectAltName=DNS:good.test'];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  await execa('openssl', ['req', '-x509', ...curve, '-nodes', '-keyout', key, '-out', cert, '-days', '1', ...subject]);
  const setup = JSON.stringify({ tlsPort: TLS_PORT, httpPort: HTTP_PORT, key, cert });
  const script = besideThis('name-check-site-script.ts');
  const child = execa('nsenter', [`--net=${world.outside.path}`, process.execPath, script, setup], {
    reject: false,
    stdin: 'ignore',
    stderr: 'inherit',
    buffer: false,
  });
  stopSite = async () => {
    child.kill('SIGKILL');
    await child;
  };
  let ready = false;
  createInterface({ input: child.stdout }).on('line', (line) => {
    const event = JSON.parse(line) as Seen;
    if (event.event === 'ready') ready = true;
    else seen.push(event);
  });
  await until('the site is up', () => ready, WAIT);
  for (const [from, to] of [
    [443, TLS_PORT],
    [80, HTTP_PORT],
  ] as const) {
    const match = ['-i', 'down0', '-p', 'tcp', '--dport', String(from)];
    await world.outside.run('iptables', [
      '-t',
      'nat',
      '-A',
      'PREROUTING',
      ...match,
      '-j',
      'REDIRECT',
      '--to-ports',
      String(to),
    ]);
  }
}

async function raw(...probes: readonly RawProbe[]): Promise<readonly RawResult[]> {
  const script = besideThis('name-check-probe-script.ts');
  const { stdout } = await agent.namespace.run(process.execPath, [script, JSON.stringify(probes)], {
    timeoutMs: 50_000,
  });
  const [marker, ...lines] = stdout.split('\n');
  expect(marker).toBe('marker: the probe runs');
  return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as RawResult);
}

/** `rule destination:port`, each once, when there are at least as many as expected. */
async function denials(count: number): Promise<readonly string[]> {
  const all = new Set<string>();
  await until(
    `${count} denials`,
    async () => {
      for (const { denial } of (await world.call({ call: 'denials' })) as FenceDenial[]) {
        all.add(`${denial.rule} ${denial.destination}:${denial.port}`);
      }
      return all.size >= count;
    },
    WAIT,
  );
  return [...all].toSorted();
}

const names = (): readonly string[] =>
  seen.filter(({ event }) => event === 'name').map(({ name, path }) => `${name ?? ''}${path ?? ''}`);
const latin1 = (bytes: Buffer): string => bytes.toString('latin1');
const helloFor = (name: string | null): Buffer =>
  helloOf({
    extensions: name === null ? null : [serverNameOf(name), { type: 43, data: Buffer.from('020304', 'hex') }],
  });
const oneRecord = (hello: Buffer): string => latin1(recordsOf(hello, [hello.length]));
const s_client = (...args: readonly string[]) =>
  agent.namespace.run('openssl', ['s_client', '-connect', `${GOOD}:443`, ...args], {
    mayFail: true,
    input: 'Q\n',
    timeoutMs: 10_000,
  });
const curl = (...args: readonly string[]) =>
  agent.namespace.run('curl', ['-sS', '-m', '8', ...args], { mayFail: true });

test('lets real clients reach the name that they show, by TLS and by HTTP', async () => {
  const tls = await curl(
    '-k',
    '--http1.1',
    '-X',
    'GET',
    '--resolve',
    `good.test:443:${GOOD}`,
    '-o',
    '/dev/null',
    '-w',
    '%{ssl_verify_result}',
    'https://good.test/',
  );
  const shell = await s_client('-servername', 'good.test');
  const http = await curl('--resolve', `good.test:80:${GOOD}`, 'http://good.test/a', 'http://good.test/b');
  expect(http.stdout).toBe('hello from good.test/a\nhello from good.test/b');
  expect(shell.stdout).toContain('CN = good.test');
  expect(tls.stderr).not.toContain('SSL');
  expect(names()).toEqual(['good.test', 'good.test', 'good.test/a', 'good.test/b']);
  expect((await world.call({ call: 'denials' })) as FenceDenial[]).toEqual([]);
});

test('refuses another name at a learned address, and nothing arrives', async () => {
  const tls = await s_client('-servername', 'other.test');
  const curled = await curl('-k', '--connect-to', `other.test:443:${GOOD}:443`, 'https://other.test/');
  const http = await curl('-i', '--resolve', `other.test:80:${GOOD}`, 'http://other.test/');
  expect([tls.stderr, curled.stderr]).toEqual([
    expect.stringContaining('alert access denied'),
    expect.stringContaining('access denied'),
  ]);
  expect(http.stdout).toContain('403 Forbidden');
  expect(JSON.parse(http.stdout.slice(http.stdout.indexOf('{')))).toMatchObject({
    agent: agent.lease.address,
    destination: 'other.test:80',
    rule: 'check.name',
    line: 'other.test:80',
  });
  expect(await denials(2)).toEqual(['check.name other.test:443', 'check.name other.test:80']);
  expect(seen).toEqual([]);
});

test('refuses what shows no name or is no TLS, with the marks of its protocol', async () => {
  const noName = await s_client('-noservername');
  const ssh = await agent.namespace.run(
    'ssh',
    [
      '-p',
      '443',
      '-o',
      'BatchMode=yes',
      '-o',
      'StrictHostKeyChecking=no',
      '-o',
      'ConnectTimeout=5',
      `nobody@${GOOD}`,
      'true',
    ],
    { mayFail: true },
  );
  const [garbage, http] = await raw(
    { host: GOOD, port: 443, pieces: ['SSH-2.0-OpenSSH_9.2p1\r\n'] },
    { host: GOOD, port: 443, pieces: ['GET / HTTP/1.1\r\nHost: good.test\r\n\r\n'] },
  );
  expect(noName.stderr).toContain('alert access denied');
  expect(ssh.exitCode).not.toBe(0);
  expect([garbage?.received, garbage?.end, http?.received]).toEqual(['', 'end', '']);
  expect(await denials(2)).toEqual([`check.no-name ${GOOD}:443`, `check.protocol ${GOOD}:443`]);
  expect(seen).toEqual([]);
});

test('reads a hello however it is cut, and refuses one that takes too long or too much', async () => {
  const hello = helloFor('good.test');
  const whole = oneRecord(hello);
  const cuts = [1, 4, 5, 9, 43, 60].map((cut) => [whole.slice(0, cut), whole.slice(cut)]);
  const records = latin1(recordsOf(hello, [3, 50, hello.length - 53]));
  const answered = await raw(
    ...[...cuts, [records], whole.split('')].map((pieces) => ({
      host: GOOD,
      port: 443,
      pieces,
      pauseMs: pieces.length > 2 ? 1 : 30,
      enough: 1,
    })),
  );
  // The hello of the test has no key to agree on, so the site answers with an alert of its own: it has read it.
  expect(answered.map(({ end }) => end)).toEqual(answered.map(() => 'enough'));
  expect(answered.map(({ received }) => received.startsWith(ACCESS_DENIED))).toEqual(answered.map(() => false));
  expect(seen.filter(({ event }) => event === 'open')).toHaveLength(answered.length);
  seen = [];
  const large = helloOf({ extensions: [serverNameOf('good.test'), { type: 21, data: Buffer.alloc(17_000) }] });
  const [slow, big, evil] = await raw(
    { host: GOOD, port: 443, pieces: whole.split(''), pauseMs: 100 },
    { host: GOOD, port: 443, pieces: [latin1(recordsOf(large, [16_000, large.length - 16_000]))] },
    { host: GOOD, port: 443, pieces: oneRecord(helloFor('third.test')).split(''), pauseMs: 1 },
  );
  expect([slow?.received, big?.received, evil?.received]).toEqual([ACCESS_DENIED, ACCESS_DENIED, ACCESS_DENIED]);
  expect(slow?.ms).toBeLessThan(7_000);
  expect(await denials(3)).toEqual([`check.name third.test:443`, `check.size ${GOOD}:443`, `check.slow ${GOOD}:443`]);
  expect(seen).toEqual([]);
});

test('leads a forged name to the addresses of that name, wherever the packets were sent', async () => {
  const [direct] = await raw({ host: OTHER, port: 443, pieces: [oneRecord(helloFor('good.test'))] });
  expect([direct?.end, direct?.received]).toEqual(['reset', '']);
  // As if another listed name had led there: the packets may go, and yet the connection goes to good.test.
  await world.host.run('ipset', [
    'add',
    '-exist',
    'rf-checked',
    `${agent.lease.address},tcp:443,${OTHER}`,
    'timeout',
    '60',
  ]);
  const before = await world.seen(OTHER);
  const shell = await agent.namespace.run(
    'openssl',
    ['s_client', '-connect', `${OTHER}:443`, '-servername', 'good.test'],
    { mayFail: true, input: '' },
  );
  expect(shell.stdout).toContain('CN = good.test');
  expect([names(), (await world.seen(OTHER)) - before]).toEqual([['good.test'], 0]);
});

test('checks every request of a connection, and becomes no proxy', async () => {
  const good = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: good.test\r\n\r\n`;
  const evil = 'GET /evil HTTP/1.1\r\nHost: later.test\r\n\r\n';
  const to = { host: GOOD, port: 80 };
  const results = await raw(
    { ...to, pieces: [good('/1'), evil], pauseMs: 200 },
    { ...to, pieces: [`${good('/2')}${evil}`] },
    { ...to, pieces: ['CONNECT later.test:443 HTTP/1.1\r\nHost: good.test\r\n\r\n'] },
    { ...to, pieces: ['GET http://later.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n'] },
    {
      ...to,
      pieces: [
        `POST /3 HTTP/1.1\r\nHost: good.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${evil}`,
      ],
    },
    { ...to, pieces: ['SSH-2.0-OpenSSH_9.2p1\r\n'] },
  );
  const statuses = results.map(({ received, end }) => `${(received.match(/HTTP\/1\.1 (\d+)/g) ?? []).join()} ${end}`);
  expect(statuses).toEqual([
    'HTTP/1.1 200,HTTP/1.1 403 end',
    'HTTP/1.1 200,HTTP/1.1 403 end',
    'HTTP/1.1 403 end',
    'HTTP/1.1 403 end',
    'HTTP/1.1 403 end',
    ' end',
  ]);
  expect(names()).toEqual(['good.test/1', 'good.test/2']);
  expect(await denials(3)).toEqual([
    `check.name later.test:80`,
    `check.protocol ${GOOD}:80`,
    `check.request ${GOOD}:80`,
  ]);
});

test('lets a WebSocket through as one', async () => {
  const ask = 'GET /ws HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  const [tunnel] = await raw({ host: GOOD, port: 80, pieces: [ask, 'frames of any kind'], pauseMs: 100, enough: 90 });
  expect(tunnel?.received).toMatch(/^HTTP\/1\.1 101 [^]*\r\n\r\nframes of any kind$/);
  expect(names()).toEqual(['good.test/ws']);
});

test('keeps the checker out of reach by any other way', async () => {
  const whole = oneRecord(helloFor('good.test'));
  const [gateway] = await raw({ host: agent.lease.gateway, port: CHECK_PORT, pieces: [whole] });
  expect([gateway?.end, gateway?.received]).toEqual(['reset', '']);
  const local = await world.host.run(
    'timeout',
    ['2', 'openssl', 's_client', '-connect', `127.0.0.1:${CHECK_PORT}`, '-servername', 'good.test'],
    { mayFail: true, input: '' },
  );
  expect(local.exitCode).not.toBe(0);
  expect(seen).toEqual([]);
});

test('cuts what is open under a name that the profile no longer holds, and nothing else', async () => {
  const ask = (host: string): string =>
    `GET /${host} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`;
  const cut = raw({ host: GOOD, port: 80, pieces: [ask('good.test')] });
  const kept = raw({
    host: GOOD,
    port: 80,
    pieces: [ask('alias.test'), ...'still here'.split('')],
    pauseMs: 400,
    enough: 87,
  });
  await until('both are open', () => names().length === 2, WAIT);
  await world.call({
    call: 'change',
    grant: grantOf({ lease: agent.lease, names: [nameGrant('alias.test', { ports: PORTS })] }),
  });
  const [[gone], [open]] = await Promise.all([cut, kept]);
  expect([gone?.end, open?.end, open?.received.slice(-10)]).toEqual(['reset', 'enough', 'still here']);
  seen = [];
  const after = await raw({ host: GOOD, port: 443, pieces: [oneRecord(helloFor('good.test'))] });
  expect([after[0]?.received, seen]).toEqual([ACCESS_DENIED, []]);
});
