import { afterEach, beforeEach, expect, test } from 'vitest';
import type { FenceCounters, FenceDenial, FenceState } from '../../src/core/ports/fence.ts';
import type { NflogPacket } from '../../src/kernel/nflog.ts';
import { addressGrant, HTTPS, nameGrant } from '../support/grants.ts';
import { until } from '../support/until.ts';
import { GOOD, makeWorld, OTHER, POOL } from './fence-world.ts';
import type { Agent, World } from './fence-world.ts';

const RUN = 'rbbbbbbbbbbb1';
const NAMES = [nameGrant('good.test')];
const WRITTEN = [addressGrant(GOOD, [HTTPS])];
const IN_FORCE: FenceState = { kind: 'in-force' };

let world: World;

beforeEach(async () => {
  world = await makeWorld();
  await world.call({ call: 'install' });
  await world.call({ call: 'startGate' });
});
afterEach(async () => await world.remove());

const ask = (agent: Agent, name: string) => ({ probe: 'dns', server: agent.lease.gateway, name }) as const;
const toGood = { probe: 'tcp', host: GOOD, port: 443 } as const;
const flood = { probe: 'udp', host: OTHER, port: 443, count: 2_000, quiet: true } as const;

async function prefixes(): Promise<string[]> {
  const { packets } = (await world.call({ call: 'packets' })) as { packets: NflogPacket[] };
  return [...new Set(packets.map(({ prefix }) => prefix))];
}

async function state(): Promise<FenceState> {
  return (await world.call({ call: 'verify' })) as FenceState;
}

test('holds a run from its first packet, before anything was opened for it', async () => {
  const agent = await world.addAgent(RUN);
  const [blocked] = await agent.probe([flood]);
  expect(blocked?.ok).toBe(true);
  expect(await world.seen(OTHER)).toBe(0);
  expect(await prefixes()).toEqual(['rf:spoof']);
  await world.arm(agent, { addresses: WRITTEN });
  expect(await agent.probe([toGood])).toMatchObject([{ ok: true }]);
});

test('cuts a run off at its budget of bytes, reports it, and counts no more than it may send', async () => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { addresses: WRITTEN, egressBytesMax: 50_000 });
  const [small, big] = await agent.probe([
    { ...toGood, sendBytes: 10_000 },
    { ...toGood, sendBytes: 200_000 },
  ]);
  expect([small?.ok, big?.ok, big?.code]).toEqual([true, false, 'TIMEOUT']);
  const counters = (await world.call({ call: 'counters', runId: RUN })) as FenceCounters;
  expect(counters.egressBytes).toBeLessThanOrEqual(50_000);
  expect(counters.egressBytes).toBeGreaterThan(10_000);
  expect(await prefixes()).toEqual(['rf:budget']);
  // Arming once more, as a restarted daemon does, gives no second budget.
  await world.arm(agent, { addresses: WRITTEN, egressBytesMax: 50_000 });
  expect(await agent.probe([{ ...toGood, sendBytes: 10_000 }])).toMatchObject([{ ok: false }]);
});

test('ends an open flow when the run is disarmed, and the next run on the address inherits nothing', async () => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { names: NAMES });
  let connected = false;
  const held = agent.probe(
    [ask(agent, 'good.test'), { probe: 'hold', host: GOOD, port: 443, forMs: 3_000 }],
    (line) => {
      if (line === 'marker: connected') connected = true;
    },
  );
  await until('the flow is open', () => connected, { deadlineMs: 5_000 });
  await world.call({ call: 'disarm', runId: RUN });
  // A packet may be on its way while the sets change; none follows it.
  const before = await world.seen(GOOD);
  await held;
  expect(await world.seen(GOOD)).toBe(before);
  expect((await world.host.run('conntrack', ['-L', '-s', agent.lease.address])).stdout).toBe('');
  expect((await world.host.run('ipset', ['save'])).stdout).not.toContain(agent.lease.address);
  // The same address armed anew without that name: what was learned before is closed.
  await world.host.run('ipset', ['add', 'rf-bridge', `${agent.lease.subnet},${agent.lease.bridge}`]);
  expect(await agent.probe([toGood, ask(agent, 'good.test')])).toMatchObject([
    { code: 'ECONNREFUSED' },
    { code: 'TIMEOUT' },
  ]);
  expect(await world.seen(GOOD)).toBe(before);
});

test('gives the network out last that was freed last, and none that the host uses', async () => {
  const first = await world.addAgent('rccccccccccc1');
  await world.host.run('ip', ['link', 'add', 'foreign', 'type', 'bridge']);
  await world.host.run('ip', ['addr', 'add', '10.213.0.5/30', 'dev', 'foreign']);
  await world.host.run('ip', ['link', 'set', 'foreign', 'up']);
  await world.call({ call: 'disarm', runId: 'rccccccccccc1' });
  const subnets: unknown[] = [];
  for (const runId of ['rccccccccccc2', 'rccccccccccc3']) {
    subnets.push(((await world.call({ call: 'lease', runId })) as { subnet: string }).subnet);
  }
  expect([first.lease.subnet, ...subnets]).toEqual(['10.213.0.0/30', '10.213.0.8/30', '10.213.0.12/30']);
  await expect(world.call({ call: 'install' })).rejects.toThrow(
    `FENCE_FAILED: the pool ${POOL} overlaps 10.213.0.4/30 (foreign), which this host uses`,
  );
});

test('stays shut when every table is flushed, says so, and heals', async () => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { addresses: WRITTEN });
  expect(await state()).toEqual(IN_FORCE);
  for (const table of ['raw', 'mangle', 'filter']) await world.host.run('iptables', ['-t', table, '-F']);
  await world.host.run('iptables', ['-t', 'nat', '-F', 'PREROUTING']);
  const before = { good: await world.seen(GOOD), other: await world.seen(OTHER) };
  const results = await agent.probe([toGood, flood]);
  expect(results[0]?.ok).toBe(false);
  expect({ good: await world.seen(GOOD), other: await world.seen(OTHER) }).toEqual(before);
  const broken = await state();
  expect(broken.kind === 'broken' && broken.findings).toEqual(
    expect.arrayContaining([
      'iptables raw: our chain RF-SOURCE is empty or gone',
      'iptables mangle: the rule -A PREROUTING -i rf-+ -j RF-DECIDE is gone',
      'iptables nat: the rule -A PREROUTING -i rf-+ -j RF-LEAD is gone',
    ]),
  );
  await world.call({ call: 'install' });
  expect(await state()).toEqual(IN_FORCE);
  expect(await agent.probe([toGood])).toMatchObject([{ ok: true }]);
});

test.each([
  ['a rule above ours', ['iptables', '-t', 'mangle', '-I', 'PREROUTING', '-j', 'ACCEPT']],
  ['a rule inside a chain of ours', ['iptables', '-t', 'mangle', '-I', 'RF-DECIDE', '2', '-j', 'RF-PASS']],
  ['a missing jump', ['iptables', '-t', 'mangle', '-D', 'POSTROUTING', '-s', POOL, '-j', 'RF-EXIT']],
  ['IPv6 opened', ['ip6tables', '-t', 'raw', '-F']],
  ['a missing routing rule', ['ip', 'rule', 'del', 'priority', '213']],
  ['an empty routing table', ['ip', 'route', 'flush', 'table', '21300']],
  ['a changed sysctl', ['sysctl', '-qw', 'net.ipv4.conf.all.src_valid_mark=0']],
] as const)('notices %s, and puts it right', async (_, [tool, ...args]) => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { addresses: WRITTEN });
  expect(await state()).toEqual(IN_FORCE);
  await world.host.run(tool, args);
  expect((await state()).kind).toBe('broken');
  await world.call({ call: 'install' });
  expect(await state()).toEqual(IN_FORCE);
  expect(await agent.probe([toGood, { ...toGood, host: OTHER }])).toMatchObject([{ ok: true }, { ok: false }]);
});

test('leaks nothing while the rules are put in force again under a flood', async () => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { addresses: WRITTEN });
  const flooding = agent.probe(Array.from({ length: 8 }, () => flood));
  for (let round = 0; round < 4; round += 1) await world.call({ call: 'install' });
  expect(await flooding).toHaveLength(8);
  expect(await world.seen(OTHER)).toBe(0);
});

test('holds while its process is dead, and finds its runs again', async () => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { names: NAMES, addresses: WRITTEN });
  await world.restartHost();
  const results = await agent.probe([toGood, { ...toGood, host: OTHER }, ask(agent, 'good.test')]);
  expect(results).toMatchObject([{ ok: true }, { code: 'ECONNREFUSED' }, { ok: false }]);
  await world.call({ call: 'install' });
  await world.call({ call: 'startGate' });
  await world.arm(agent, { names: NAMES, addresses: WRITTEN });
  expect(await agent.probe([ask(agent, 'good.test'), toGood])).toMatchObject([{ ok: true }, { ok: true }]);
  const other = (await world.call({ call: 'lease', runId: 'rbbbbbbbbbbb2' })) as { address: string };
  expect(other.address).not.toBe(agent.lease.address);
  expect(await world.call({ call: 'collectGarbage', keep: ['rbbbbbbbbbbb2'] })).toEqual([RUN]);
  expect(await agent.probe([toGood])).toMatchObject([{ ok: false }]);
});

test('opens nothing while the gate is dead, and has it back with its grants', async () => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { names: NAMES });
  const { pid } = (await world.call({ call: 'gateHealth' })) as { pid: number };
  process.kill(pid, 'SIGKILL');
  await until(
    'the gate listens again',
    async () => {
      const health = (await world.call({ call: 'gateHealth' })) as { listening: boolean; restarts: number };
      return health.listening && health.restarts === 1;
    },
    { deadlineMs: 5_000 },
  );
  const results = await agent.probe([ask(agent, 'good.test'), toGood, ask(agent, 'other.test')]);
  expect(results).toMatchObject([{ ok: true }, { ok: true }, { ok: false }]);
  // The new gate has the same pipe to the warden.
  const denials = (await world.call({ call: 'denials' })) as FenceDenial[];
  expect(denials.map(({ address, denial }) => [address, denial.destination])).toEqual([
    [agent.lease.address, 'other.test'],
  ]);
});

test('leaves nothing behind', async () => {
  const agent = await world.addAgent(RUN);
  await world.arm(agent, { names: NAMES, addresses: WRITTEN, egressBytesMax: 1_000 });
  await expect(world.call({ call: 'uninstall' })).rejects.toThrow(
    'FENCE_FAILED: the fence cannot be removed while run',
  );
  await world.call({ call: 'disarm', runId: RUN });
  await world.call({ call: 'disarm', runId: RUN });
  await world.call({ call: 'uninstall' });
  const left = await Promise.all([
    world.host.run('iptables-save', []),
    world.host.run('ip6tables-save', []),
    world.host.run('ipset', ['list', '-n']),
    world.host.run('ip', ['rule']),
    world.host.run('sysctl', ['net.ipv4.conf.all.src_valid_mark']),
  ]);
  const text = left.map(({ stdout }) => stdout).join('\n');
  expect(text).not.toMatch(/RF-|rf-(?!\+ -j MASQUERADE)|DOCKER|21300|src_valid_mark = 1/);
});
