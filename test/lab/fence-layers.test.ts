import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { baseRules, RULE_PIECES } from '../../src/fence/rules.ts';
import type { RulePiece } from '../../src/fence/rules.ts';
import { FENCE_MARKS } from '../../src/fence/rules/words.ts';
import { addressGrant, HTTPS } from '../support/grants.ts';
import { CHECK_PORT, GATE_PORT, GOOD, makeWorld, METADATA, OTHER, POOL, PRIVATE, UPLINK } from './fence-world.ts';
import type { Probe } from './fence-probe-script.ts';
import type { Agent, World } from './fence-world.ts';

/**
 * Each piece of the base rules taken out of the kernel by itself, under attack: what is left has to hold. Then the rules
 * are put back and the same host is reached, so that silence is never mistaken for a wall. On both kinds of iptables.
 */
const OPTIONS = {
  pool: POOL,
  gatePort: GATE_PORT,
  checkPort: CHECK_PORT,
  nflogGroup: 86,
  marks: FENCE_MARKS,
  connectionsPerSecondMax: 200,
};
const DENYING: readonly RulePiece[] = ['source', 'decision', 'exit', 'last', 'host', 'six', 'six-exit'];
/** With the other backend fewer, since the rules are shown to be the same. */
const DENYING_FEW: readonly RulePiece[] = ['decision', 'exit', 'last'];
/** Served by the host on every address of it; nobody but the host itself may reach it. */
const HOST_PORT = 8080;
/** Open to the neighbour alone. */
const NEIGHBOURS = OTHER;
const UNKNOWN = '198.51.100.53';
const toGood = { probe: 'tcp', host: GOOD, port: 443 } as const;

/** What both kinds of iptables say of our rules, each in its own turn. */
const installed: Readonly<Record<string, readonly string[]>>[] = [];

/** The order of the tables is each tool’s own; that of the rules in a table is what counts. */
function byTable(lines: readonly string[]): Readonly<Record<string, readonly string[]>> {
  const tables: Record<string, string[]> = {};
  let table = '';
  for (const line of lines) {
    if (line.startsWith('*')) table = line.slice(1);
    else if (!line.includes('MASQUERADE')) (tables[table] ??= []).push(line);
  }
  for (const rules of Object.values(tables)) rules.sort((one, other) => chainOf(one).localeCompare(chainOf(other)));
  return tables;
}

function chainOf(line: string): string {
  return line.split(' ')[1] ?? '';
}

describe.each(['nft', 'legacy'] as const)('with iptables-%s', (backend) => {
  let world: World;
  let agent: Agent;
  let neighbour: Agent;

  beforeAll(async () => {
    world = await makeWorld({ gate: 'stand-in', backend });
    await world.call({ call: 'install' });
    const { stdout } = await world.host.run('iptables', ['--version']);
    expect(stdout).toContain(backend === 'nft' ? '(nf_tables)' : '(legacy)');
    await world.call({ call: 'serveHost', port: HOST_PORT });
    agent = await world.addAgent('reeeeeeeeeee1');
    neighbour = await world.addAgent('reeeeeeeeeee2');
    await world.arm(agent, { addresses: [addressGrant(GOOD, [HTTPS])] });
    await world.arm(neighbour, {
      addresses: [addressGrant(NEIGHBOURS, [HTTPS, { port: 443, protocol: 'udp' }])],
    });
    await world.host.run('ipset', ['add', 'rf-checked', `${agent.lease.address},tcp:443,${METADATA}`]);
    await world.host.run('ipset', ['add', 'rf-checked', `${agent.lease.address},tcp:3333,${OTHER}`]);
    await world.outside.run('ip', ['route', 'replace', POOL, 'via', UPLINK]);
    await setUpSix();
  });
  afterAll(async () => await world.remove());

  /** IPv6 from the agent through the host to the internet, with fixed neighbours, as if nothing denied it. */
  async function setUpSix(): Promise<void> {
    const { bridge } = agent.lease;
    await world.host.run('ip', ['-6', 'addr', 'add', 'fd00:1::1/64', 'dev', bridge, 'nodad']);
    await world.host.run('ip', ['-6', 'addr', 'add', '2001:db8::2/64', 'dev', 'up0', 'nodad']);
    await world.outside.run('ip', ['-6', 'addr', 'add', '2001:db8::1/64', 'dev', 'down0', 'nodad']);
    await world.outside.run('ip', ['-6', 'route', 'add', 'fd00:1::/64', 'via', '2001:db8::2']);
    await agent.namespace.run('ip', ['-6', 'addr', 'add', 'fd00:1::2/64', 'dev', 'eth0', 'nodad']);
    await agent.namespace.run('ip', ['-6', 'route', 'add', 'default', 'via', 'fd00:1::1']);
    const { stdout } = await world.host.run('ip', ['-o', 'link', 'show', bridge]);
    const mac = /link\/ether (\S+)/.exec(stdout)?.[1] ?? '';
    await agent.namespace.run('ip', ['-6', 'neigh', 'add', 'fd00:1::1', 'lladdr', mac, 'dev', 'eth0']);
  }

  async function remove(piece: RulePiece): Promise<void> {
    for (const { family, table, chains, jumps } of baseRules(OPTIONS, [piece])) {
      const tool = family === 6 ? 'ip6tables' : 'iptables';
      for (const { chain, rule } of jumps) {
        await world.host.run(tool, ['-w', '5', '-t', table, '-D', chain, ...rule.split(' ')]);
      }
      for (const { name } of chains) await world.host.run(tool, ['-w', '5', '-t', table, '-F', name]);
    }
  }

  /** What reached the places that no attack may reach, and the host's own service. */
  async function reached(): Promise<Readonly<Record<string, number>>> {
    const counts: Record<string, number> = {};
    for (const place of [OTHER, METADATA, PRIVATE, UNKNOWN]) counts[place] = await world.seen(place);
    const served = (await world.call({ call: 'hostServed' })) as number;
    return { ...counts, six: await world.seenSix(), served };
  }

  async function attack(): Promise<void> {
    const udp = { probe: 'udp', port: 443, count: 200, quiet: true } as const;
    const forged = [neighbour.lease.address, '192.0.2.77'];
    for (const source of forged) await agent.namespace.run('ip', ['addr', 'add', `${source}/32`, 'dev', 'eth0']);
    const probes: readonly Probe[] = [
      { ...udp, host: OTHER },
      { ...udp, host: PRIVATE, count: 20 },
      { ...udp, host: UNKNOWN, port: 53, count: 20 },
      { ...udp, host: '2001:db8::1', count: 20 },
      ...forged.map((from) => ({ ...udp, host: OTHER, count: 50, from })),
      ...[agent.lease.gateway, UPLINK].map((host) => ({ ...udp, host, port: HOST_PORT, count: 20 })),
      {
        probe: 'volley',
        targets: [
          [OTHER, 443],
          [OTHER, 3333],
          [METADATA, 443],
          [METADATA, 80],
          [PRIVATE, 5432],
          [agent.lease.gateway, HOST_PORT],
          [UPLINK, HOST_PORT],
          [neighbour.lease.address, 9000],
        ],
      },
    ];
    await agent.probe([{ probe: 'together', probes }]);
    for (const source of forged) await agent.namespace.run('ip', ['addr', 'del', `${source}/32`, 'dev', 'eth0']);
  }

  async function assertHolds(): Promise<void> {
    const before = await reached();
    await attack();
    expect(await reached()).toEqual(before);
  }

  async function assertHealed(): Promise<void> {
    await world.call({ call: 'install' });
    expect(await world.call({ call: 'verify' })).toEqual({ kind: 'in-force' });
    expect(await agent.probe([toGood])).toMatchObject([{ ok: true }]);
    expect(await neighbour.probe([{ ...toGood, host: NEIGHBOURS }])).toMatchObject([{ ok: true }]);
  }

  test('holds whole', async () => {
    await assertHealed();
    const all = await Promise.all(['iptables-save', 'ip6tables-save'].map((tool) => world.host.run(tool, [])));
    const lines = all.flatMap(({ stdout }) => stdout.split('\n')).filter((line) => /^[*]|^-A .*(RF-|rf-)/.test(line));
    installed.push(byTable(lines));
    await assertHolds();
  });

  test.each(backend === 'nft' ? DENYING : DENYING_FEW)('holds without the piece %s', async (piece) => {
    await remove(piece);
    await assertHolds();
    await assertHealed();
  });

  test('holds without all the pieces that protect nothing', async () => {
    for (const piece of RULE_PIECES) if (!DENYING.includes(piece)) await remove(piece);
    await assertHolds();
    await assertHealed();
  });

  test('holds without the second check and with nothing that refuses', async () => {
    await remove('exit');
    await remove('comfort');
    await assertHolds();
    await assertHealed();
  });

  test('holds without the routing rule', async () => {
    await world.host.run('ip', ['rule', 'del', 'priority', '213']);
    await assertHolds();
    await assertHealed();
  });

  test('lets nothing out when every table is flushed', async () => {
    for (const table of ['raw', 'mangle', 'filter', 'security', 'nat']) {
      const [tool, ...first] = ['iptables', '-w', '5', '-t', table] as const;
      await world.host.run(tool, [...first, '-F', ...(table === 'nat' ? ['PREROUTING'] : [])]);
    }
    const { served: _, ...before } = await reached();
    await attack();
    const { served: __, ...after } = await reached();
    expect(after).toEqual(before);
    await assertHealed();
  });

  test('is under attacks that get through where nothing stops them', async () => {
    for (const piece of RULE_PIECES) await remove(piece);
    await world.host.run('ip', ['rule', 'del', 'priority', '213']);
    const before = await reached();
    await attack();
    const after = await reached();
    for (const [place, count] of Object.entries(after)) expect([place, count]).not.toEqual([place, before[place]]);
    await assertHealed();
    await assertHolds();
  });
});

test('has the same rules, in the same order, with both', () => {
  const [nft, legacy] = installed;
  expect(Object.keys(nft ?? {}).toSorted()).toEqual(['filter', 'mangle', 'nat', 'raw', 'security']);
  expect(legacy).toEqual(nft);
});
