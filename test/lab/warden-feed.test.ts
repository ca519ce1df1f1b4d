import { afterAll, beforeAll, expect, it } from 'vitest';
import { FENCE_PREFIXES, FENCE_SETS } from '../../src/core/fence-names.ts';
import type { WardenReport } from '../../src/core/ports/warden.ts';
import { besideThis, makeNamespace } from './fence-namespace.ts';
import type { Namespace } from './fence-namespace.ts';
import type { FeedScriptInput, FeedScriptOutput } from './warden-feed-script.ts';

/** Rules of the shape that the fence has, reduced to what the warden reads: refused packets, silence and counters. */
const GROUP = 71;
const BRIDGE = 'rf-wardentest';
const SUBNET = '10.213.7.0/30';
const ADDRESS = '10.213.7.2';
const FORBIDDEN = '198.51.100.9';
const OPEN = '198.51.100.1';
/** The host's own too, but nothing that it answers comes in. */
const MUTE = '198.51.100.2';
const OTHERS = ['198.51.100.10', '198.51.100.11', '198.51.100.12'];

let host: Namespace;
let agent: Namespace;

beforeAll(async () => {
  host = await makeNamespace('whost');
  agent = await makeNamespace('wagent');
  const ip = (args: string): Promise<unknown> => host.run('ip', args.split(' '));
  await ip(`link add ${BRIDGE} type bridge`);
  await ip(`addr add 10.213.7.1/30 dev ${BRIDGE}`);
  await ip(`link set ${BRIDGE} up`);
  await ip(`link add veth-w type veth peer name eth0 netns ${agent.name}`);
  await ip(`link set veth-w master ${BRIDGE} up`);
  // The open address is the host's own: what reaches it needs no forwarding and is answered.
  for (const address of [OPEN, MUTE]) await ip(`addr add ${address}/32 dev lo`);
  for (const args of [`addr add ${ADDRESS}/30 dev eth0`, 'link set eth0 up', 'route add default via 10.213.7.1']) {
    await agent.run('ip', args.split(' '));
  }
  await host.run('ipset', ['restore'], {
    input: [
      `create ${FENCE_SETS.bridge} hash:net,iface`,
      `create ${FENCE_SETS.egress} hash:ip counters`,
      `create ${FENCE_SETS.ingress} hash:ip counters`,
      `create ${FENCE_SETS.connections} hash:ip counters`,
      '',
    ].join('\n'),
  });
  const log = (prefix: string): string =>
    `-j NFLOG --nflog-group ${GROUP} --nflog-prefix ${prefix} --nflog-threshold 1`;
  const rules = [
    `-t raw -A PREROUTING -i rf-+ -m set ! --match-set ${FENCE_SETS.bridge} src,src ${log(FENCE_PREFIXES.spoof)}`,
    `-t raw -A PREROUTING -i rf-+ -m set ! --match-set ${FENCE_SETS.bridge} src,src -j DROP`,
    `-t mangle -A PREROUTING -i rf-+ -m set --match-set ${FENCE_SETS.egress} src`,
    `-t mangle -A PREROUTING -i rf-+ -m conntrack --ctstate NEW -m set --match-set ${FENCE_SETS.connections} src`,
    ...[
      [81, FENCE_PREFIXES.budget],
      [82, FENCE_PREFIXES.ask],
      [83, FENCE_PREFIXES.connections],
    ].flatMap(([port, prefix]) => [
      `-t mangle -A PREROUTING -i rf-+ -d ${FORBIDDEN} -p tcp --dport ${port} ${log(String(prefix))}`,
      `-t mangle -A PREROUTING -i rf-+ -d ${FORBIDDEN} -p tcp --dport ${port} -j DROP`,
    ]),
    ...[FORBIDDEN, ...OTHERS].flatMap((address) => [
      `-t mangle -A PREROUTING -i rf-+ -d ${address} -p tcp ${log(FENCE_PREFIXES.deny)}`,
      `-t mangle -A PREROUTING -i rf-+ -d ${address} -j DROP`,
    ]),
    `-t mangle -A POSTROUTING -o rf-+ -s ${MUTE} ${log(FENCE_PREFIXES.ingress)}`,
    `-t mangle -A POSTROUTING -o rf-+ -s ${MUTE} -j DROP`,
  ];
  for (const rule of rules) await host.run('iptables', ['-w', ...rule.split(' ')]);
});
afterAll(async () => {
  await agent.remove();
  await host.remove();
});

async function perform(
  options: Pick<FeedScriptInput, 'script' | 'denials'> & Partial<FeedScriptInput>,
): Promise<FeedScriptOutput> {
  await host.run('ipset', ['add', '-exist', FENCE_SETS.bridge, `${SUBNET},${BRIDGE}`]);
  for (const set of [FENCE_SETS.egress, FENCE_SETS.ingress, FENCE_SETS.connections]) {
    await host.run('ipset', ['add', '-exist', set, ADDRESS, 'packets', '0', 'bytes', '0']);
  }
  const input: FeedScriptInput = {
    agentNamespace: agent.path,
    group: GROUP,
    bridge: BRIDGE,
    address: ADDRESS,
    subnet: SUBNET,
    budgets: [],
    names: {},
    ...options,
  };
  const { stdout } = await host.run(process.execPath, [besideThis('warden-feed-script.ts'), JSON.stringify(input)]);
  return JSON.parse(stdout) as FeedScriptOutput;
}

function reportOf<Kind extends WardenReport['kind']>(output: FeedScriptOutput, kind: Kind) {
  return output.reports.find((report): report is Extract<WardenReport, { kind: Kind }> => report.kind === kind);
}

it('kills a run at its first forbidden packet, and silences it', async () => {
  const output = await perform({ script: `busybox nc -w 5 ${FORBIDDEN} 22; sleep 20`, denials: 0 });
  expect([output.feed, output.pids]).toEqual([true, []]);
  expect(reportOf(output, 'breached')?.breach).toMatchObject({
    reason: 'egress.forbidden',
    rule: 'budget.denials',
    denial: { kind: 'packet', destination: FORBIDDEN, port: 22, protocol: 'tcp', rule: 'egress' },
  });
  expect(output.bridgeSet).not.toContain(SUBNET);
  expect(output.reports.filter(({ kind }) => kind === 'denied')).toHaveLength(1);
});

it('leaves a run alone that sends only where it may, and counts its bytes', async () => {
  const output = await perform({ script: `busybox ping -c 3 -W 1 ${OPEN}`, denials: 0 });
  const { breach, usage } = reportOf(output, 'emptied') ?? { breach: undefined, usage: undefined };
  expect([breach, usage?.denials, usage?.egressBytes, usage?.connections]).toEqual([null, 0, 3 * 84, 1]);
  expect(output.bridgeSet).toContain(SUBNET);
});

it('ends a run whose egress budget the kernel has cut off', async () => {
  const output = await perform({ script: `busybox nc -w 5 ${FORBIDDEN} 81; sleep 20`, denials: 100 });
  const breach = reportOf(output, 'breached')?.breach;
  expect(breach).toMatchObject({ reason: 'budget.egress', rule: 'budget.egress', limit: 1_000_000 });
});

it('ends a run whose ingress budget the kernel has cut off', async () => {
  const budgets = [{ budget: 'ingress', limitBytes: 5_000, action: 'kill' }] as const;
  const output = await perform({ script: `busybox ping -c 1 -W 1 ${MUTE}; sleep 20`, denials: 0, budgets });
  expect(reportOf(output, 'breached')?.breach).toMatchObject({
    reason: 'budget.ingress',
    measured: 5_000,
    limit: 5_000,
    action: 'kill',
  });
  expect(reportOf(output, 'denied')?.denial).toMatchObject({ kind: 'budget', destination: MUTE, protocol: 'icmp' });
});

it('ends a run whose connections the kernel has cut off, before a counter shows it', async () => {
  const budgets = [{ budget: 'connections', count: 7, action: 'kill' }] as const;
  const output = await perform({ script: `busybox nc -w 5 ${FORBIDDEN} 83; sleep 20`, denials: 0, budgets });
  expect(reportOf(output, 'breached')?.breach).toMatchObject({ reason: 'budget.connections', measured: 7, limit: 7 });
});

it('ends a run at one connection more than it may make, as the counter of the fence says', async () => {
  const budgets = [{ budget: 'connections', count: 1, action: 'kill' }] as const;
  const script = (pings: number): string =>
    `${Array.from({ length: pings }, () => `busybox ping -c 1 -W 1 ${OPEN}`).join('; ')}; sleep 1.5`;
  const one = await perform({ script: script(1), denials: 0, budgets });
  const two = await perform({ script: script(2), denials: 0, budgets });
  expect([one, two].map((output) => reportOf(output, 'emptied')?.breach?.reason ?? null)).toEqual([
    null,
    'budget.connections',
  ]);
});

it('tells once a second what waits for a person, and counts it as no denial', async () => {
  const output = await perform({ script: `busybox nc -w 4 ${FORBIDDEN} 82; true`, denials: 0 });
  const { breach, usage } = reportOf(output, 'emptied') ?? { breach: undefined, usage: undefined };
  const asked = output.reports.filter(({ kind }) => kind === 'asked');
  expect([breach, usage?.denials, asked[0]]).toMatchObject([
    null,
    0,
    { address: FORBIDDEN, port: 82, protocol: 'tcp' },
  ]);
  // The kernel sends the opening again after a second at the earliest.
  expect(asked.length).toBeGreaterThanOrEqual(2);
  expect(asked.length).toBeLessThanOrEqual(5);
});

it('counts an opening that the kernel sends again once, and two openings twice', async () => {
  const once = await perform({ script: `busybox nc -w 4 ${FORBIDDEN} 22; true`, denials: 100 });
  const twice = await perform({
    script: `busybox nc -w 1 ${FORBIDDEN} 22; busybox nc -w 1 ${FORBIDDEN} 22; true`,
    denials: 100,
  });
  expect([once, twice].map((output) => reportOf(output, 'emptied')?.usage.denials)).toEqual([1, 2]);
});

it('counts a client that goes through the addresses of one name once, and without the name each of them', async () => {
  const script = `${OTHERS.map((address) => `busybox nc -w 1 ${address} 8080`).join(' & ')} & wait; true`;
  const named = await perform({ script, denials: 1, names: { 'pool.example': OTHERS } });
  const unnamed = await perform({ script, denials: 1 });
  expect(reportOf(named, 'emptied')).toMatchObject({ breach: null, usage: { denials: 1 } });
  expect(reportOf(unnamed, 'breached')?.breach).toMatchObject({ reason: 'budget.denials', limit: 1 });
});

it('tells a forged source by the bridge that it came from', async () => {
  await agent.run('ip', ['addr', 'add', '10.213.7.9/32', 'dev', 'eth0']);
  try {
    const output = await perform({ script: `busybox ping -c 1 -W 1 -I 10.213.7.9 ${OPEN}; sleep 20`, denials: 0 });
    expect(reportOf(output, 'breached')?.breach.denial).toMatchObject({ kind: 'spoof', destination: OPEN });
  } finally {
    await agent.run('ip', ['addr', 'del', '10.213.7.9/32', 'dev', 'eth0']);
  }
});
