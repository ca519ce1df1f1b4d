import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { FenceCounters, FenceDenial } from '../../src/core/ports/fence.ts';
import type { NflogPacket } from '../../src/kernel/nflog.ts';
import { addressGrant, nameGrant } from '../support/grants.ts';
import { until } from '../support/until.ts';
import { GOOD, makeWorld, METADATA, OTHER, PRIVATE, RESOLVER, UPLINK } from './fence-world.ts';
import type { Agent, World } from './fence-world.ts';

let world: World;
let agent: Agent;
let neighbour: Agent;

beforeAll(async () => {
  world = await makeWorld();
  await world.call({ call: 'install' });
  await world.call({ call: 'startGate' });
  agent = await world.addAgent('raaaaaaaaaaa1');
  neighbour = await world.addAgent('raaaaaaaaaaa2');
  await world.arm(agent, {
    names: [
      nameGrant('good.test'),
      nameGrant('wild.test', { wildcard: true }),
      nameGrant('alias.test'),
      nameGrant('private.test'),
      nameGrant('mixed.test'),
      nameGrant('pool.test'),
      nameGrant('host.test'),
    ],
    addresses: [addressGrant(PRIVATE, [{ port: 5432, protocol: 'tcp' }])],
  });
  await world.arm(neighbour, { names: [nameGrant('good.test')] });
});
afterAll(async () => await world.remove());
beforeEach(async () => {
  await world.call({ call: 'packets' });
  await world.call({ call: 'denials' });
  world.questions();
});

/** What the feed said about packets since the test began, as `prefix destination:port/protocol`. */
async function feed(): Promise<string[]> {
  const { packets } = (await world.call({ call: 'packets' })) as { packets: NflogPacket[] };
  return [
    ...new Set(
      packets.map(
        ({ prefix, packet }) =>
          `${prefix} ${packet?.destination ?? ''}:${packet?.destinationPort ?? ''}/${packet?.protocol ?? ''}`,
      ),
    ),
  ];
}

async function denials(): Promise<string[]> {
  const lines = (await world.call({ call: 'denials' })) as FenceDenial[];
  return lines.map(({ address, denial }) => `${address} ${denial.rule} ${denial.destination}`);
}

const ask = (name: string, more: object = {}) =>
  ({ probe: 'dns', server: agent.lease.gateway, name, ...more }) as const;
const REFUSED = { ok: false, code: 'ECONNREFUSED' };

test('reaches an allowed name on its port, and the same address on no other', async () => {
  const results = await agent.probe([
    ask('good.test'),
    { probe: 'tcp', host: GOOD, port: 443 },
    { probe: 'tcp', host: GOOD, port: 22 },
    { probe: 'udp', host: GOOD, port: 443 },
  ]);
  expect(results).toMatchObject([
    { ok: true, code: 'NOERROR', answers: [GOOD], ttl: 5 },
    { ok: true, bytes: 5 },
    REFUSED,
    { ok: false },
  ]);
  expect(world.questions()).toEqual(['A good.test']);
  expect(await feed()).toEqual([`rf:deny ${GOOD}:22/tcp`, `rf:deny ${GOOD}:443/udp`]);
});

test('refuses a raw address nobody named, at once and with nothing arriving', async () => {
  const before = await world.seen(OTHER);
  const [tcp, udp] = await agent.probe([
    { probe: 'tcp', host: OTHER, port: 443 },
    { probe: 'udp', host: OTHER, port: 443 },
  ]);
  expect(tcp).toMatchObject(REFUSED);
  expect(tcp?.ms).toBeLessThan(500);
  expect(udp?.ok).toBe(false);
  expect(await world.seen(OTHER)).toBe(before);
  expect(await feed()).toEqual([`rf:deny ${OTHER}:443/tcp`, `rf:deny ${OTHER}:443/udp`]);
});

test('opens an address written in the profile, on its port only', async () => {
  const results = await agent.probe([
    { probe: 'tcp', host: PRIVATE, port: 5432 },
    { probe: 'tcp', host: PRIVATE, port: 443 },
    { probe: 'tcp', host: METADATA, port: 80 },
  ]);
  expect(results).toMatchObject([{ ok: true }, REFUSED, REFUSED]);
  expect(await world.seen(METADATA)).toBe(0);
  expect(await feed()).toEqual([`rf:never ${PRIVATE}:443/tcp`, `rf:never ${METADATA}:80/tcp`]);
});

test('keeps what one agent learned from another', async () => {
  await agent.probe([ask('good.test')]);
  await world.call({ call: 'packets' });
  const before = await world.seen(GOOD);
  expect(await neighbour.probe([{ probe: 'tcp', host: GOOD, port: 443 }])).toMatchObject([REFUSED]);
  expect(await world.seen(GOOD)).toBe(before);
});

test('refuses services of the host on every address of it', async () => {
  const served = world.host.run(process.execPath, ['-e', HOST_SERVICE], { timeoutMs: 15_000, mayFail: true });
  await until(
    'the host serves',
    async () => (await world.host.run('sh', ['-c', PORT_OPEN], { mayFail: true })).exitCode === 0,
    {
      deadlineMs: 5_000,
    },
  );
  const results = await agent.probe([
    { probe: 'tcp', host: agent.lease.gateway, port: 8080 },
    { probe: 'tcp', host: UPLINK, port: 8080 },
    { probe: 'tcp', host: neighbour.lease.gateway, port: 8080 },
    { probe: 'tcp', host: agent.lease.gateway, port: 5365 },
    { probe: 'udp', host: agent.lease.gateway, port: 5365 },
    { probe: 'tcp', host: neighbour.lease.address, port: 8080 },
  ]);
  expect(results).toMatchObject([REFUSED, REFUSED, REFUSED, REFUSED, { ok: false }, { ok: false }]);
  expect(await feed()).toEqual([
    `rf:host ${agent.lease.gateway}:8080/tcp`,
    `rf:host ${UPLINK}:8080/tcp`,
    `rf:host ${neighbour.lease.gateway}:8080/tcp`,
    `rf:host ${agent.lease.gateway}:5365/tcp`,
    `rf:host ${agent.lease.gateway}:5365/udp`,
    `rf:never ${neighbour.lease.address}:8080/tcp`,
  ]);
  const { exitCode, stdout } = await served;
  expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: '1' });
});

// Serves until the host itself has connected once through the loopback address, and tells how many connections came.
const HOST_SERVICE = `let count = 0;
  const server = require('net').createServer((socket) => { count += 1; socket.end(); }).listen(8080, '0.0.0.0');
  setTimeout(() => { process.stdout.write(String(count)); process.exit(0); }, 6000);`;
const PORT_OPEN =
  "echo >/dev/null; node -e \"require('net').connect(8080, '127.0.0.1').on('connect', () => process.exit(0)).on('error', () => process.exit(1))\"";

test('lets nothing in from outside or from a neighbour', async () => {
  const listening = agent.namespace.run(process.execPath, ['-e', AGENT_SERVICE], { timeoutMs: 15_000 });
  await world.outside.run('ip', ['route', 'replace', '10.213.0.0/16', 'via', UPLINK]);
  await until(
    'the agent listens',
    async () => (await agent.namespace.run('sh', ['-c', AGENT_OPEN], { mayFail: true })).exitCode === 0,
    {
      deadlineMs: 5_000,
    },
  );
  const knock = `require('net').connect(9000, '${agent.lease.address}').on('connect', () => process.exit(0)).on('error', () => process.exit(1)); setTimeout(() => process.exit(2), 1000)`;
  const fromOutside = await world.outside.run(process.execPath, ['-e', knock], { mayFail: true });
  const fromNeighbour = await neighbour.namespace.run(process.execPath, ['-e', knock], { mayFail: true });
  await world.outside.run('ip', ['route', 'del', '10.213.0.0/16']);
  expect([fromOutside.exitCode, fromNeighbour.exitCode]).not.toContain(0);
  expect((await listening).stdout).toBe('1');
});

const AGENT_SERVICE = HOST_SERVICE.replaceAll('8080', '9000').replace('6000', '5000');
const AGENT_OPEN = PORT_OPEN.replaceAll('8080', '9000');

test('drops a forged source, also one of a neighbour', async () => {
  const before = { good: await world.seen(GOOD), other: await world.seen(OTHER) };
  for (const forged of [neighbour.lease.address, '192.0.2.77']) {
    await agent.namespace.run('ip', ['addr', 'add', `${forged}/32`, 'dev', 'eth0']);
    await agent.probe([{ probe: 'udp', host: GOOD, port: 443, count: 20, from: forged, quiet: true }]);
    await agent.namespace.run('ip', ['addr', 'del', `${forged}/32`, 'dev', 'eth0']);
  }
  expect({ good: await world.seen(GOOD), other: await world.seen(OTHER) }).toEqual(before);
  expect(await feed()).toEqual([`rf:spoof ${GOOD}:443/udp`]);
});

test('denies IPv6 in every direction, on a host that forwards it', async () => {
  const { bridge } = agent.lease;
  await world.host.run('ip', ['-6', 'addr', 'add', 'fd00:1::1/64', 'dev', bridge, 'nodad']);
  await world.host.run('ip', ['-6', 'addr', 'add', '2001:db8::2/64', 'dev', 'up0', 'nodad']);
  await world.outside.run('ip', ['-6', 'addr', 'add', '2001:db8::1/64', 'dev', 'down0', 'nodad']);
  await world.outside.run('ip', ['-6', 'route', 'add', 'fd00:1::/64', 'via', '2001:db8::2']);
  await agent.namespace.run('ip', ['-6', 'addr', 'add', 'fd00:1::2/64', 'dev', 'eth0', 'nodad']);
  await agent.namespace.run('ip', ['-6', 'route', 'add', 'default', 'via', 'fd00:1::1']);
  // Neighbour discovery is dropped as well; with fixed neighbours the packets themselves are tried.
  const mac = async (namespace: typeof world.host, device: string) =>
    (await namespace.run('cat', [`/sys/class/net/${device}/address`])).stdout;
  const { stdout } = await world.host.run('ip', ['-o', 'link', 'show', bridge]);
  const bridgeMac = /link\/ether (\S+)/.exec(stdout)?.[1] ?? (await mac(world.host, bridge));
  await agent.namespace.run('ip', ['-6', 'neigh', 'add', 'fd00:1::1', 'lladdr', bridgeMac, 'dev', 'eth0']);
  const before = await world.seenSix();
  await agent.probe([
    { probe: 'udp', host: '2001:db8::1', port: 443, count: 20, quiet: true },
    { probe: 'udp', host: 'fd00:1::1', port: 53, count: 3, quiet: true },
  ]);
  expect(await world.seenSix()).toBe(before);
  expect(await feed()).toEqual(expect.arrayContaining(['rf:deny 2001:db8::1:443/udp', 'rf:deny fd00:1::1:53/udp']));
});

test('answers listed names only, and sends nothing else upstream', async () => {
  const results = await agent.probe([
    ask('GOOD.TeSt.'),
    ask('good.test', { transport: 'tcp' }),
    ask('a.b.wild.test'),
    ask('alias.test'),
    ask('other.test'),
    ask('wild.test'),
    ask('evilgood.test'),
    ask('good.test.other.test'),
    ask('good.test', { type: 'TXT' }),
    ask('good.test', { type: 'ANY' }),
    ask('good.test', { type: 'AAAA' }),
    ask('good.test', { type: 'UNKNOWN_65' }),
    { ...ask('other.test'), server: RESOLVER },
  ]);
  expect(results.map(({ code, answers }) => `${code.split(' ')[0] ?? ''} ${answers.join()}`.trim())).toEqual([
    `NOERROR ${GOOD}`,
    `NOERROR ${GOOD}`,
    `NOERROR ${GOOD}`,
    `NOERROR ${GOOD}`,
    'REFUSED',
    'REFUSED',
    'REFUSED',
    'REFUSED',
    'REFUSED',
    'REFUSED',
    'NOERROR',
    'NOERROR',
    'REFUSED',
  ]);
  expect(results[4]?.code).toBe('REFUSED ringfence egress: "other.test" is not in egress.allow');
  expect(new Set(world.questions())).toEqual(new Set(['A good.test', 'A a.b.wild.test', 'A alias.test']));
  const { address } = agent.lease;
  expect(new Set(await denials())).toEqual(
    new Set([
      `${address} egress other.test`,
      `${address} egress wild.test`,
      `${address} egress evilgood.test`,
      `${address} egress good.test.other.test`,
      `${address} dns.type good.test`,
    ]),
  );
});

test('drops answers that lead to private addresses, the pool or the host', async () => {
  const results = await agent.probe([
    ask('private.test'),
    ask('pool.test'),
    ask('mixed.test'),
    ask('host.test'),
    { probe: 'tcp', host: UPLINK, port: 443 },
  ]);
  expect(results.map(({ code, answers }) => `${code.split(' ')[0] ?? ''} ${answers.join()}`.trim())).toEqual([
    'NXDOMAIN',
    'NXDOMAIN',
    `NOERROR ${GOOD}`,
    'NXDOMAIN',
    'ECONNREFUSED',
  ]);
  expect(await denials()).toEqual([
    `${agent.lease.address} egress.never private.test`,
    `${agent.lease.address} egress.never pool.test`,
    `${agent.lease.address} egress.never host.test`,
  ]);
});

test('counts what is no DNS on port 53 as a denial', async () => {
  await agent.probe([
    { probe: 'bytes', server: RESOLVER, hex: Buffer.from('SSH-2.0-OpenSSH_9.2p1').toString('hex') },
    { probe: 'bytes', server: agent.lease.gateway, hex: '00' },
  ]);
  expect(new Set(await denials())).toEqual(new Set([`${agent.lease.address} dns.malformed .`]));
  expect(world.questions()).toEqual([]);
});

test('counts bytes both ways and every refused packet, however few are reported', async () => {
  const before = (await world.call({ call: 'counters', runId: agent.lease.runId })) as FenceCounters;
  await agent.probe([
    ask('good.test'),
    { probe: 'tcp', host: GOOD, port: 443, send: 'GET 100000' },
    { probe: 'udp', host: OTHER, port: 443, count: 1_000, quiet: true },
  ]);
  const after = (await world.call({ call: 'counters', runId: agent.lease.runId })) as FenceCounters;
  expect(after.ingressBytes - before.ingressBytes).toBeGreaterThan(100_000);
  expect(after.ingressBytes - before.ingressBytes).toBeLessThan(130_000);
  expect(after.egressBytes - before.egressBytes).toBeGreaterThan(40);
  expect(after.egressBytes - before.egressBytes).toBeLessThan(20_000);
  expect(after.deniedPackets - before.deniedPackets).toBe(1_000);
  const { packets, lost } = (await world.call({ call: 'packets' })) as { packets: NflogPacket[]; lost: number };
  expect(packets.length + lost).toBeGreaterThanOrEqual(100);
  expect(packets.length + lost).toBeLessThan(300);
});
