import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { FenceCounters, FenceDestination, FenceGrant } from '../../src/core/ports/fence.ts';
import type { NflogPacket } from '../../src/kernel/nflog.ts';
import { addressGrant, grantOf, HTTPS } from '../support/grants.ts';
import { until } from '../support/until.ts';
import { CHECK_PORT, GOOD, makeWorld, METADATA, OTHER, PRIVATE, RESOLVER } from './fence-world.ts';
import type { Agent, World } from './fence-world.ts';

/** What the kernel does with connections, on both of its interfaces: checked, counted, held for a person, changed. */
const PER_SECOND = 30;
const REFUSED = { ok: false, code: 'ECONNREFUSED' };
const toGood = { probe: 'tcp', host: GOOD, port: 443 } as const;
const toOther = { ...toGood, host: OTHER } as const;
/** No other test goes there, so that no late packet of one is taken for one of this. */
const FRESH = RESOLVER;
const toFresh = { ...toGood, host: FRESH } as const;

let world: World;
let lastRun = 0;

beforeAll(async () => {
  world = await makeWorld({ gate: 'stand-in', connectionsPerSecondMax: PER_SECOND });
  await world.call({ call: 'install' });
  await world.call({ call: 'startChecker' });
});
afterAll(async () => await world.remove());
beforeEach(async () => {
  await world.call({ call: 'packets' });
  await world.call({ call: 'gateCalls' });
});

async function armed(grant: Partial<FenceGrant> = {}): Promise<Agent> {
  lastRun += 1;
  const agent = await world.addAgent(`rddddddddd${String(lastRun).padStart(3, '0')}`);
  await world.arm(agent, grant);
  return agent;
}

/** Of this run: what was sent to another one before may still be on its way. */
async function packets({ lease }: Agent): Promise<NflogPacket[]> {
  const told = (await world.call({ call: 'packets' })) as { packets: NflogPacket[] };
  return told.packets.filter(({ packet }) => packet?.source === lease.address || packet?.destination === lease.address);
}

async function feed(agent: Agent): Promise<string[]> {
  const lines = (await packets(agent)).map(
    ({ prefix, packet }) =>
      `${prefix} ${packet?.destination ?? ''}:${packet?.destinationPort ?? ''}/${packet?.protocol ?? ''}`,
  );
  return [...new Set(lines)];
}

async function counters(agent: Agent): Promise<FenceCounters> {
  return (await world.call({ call: 'counters', runId: agent.lease.runId })) as FenceCounters;
}

async function add(set: string, entry: string): Promise<void> {
  await world.host.run('ipset', ['add', set, entry]);
}

test('leads a connection that must show a name to the checker, and nothing else there', async () => {
  const agent = await armed();
  const { address, gateway, runId } = agent.lease;
  for (const destination of [GOOD, PRIVATE]) await add('rf-checked', `${address},tcp:443,${destination}`);
  await add('rf-checked', `${address},udp:443,${OTHER}`);
  const before = await world.seen(GOOD);
  const results = await agent.probe([
    { ...toGood, send: 'GET 20000' },
    { ...toGood, port: 22 },
    { probe: 'udp', host: OTHER, port: 443 },
    { probe: 'tcp', host: PRIVATE, port: 443 },
    { probe: 'tcp', host: gateway, port: CHECK_PORT },
    { probe: 'udp', host: gateway, port: CHECK_PORT },
  ]);
  expect(results).toMatchObject([{ ok: true }, REFUSED, { ok: false }, REFUSED, REFUSED, { ok: false }]);
  expect(await world.seen(GOOD)).toBe(before);
  expect(await feed(agent)).toEqual([
    `rf:deny ${GOOD}:22/tcp`,
    `rf:deny ${OTHER}:443/udp`,
    `rf:never ${PRIVATE}:443/tcp`,
    `rf:host ${gateway}:${CHECK_PORT}/tcp`,
    `rf:host ${gateway}:${CHECK_PORT}/udp`,
  ]);
  const counted = await counters(agent);
  expect(counted.connections).toBe(1);
  expect(counted.ingressBytes).toBeGreaterThan(20_000);
  expect(counted.egressBytes).toBeGreaterThan(40);
  const [flow, ...more] = (await world.call({ call: 'destinations', runId })) as FenceDestination[];
  expect(more).toEqual([]);
  expect(flow).toEqual({
    address: GOOD,
    port: 443,
    protocol: 'tcp',
    egressBytes: counted.egressBytes,
    packets: flow?.packets,
  });
  // Nobody else reaches it, not even the host itself.
  const knock = `require('net').connect(${CHECK_PORT}, '127.0.0.1').on('connect', () => process.exit(0)); setTimeout(() => process.exit(2), 500)`;
  expect((await world.host.run(process.execPath, ['-e', knock], { mayFail: true })).exitCode).toBe(2);
});

test('drops what should be checked when nothing leads it to the checker', async () => {
  const agent = await armed();
  await add('rf-checked', `${agent.lease.address},tcp:443,${GOOD}`);
  const before = await world.seen(GOOD);
  await world.host.run('iptables', ['-t', 'nat', '-F', 'PREROUTING']);
  const [withRouting] = await agent.probe([toGood]);
  await world.host.run('ip', ['rule', 'del', 'priority', '213']);
  const [withoutRouting] = await agent.probe([toGood]);
  await world.call({ call: 'install' });
  const [led] = await agent.probe([toGood]);
  expect([withRouting?.ok, withoutRouting?.ok, led?.ok]).toEqual([false, false, true]);
  expect(await world.seen(GOOD)).toBe(before);
});

test('cuts what comes in at its budget, and says on which bridge', async () => {
  const agent = await armed({ addresses: [addressGrant(GOOD, [HTTPS])], ingressBytesMax: 50_000 });
  const [small, big] = await agent.probe([
    { ...toGood, send: 'GET 20000' },
    { ...toGood, send: 'GET 500000' },
  ]);
  expect([small?.ok, big?.ok]).toEqual([true, false]);
  const counted = await counters(agent);
  expect(counted.ingressBytes).toBeGreaterThan(20_000);
  expect(counted.ingressBytes).toBeLessThanOrEqual(50_000);
  const told = await packets(agent);
  expect(new Set(told.map(({ prefix }) => prefix))).toEqual(new Set(['rf:ingress']));
  const { stdout } = await world.host.run('ip', ['-o', 'link', 'show', agent.lease.bridge]);
  expect(told[0]?.outputDevice).toBe(Number(stdout.split(':')[0]));
  expect(told[0]?.packet?.destination).toBe(agent.lease.address);
  // The checker’s answers are bytes that come in as well.
  const checked = await armed({ ingressBytesMax: 50_000 });
  await add('rf-checked', `${checked.lease.address},tcp:443,${GOOD}`);
  expect(await checked.probe([{ ...toGood, send: 'GET 500000' }])).toMatchObject([{ ok: false }]);
  expect((await counters(checked)).ingressBytes).toBeLessThanOrEqual(50_000);
});

test('lets a run make the connections of its budget, each counted once, and refuses the next', async () => {
  const agent = await armed({ addresses: [addressGrant(GOOD, [HTTPS])], connectionsMax: 5 });
  const [burst, udp] = await agent.probe([
    { probe: 'burst', host: GOOD, port: 443, count: 8, atOnce: 1 },
    { probe: 'udp', host: OTHER, port: 443 },
  ]);
  expect(burst).toMatchObject({ bytes: 5, code: 'ECONNREFUSED,OPEN' });
  expect(udp?.ok).toBe(false);
  expect((await counters(agent)).connections).toBe(5);
  expect(await feed(agent)).toEqual([`rf:conns ${GOOD}:443/tcp`, `rf:deny ${OTHER}:443/udp`]);
});

test('counts a first packet that is sent again as the same connection', async () => {
  const udp = { port: 9999, protocol: 'udp' } as const;
  const agent = await armed({ addresses: [addressGrant(GOOD, [udp])] });
  const before = await world.seen(GOOD);
  // Nobody answers on this port, so the connection stays new.
  await world.outside.run('iptables', ['-A', 'INPUT', '-p', 'udp', '--dport', '9999', '-j', 'DROP']);
  await agent.probe([{ probe: 'udp', host: GOOD, port: 9999, count: 20, quiet: true }]);
  // A late packet of a connection before may be among them; none of the twenty is missing.
  expect((await world.seen(GOOD)) - before).toBeGreaterThanOrEqual(20);
  expect((await counters(agent)).connections).toBe(1);
});

test('refuses more connections in a second than any run may make, and says so', async () => {
  const agent = await armed({ addresses: [addressGrant(GOOD, [HTTPS])] });
  const [burst] = await agent.probe([{ probe: 'burst', host: GOOD, port: 443, count: 200, atOnce: 200 }]);
  expect(burst?.code).toBe('ECONNREFUSED,OPEN');
  expect(burst?.bytes).toBeGreaterThanOrEqual(PER_SECOND * 2);
  expect(burst?.bytes).toBeLessThan(180);
  expect(await feed(agent)).toEqual([`rf:rate ${GOOD}:443/tcp`]);
  expect((await counters(agent)).connections).toBe(burst?.bytes);
});

const request = (address: string, port = 443) =>
  ({ kind: 'address', address, port, protocol: 'tcp', rule: 'asked' }) as const;

test('holds what a person is asked about, opens what is approved, refuses what is denied', async () => {
  const wide = addressGrant('198.51.100.0/24', [HTTPS, { port: 80, protocol: 'tcp' }], { ask: true });
  const never = [PRIVATE, METADATA].map((address) => addressGrant(address, [HTTPS], { ask: true }));
  const agent = await armed({ addresses: [wide, ...never] });
  const { runId, address } = agent.lease;
  const before = await world.seen(FRESH);
  expect(await agent.probe([toFresh, { probe: 'tcp', host: PRIVATE, port: 443 }])).toMatchObject([
    { code: 'TIMEOUT' },
    REFUSED,
  ]);
  expect(await world.seen(FRESH)).toBe(before);
  expect(await feed(agent)).toEqual([`rf:ask ${FRESH}:443/tcp`, `rf:never ${PRIVATE}:443/tcp`]);

  const waiting = agent.probe([{ probe: 'hold', host: FRESH, port: 443, forMs: 4_000 }]);
  await until('the connection waits', async () => (await feed(agent)).includes(`rf:ask ${FRESH}:443/tcp`), {
    deadlineMs: 3_000,
  });
  await world.call({ call: 'approve', runId, request: request(FRESH), forMs: 60_000 });
  const [held] = await waiting;
  expect(held?.bytes).toBeGreaterThan(0);
  expect(await agent.probe([toFresh, { ...toFresh, port: 80 }])).toMatchObject([{ ok: true }, { code: 'TIMEOUT' }]);

  await world.call({ call: 'deny', runId, request: request(OTHER) });
  expect(await agent.probe([toOther])).toMatchObject([REFUSED]);
  await world.call({ call: 'approve', runId, request: request(OTHER), forMs: 60_000 });
  expect(await agent.probe([toOther])).toMatchObject([{ ok: true }]);

  for (const [what, why] of [
    [PRIVATE, 'it is in 10.0.0.0/8 (private), which nobody can open'],
    [METADATA, 'it is in 169.254.0.0/16'],
    ['203.0.113.9', 'no address of `egress.ask` of the run holds it'],
  ] as const) {
    const approval = world.call({ call: 'approve', runId, request: request(what), forMs: 60_000 });
    await expect(approval).rejects.toThrow(`FENCE_FAILED: ${what}:443/tcp cannot be approved: ${why}`);
  }
  const name = { kind: 'name', name: 'good.test', ports: [HTTPS], rule: 'good.test' } as const;
  await world.call({ call: 'gateCalls' });
  await world.call({ call: 'approve', runId, request: name, forMs: 5_000 });
  await world.call({ call: 'deny', runId, request: name });
  expect(await world.call({ call: 'gateCalls' })).toEqual([
    ['decide', address, 'good.test', { forMs: 5_000 }],
    ['decide', address, 'good.test', null],
  ]);
});

test('changes the grant of a live run: what it loses is cut, what it keeps goes on, and budgets count on', async () => {
  const both = [addressGrant(GOOD, [HTTPS]), addressGrant(OTHER, [HTTPS])];
  const agent = await armed({ addresses: both, egressBytesMax: 100_000 });
  const hold = (host: string) => ({ probe: 'hold', host, port: 443, forMs: 2_500 }) as const;
  let opened = 0;
  const note = (line: string): void => {
    if (line === 'marker: connected') opened += 1;
  };
  const [good, other] = [agent.probe([hold(GOOD)], note), agent.probe([hold(OTHER)], note)];
  await until('both flows are open', () => opened === 2, { deadlineMs: 5_000 });
  const after = grantOf({ lease: agent.lease, addresses: [addressGrant(GOOD, [HTTPS])], egressBytesMax: 60_000 });
  // What carries data: the host itself may answer a late packet of the internet with a reset.
  const data = ['-p', 'tcp', '-m', 'tcp', '--tcp-flags', 'PSH', 'PSH'];
  await world.outside.run('iptables', ['-t', 'raw', '-I', 'PREROUTING', '-d', `${OTHER}/32`, ...data]);
  await world.call({ call: 'change', grant: after });
  const seen = await world.seen(OTHER);
  expect((await good)[0]).toMatchObject({ ok: true, code: 'HELD' });
  expect((await other)[0]?.ok).toBe(false);
  expect(await world.seen(OTHER)).toBe(seen);
  expect(await agent.probe([toGood, toOther])).toMatchObject([{ ok: true }, REFUSED]);
  // What was used before the change is used after it.
  const used = (await counters(agent)).egressBytes;
  expect(used).toBeGreaterThan(1_000);
  expect(await agent.probe([{ ...toGood, sendBytes: 60_000 }])).toMatchObject([{ ok: false }]);
  expect((await counters(agent)).egressBytes).toBeLessThanOrEqual(60_000);
  // And a wider grant needs no restart.
  await world.call({ call: 'change', grant: { ...after, addresses: both, egressBytesMax: null } });
  expect(await agent.probe([{ ...toGood, sendBytes: 60_000 }, toOther])).toMatchObject([{ ok: true }, { ok: true }]);
  expect(await world.call({ call: 'verify' })).toEqual({ kind: 'in-force' });
});

test('silences a run whose grant cannot be changed whole', async () => {
  const agent = await armed({ addresses: [addressGrant(GOOD, [HTTPS])] });
  expect(await agent.probe([toGood])).toMatchObject([{ ok: true }]);
  await world.call({ call: 'failGate' });
  const change = world.call({ call: 'change', grant: grantOf({ lease: agent.lease }) });
  await expect(change).rejects.toThrow(
    /FENCE_FAILED: the grant of run \w+ could not be changed, and the run is silenced/,
  );
  expect(await agent.probe([toGood])).toMatchObject([{ ok: false, code: 'TIMEOUT' }]);
});
