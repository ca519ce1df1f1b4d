import { writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { baseRules, RULE_PIECES, type RulePiece } from '../../src/fence/rules.ts';
import {
  inContainer,
  openPlaces,
  RULE_OPTIONS,
  type AttackPlaces,
  type ContainerPlace,
} from '../support/attack-place.ts';
import { heardAtHost, heardAtNeighbour, packetsFor, type Arrivals } from '../support/attack.ts';
import { addressGrant, HTTPS } from '../support/grants.ts';
import { command, dnsQueriesSeen, lab, mark, observed, packetsArrived } from '../support/lab.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';

/**
 * One layer of the fence is taken away at a time, and an agent with raw sockets floods every road: nothing arrives,
 * because the others hold. First with no layer at all, so that the flood is known to be one.
 *
 * With RINGFENCE_LAYERS_TABLE=FILE the counts are written there as the table of docs/attacks.md.
 */
const GRANTED = '192.0.2.44';
const FLOOD_SECONDS = 1.2;

type Case = {
  readonly name: string;
  /** A function of the helper and its arguments. */
  readonly does: readonly string[];
  readonly through: (arrivals: Arrivals) => readonly string[];
  /** Why it does not get out even when there is no fence. */
  readonly blunt?: string;
};

const to = (name: string, target: string, ...does: readonly string[]): Case => ({
  name,
  does,
  through: packetsFor(target),
});

const CASES: readonly Case[] = [
  to('tcp', '203.0.113.171', 'dial', '203.0.113.171', '443'),
  to('udp', '203.0.113.172', 'udp', '203.0.113.172', '443'),
  to('icmp', '203.0.113.173', 'echo', '203.0.113.173'),
  to('other-protocols', '203.0.113.174', 'protocols', '203.0.113.174', '4', '41', '47', '132', '136'),
  to('fragments', '203.0.113.175', 'fragments', '203.0.113.175', '9999'),
  to('states', '203.0.113.176', 'states', '203.0.113.176', '443'),
  to('spoofed-neighbour', '203.0.113.177', 'spoof', '$NEIGHBOUR', '203.0.113.177', '443'),
  to('spoofed-outsider', '203.0.113.178', 'spoof', '198.51.100.77', '203.0.113.178', '443'),
  {
    ...to('spoofed-host', '203.0.113.179', 'spoof', lab.hostAddress, '203.0.113.179', '443'),
    blunt: 'a host drops its own addresses as martians',
  },
  to('frames', '203.0.113.180', 'frame4', '$SELF', '203.0.113.180', '443'),
  to('private', lab.internalAddress, 'dial', lab.internalAddress, '5432'),
  to('metadata', '169.254.169.254', 'dial', '169.254.169.254', '80'),
  {
    name: 'other-port',
    does: ['dial', GRANTED, '8443'],
    through: packetsFor(GRANTED, (packet) => packet.destinationPort === 8443),
  },
  {
    name: 'granted-as-neighbour',
    does: ['spoof', '$NEIGHBOUR', GRANTED, '4444'],
    through: packetsFor(GRANTED, (packet) => packet.destinationPort === 4444),
  },
  to('resolver', lab.otherResolver, 'labels', '2', 'exfil.example.test', lab.otherResolver),
  to('resolver-tcp', '203.0.113.54', 'dial', '203.0.113.54', '53'),
  to('six', '2001:db8:ff00::102', 'frame6', '2001:db8:ff00::102', '9999'),
  { name: 'neighbour-tcp', does: ['talk', '$NEIGHBOUR', '8000'], through: heardAtNeighbour('talk') },
  { name: 'neighbour-udp', does: ['udp', '$NEIGHBOUR', '8001'], through: heardAtNeighbour('attack') },
  { name: 'host-tcp', does: ['talk', '$GATEWAY', '$HOST_PORT'], through: heardAtHost(/^tcp \S+ talk/) },
  { name: 'host-udp', does: ['udp', lab.hostAddress, '$HOST_PORT'], through: heardAtHost(/^udp \S+ attack/) },
  { name: 'host-ping', does: ['echo', '$GATEWAY'], through: heardAtHost(/^echo requests/) },
  { name: 'multicast', does: ['group', '224.0.0.251', '5353'], through: heardAtHost(/^group /) },
];

type Layer = {
  readonly name: string;
  readonly tear: () => Promise<void>;
  readonly grantedWorks: boolean;
};

async function run(file: string, ...args: readonly string[]): Promise<string> {
  const result = await command(file, args);
  if (result.exitCode !== 0) throw new Error(`${file} ${args.join(' ')}: ${result.stderr}`);
  return result.stdout;
}

async function removePiece(piece: RulePiece): Promise<void> {
  for (const { family, table, chains, jumps } of baseRules(RULE_OPTIONS, [piece])) {
    const tool = family === 6 ? 'ip6tables' : 'iptables';
    for (const { chain, rule } of jumps) await run(tool, '-w', '5', '-t', table, '-D', chain, ...rule.split(' '));
    for (const { name } of chains) await run(tool, '-w', '5', '-t', table, '-F', name);
  }
}

/** With those of the engine, which would hide what the layers do. */
async function flushTables(): Promise<void> {
  for (const tool of ['iptables', 'ip6tables']) {
    for (const table of ['raw', 'mangle', 'nat', 'filter', 'security']) await run(tool, '-w', '5', '-t', table, '-F');
    await run(tool, '-w', '5', '-P', 'FORWARD', 'ACCEPT');
  }
}

async function removeRouting(): Promise<void> {
  const shown = await run('ip', '-4', 'rule', 'show');
  const ours = [...shown.matchAll(/^(2\d\d):/gm)].map(([, preference]) => preference ?? '');
  expect(ours).not.toEqual([]);
  for (const preference of ours) await run('ip', '-4', 'rule', 'del', 'priority', preference);
}

const LAYERS: readonly Layer[] = [
  { name: 'everything', tear: () => Promise.resolve(), grantedWorks: true },
  ...RULE_PIECES.map((piece) => ({
    name: `without ${piece}`,
    tear: async () => await removePiece(piece),
    grantedWorks: piece !== 'decision',
  })),
  { name: 'without the routing rules', tear: removeRouting, grantedWorks: true },
];

let before: Snapshot;
let places: AttackPlaces;
let place: ContainerPlace;
let saved: readonly { readonly tool: string; readonly rules: string }[];
beforeAll(async () => {
  before = await snapshot();
  places = await openPlaces();
  place = await places.fencedPlace('root', { addresses: [addressGrant(GRANTED, [HTTPS])] });
  saved = [
    { tool: 'iptables-restore', rules: await run('iptables-save') },
    { tool: 'ip6tables-restore', rules: await run('ip6tables-save') },
  ];
});
afterEach(async () => {
  for (const { tool, rules } of saved) {
    const result = await command(tool, ['-w', '5'], { input: rules });
    expect(result).toMatchObject({ exitCode: 0, stderr: '' });
  }
  await places.fence.install();
  expect(await places.fence.verify()).toEqual({ kind: 'in-force' });
});
afterAll(async () => {
  await places.close();
  // The tree of control groups is the whole machine's; a plain container of the engine has none of ours.
  expect(await leaksSince(before, (leak) => !leak.startsWith('cgroup '))).toEqual([]);
  const file = process.env['RINGFENCE_LAYERS_TABLE'];
  if (file !== undefined) writeFileSync(file, tableOf(rows));
});

test('with no layer at all every case arrives', async () => {
  const { arrived } = await flood('no layer', async () => {
    await flushTables();
    await removeRouting();
  });
  expect(CASES.filter(({ name, blunt }) => blunt === undefined && arrived[name] === undefined)).toEqual([]);
});

test.each(LAYERS)('$name: nothing arrives', async ({ name, tear, grantedWorks }) => {
  const { arrived, granted } = await flood(name, tear);
  expect({ arrived, granted }).toEqual({ arrived: {}, granted: grantedWorks });
});

test('every table flushed: the routes alone let nothing out of the host', async () => {
  const { arrived } = await flood('every table flushed', flushTables);
  expect(Object.keys(arrived).filter((name) => !BESIDE_THE_ROUTES.includes(name))).toEqual([]);
});
// What only rules can see: what is for the host itself, IPv6, and a source that is not of the pool. It takes raw sockets
// for the last two, which no profile grants; the watch over the rules ends the runs of a host that has lost them.
const BESIDE_THE_ROUTES = ['host-tcp', 'host-udp', 'host-ping', 'multicast', 'six', 'spoofed-outsider'];

/** What arrived, by case; cases of which nothing did are absent. */
async function flood(
  name: string,
  tear: () => Promise<void>,
): Promise<{ readonly arrived: Readonly<Record<string, readonly string[]>>; readonly granted: boolean }> {
  await tear();
  await place.heard();
  const since = await mark();
  const words = CASES.map((each) => `"${[each.name, ...each.does].join('|')}"`).join(' ');
  const variables = Object.entries(place.variables).map(([variable, value]) => `${variable}='${value}'`);
  const helper = 'python3 /agent/attack.py';
  const output = await inContainer(
    place.container,
    `${variables.join('; ')}; ${helper} flood ${FLOOD_SECONDS} ${words}; ${helper} talk ${GRANTED} 443`,
  );
  const tried = new Map(
    [...output.matchAll(/^tried (\S+) (\d+)$/gm)].map(([, what, count]) => [what ?? '', Number(count)]),
  );
  expect(CASES.filter((each) => !((tried.get(each.name) ?? 0) > 0)).map((each) => `${each.name}: ${output}`)).toEqual(
    [],
  );
  const seen = await observed({ since });
  const arrivals: Arrivals = {
    packets: await packetsArrived({ since }),
    queries: await dnsQueriesSeen({ since }),
    seen,
    ...(await place.heard()),
  };
  const arrived = CASES.map((each) => [each.name, each.through(arrivals)] as const);
  rows.push({ name, tried, arrived: new Map(arrived.map(([what, texts]) => [what, texts.length])) });
  return {
    arrived: Object.fromEntries(arrived.filter(([, what]) => what.length > 0)),
    granted: seen.some((each) => each.localAddress === GRANTED && each.localPort === 443),
  };
}

type Row = {
  readonly name: string;
  readonly tried: ReadonlyMap<string, number>;
  readonly arrived: ReadonlyMap<string, number>;
};
const rows: Row[] = [];

/** For docs/attacks.md: cases down, layers across; how often each was tried, and what of it arrived. */
function tableOf(all: readonly Row[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const cell = (row: Row, name: string): string =>
    (row.arrived.get(name) ?? 0) > 0 ? `**${row.tried.get(name)} tried, arrives**` : `0 of ${row.tried.get(name)}`;
  return [
    line(['', ...all.map(({ name }) => name)]),
    line(['', ...all.map(() => '')].map(() => '---')),
    ...CASES.map(({ name }) => line([name, ...all.map((row) => cell(row, name))])),
    '',
  ].join('\n');
}
