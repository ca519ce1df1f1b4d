import { execa } from 'execa';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { FenceDenial, FenceName } from '../../src/core/ports/fence.ts';
import { grantOf, HTTPS, nameGrant } from '../support/grants.ts';
import { until } from '../support/until.ts';
import { GOOD, makeWorld, METADATA, PRIVATE, RESOLVER } from './fence-world.ts';
import type { Agent, World } from './fence-world.ts';
import { besideThis } from './fence-namespace.ts';
import type { Probe, ProbeResult } from './fence-probe-script.ts';

/** The gate against a resolver that lies and an agent that sends anything, with verdicts at the resolver and in the sets. */
const LIAR = '198.51.100.54';
const RUN = 'rddddddddddd1';
const SSH = { port: 22, protocol: 'tcp' } as const;
const listed = [
  'good',
  'rebind',
  'metadata',
  'mixed',
  'alias',
  'circle',
  'stranger',
  'long',
  'endless',
  'pointer',
  'guess',
];
const NAMES: readonly FenceName[] = [
  ...listed.map((label) => nameGrant(`${label}.test`)),
  nameGrant('wild.test', { wildcard: true }),
  nameGrant('later.test', { ask: true }),
];

let world: World;
let agent: Agent;
let neighbour: Agent;
let questions: { readonly name: string; readonly type: string }[] = [];
let endLiar: () => Promise<void>;

beforeAll(async () => {
  world = await makeWorld({ upstreams: [{ address: LIAR, port: 53 }] });
  endLiar = await startLiar();
  await world.call({ call: 'install' });
  await world.call({ call: 'startGate' });
  agent = await world.addAgent(RUN);
  neighbour = await world.addAgent('rddddddddddd2');
  await world.arm(agent, { names: NAMES });
  await world.arm(neighbour, { names: [nameGrant('good.test')] });
});
afterAll(async () => {
  await world.remove();
  await endLiar();
});
beforeEach(async () => {
  await world.call({ call: 'denials' });
  await world.call({ call: 'asked' });
  questions = [];
});

async function startLiar(): Promise<() => Promise<void>> {
  await world.outside.run('ip', ['addr', 'add', `${LIAR}/32`, 'dev', 'lo']);
  const child = execa(
    'nsenter',
    [`--net=${world.outside.path}`, process.execPath, besideThis('dns-resolver-script.ts'), LIAR],
    { reject: false, stdin: 'ignore', stderr: 'inherit', buffer: false },
  );
  let ready = false;
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line === 'ready') ready = true;
    else questions.push(JSON.parse(line) as (typeof questions)[number]);
  });
  await until('the liar is up', () => ready, { deadlineMs: 10_000 });
  return async () => {
    child.kill('SIGKILL');
    await child;
  };
}

const ask = (name: string, more: object = {}): Probe => ({ probe: 'dns', server: agent.lease.gateway, name, ...more });
const bytes = (hex: string): Probe => ({ probe: 'bytes', server: agent.lease.gateway, hex });
const heard = (results: readonly ProbeResult[]): string[] =>
  results.map(({ code, answers }) => `${code.split(' ')[0] ?? ''} ${answers.join()}`.trim());
/**
 * The refusals of these destinations, once each of `expected` was told; after 5 s what was. The gate tells late what an
 * agent asks faster than refusals are told, so others may come from the test before.
 */
async function toldOf(...expected: string[]): Promise<string[]> {
  const destinations = new Set(expected.map((line) => line.split(' ')[1]));
  const told: string[] = [];
  const missing = (): boolean => expected.some((line) => !told.includes(line));
  for (let left = 100; left > 0 && missing(); left -= 1) {
    for (const { denial } of (await world.call({ call: 'denials' })) as FenceDenial[]) {
      if (destinations.has(denial.destination)) told.push(`${denial.rule} ${denial.destination}`);
    }
    if (missing()) await delay(50);
  }
  return told;
}
/** Addresses that the kernel has open for the agent, with their ports. */
async function opened(): Promise<string[]> {
  const { stdout } = await world.host.run('ipset', ['save']);
  const entries = stdout.matchAll(/^add rf-(learned|checked) (\S+),tcp:(\S+),(\S+) /gm);
  const mine = [...entries].filter(([, , source]) => source === agent.lease.address);
  return mine.map(([, set, , port, address]) => `${set} ${address}:${port}`).toSorted();
}

test('asks its resolver nothing for 200 names that no rule lists, whatever resolver the agent asks', async () => {
  const random = Array.from({ length: 200 }, (_, index) => `${(index * 7_919).toString(36)}.unlisted.test`);
  const results = await agent.probe([
    ...random.map((name) => ask(name)),
    ask('unlisted.test', { server: RESOLVER }),
    ask('unlisted.test', { server: RESOLVER, transport: 'tcp' }),
    ask('unlisted.test', { server: LIAR, transport: 'tcp' }),
    // The twin: the road itself works, over both transports and to any address.
    ask('good.test', { server: RESOLVER, transport: 'tcp' }),
    ask('good.test', { server: LIAR }),
  ]);
  expect(heard(results.slice(0, 203))).toEqual(Array.from({ length: 203 }, () => 'REFUSED'));
  expect(heard(results.slice(203))).toEqual([`NOERROR ${GOOD}`, `NOERROR ${GOOD}`]);
  expect(new Set(questions.map(({ name, type }) => `${type} ${name}`))).toEqual(new Set(['A good.test']));
  expect(world.questions()).toEqual([]);
});

test('answers addresses only: every other type of a listed name goes nowhere', async () => {
  const types = ['TXT', 'NULL', 'MX', 'SRV', 'NS', 'SOA', 'CNAME', 'CAA', 'NAPTR', 'ANY', 'PTR', 'AXFR'];
  const results = await agent.probe([
    ...types.map((type) => ask('good.test', { type })),
    ask('good.test', { type: 'AAAA' }),
    ask('good.test', { type: 'UNKNOWN_65' }),
  ]);
  expect(heard(results)).toEqual([...types.map(() => 'REFUSED'), 'NOERROR', 'NOERROR']);
  expect(questions).toEqual([]);
  // One attempt: the same name refused for the same reason.
  expect(await toldOf('dns.type good.test')).toEqual(['dns.type good.test']);
});

test('drops what a lying resolver says, and opens only what it told the agent', async () => {
  const results = await agent.probe([
    ask('mixed.test'),
    ask('metadata.test'),
    ask('circle.test'),
    ask('stranger.test'),
    ask('pointer.test'),
    ask('guess.test'),
    ask('endless.test'),
    ask('alias.test'),
    ask('other.test'),
  ]);
  expect(heard(results)).toEqual([
    `NOERROR ${GOOD}`,
    'NXDOMAIN',
    'SERVFAIL',
    'NOERROR',
    'SERVFAIL',
    'SERVFAIL',
    'SERVFAIL',
    // An alias is followed by the gate; the agent learns nothing but where the listed name leads.
    `NOERROR ${GOOD}`,
    'REFUSED',
  ]);
  expect(await opened()).toEqual([`learned ${GOOD}:443`]);
  const refused = ['egress.never metadata.test', 'egress other.test'];
  expect(new Set(await toldOf(...refused))).toEqual(new Set(refused));
});

test('opens so many addresses of a name and no more, also over TCP', async () => {
  const [long] = await agent.probe([ask('long.test', { transport: 'tcp' })]);
  expect([long?.answers.length, questions.map(({ name }) => name)]).toEqual([16, ['long.test', 'long.test']]);
  const open = await opened();
  expect(open).toEqual(long?.answers.map((address) => `learned ${address}:443`).toSorted());
});

test('gives no second answer where no name may lead, however short the first one lived', async () => {
  const before = { private: await world.seen(PRIVATE), metadata: await world.seen(METADATA) };
  const results = await agent.probe([
    ask('rebind.test'),
    // A lifetime of 0 is at least five seconds for the agent and the gate.
    { probe: 'wait', forMs: 5_200 },
    ask('rebind.test'),
    { probe: 'tcp', host: PRIVATE, port: 443 },
    { probe: 'tcp', host: METADATA, port: 80 },
    { probe: 'tcp', host: GOOD, port: 443 },
  ]);
  expect(results.map(({ code, ok, ttl }) => [code.split(' ')[0], ok, ttl])).toEqual([
    ['NOERROR', true, 5],
    ['', true, 0],
    ['NXDOMAIN', false, 0],
    ['ECONNREFUSED', false, 0],
    ['ECONNREFUSED', false, 0],
    ['', true, 0],
  ]);
  expect({ private: await world.seen(PRIVATE), metadata: await world.seen(METADATA) }).toEqual(before);
  expect(await toldOf('egress.never rebind.test')).toContain('egress.never rebind.test');
});

test('outlives loops, torn, oversize and foreign bytes, and a flood, and goes on for the neighbour', async () => {
  const flood: Probe = { probe: 'udp', host: agent.lease.gateway, port: 53, count: 300, bytes: 400, quiet: true };
  const results = await agent.probe([
    // A name that points at itself, one cut in its middle, a length over 63, two questions, 4,000 bytes of name.
    bytes('424201000001000000000000c00c00010001'),
    bytes('42420100000100000000000004676f'),
    bytes(`4242010000010000000000007f${'61'.repeat(127)}0000010001`),
    bytes(`4242010000020000000000000000010001`),
    bytes(`424201000001000000000000${'3f'.padEnd(128, '61').repeat(60)}0000010001`),
    { probe: 'hold', host: agent.lease.gateway, port: 53, forMs: 3_000 },
    ...Array.from({ length: 5 }, () => flood),
  ]);
  expect(results.slice(0, 5).map(({ code }) => code)).toEqual(Array.from({ length: 5 }, () => 'FORMERR'));
  expect(results[5]?.code).toBe('CLOSED');
  expect(questions).toEqual([]);
  const [other] = await neighbour.probe([{ ...ask('good.test'), server: neighbour.lease.gateway } as Probe]);
  expect(heard(other === undefined ? [] : [other])).toEqual([`NOERROR ${GOOD}`]);
  const told = new Set(await toldOf('dns.malformed .', 'dns.rate .'));
  expect([...told].toSorted()).toEqual(['dns.malformed .', 'dns.rate .']);
  const { stdout } = await world.host.run('ps', ['-o', 'pid=', '-p', String(await gatePid())]);
  expect(stdout.trim()).toBe(String(await gatePid()));
});

async function gatePid(): Promise<number> {
  return ((await world.call({ call: 'gateHealth' })) as { pid: number }).pid;
}

test('holds a name for a person, opens it for its time, and takes it away with a change', async () => {
  const later = await world.addAgent('rddddddddddd3');
  await world.arm(later, { names: [nameGrant('later.test', { ask: true, ports: [{ ...SSH, check: null }] })] });
  const question = { ...ask('later.test'), server: later.lease.gateway } as Probe;
  const toGood: Probe = { probe: 'tcp', host: GOOD, port: 22 };
  const [waited, closed] = await later.probe([question, toGood]);
  expect([waited?.code, closed?.code]).toEqual([
    'SERVFAIL ringfence: "later.test" waits for a person: approve with `ringfence approve`',
    'ECONNREFUSED',
  ]);
  expect(waited?.ms).toBeGreaterThanOrEqual(900);
  const request = { kind: 'name', name: 'later.test', ports: [SSH], rule: 'later.test' } as const;
  expect(await world.call({ call: 'asked' })).toEqual([{ address: later.lease.address, request }]);
  expect(questions).toEqual([]);

  const held = later.probe([question, toGood]);
  await world.call({ call: 'approve', runId: later.lease.runId, request, forMs: 60_000 });
  expect(await held).toMatchObject([{ code: 'NOERROR', answers: [GOOD] }, { ok: true }]);
  expect(await world.call({ call: 'asked' })).toEqual([]);

  await world.call({ call: 'change', grant: grantOf({ lease: later.lease, names: [] }) });
  expect((await later.probe([toGood, question])).map(({ ok }) => ok)).toEqual([false, false]);
  // None came of the time that the name waited for a person.
  expect(await toldOf('egress later.test')).toEqual(['egress later.test']);
  await world.call({ call: 'disarm', runId: later.lease.runId });
});

test('opens nothing while it is dead, and goes on with what was granted and approved', async () => {
  const request = { kind: 'name', name: 'later.test', ports: [HTTPS], rule: 'later.test' } as const;
  await world.call({ call: 'approve', runId: RUN, request, forMs: 60_000 });
  const before = await opened();
  const pid = await gatePid();
  const children = (await world.host.run('pgrep', ['-P', String(pid)])).stdout.split('\n');
  process.kill(pid, 'SIGKILL');
  const [dead] = await agent.probe([ask('wild.test'), ask('a.wild.test')].slice(1));
  // Refused by the kernel, or unanswered; a gate that is back already has asked the resolver.
  expect(dead?.answers).toEqual(questions.some(({ name }) => name === 'a.wild.test') ? [GOOD] : []);
  if (questions.length === 0) expect(await opened()).toEqual(before);
  await until('the gate is back', async () => (await gatePid()) !== null && (await listening()), {
    deadlineMs: 30_000,
  });
  // The checker of the dead gate has ended with it.
  expect(children).toHaveLength(1);
  await until('the checker is gone', () => children.every(hasEnded), { deadlineMs: 10_000 });
  expect(heard(await agent.probe([ask('later.test'), ask('good.test')]))).toEqual([
    `NOERROR ${GOOD}`,
    `NOERROR ${GOOD}`,
  ]);
  expect(await world.call({ call: 'asked' })).toEqual([]);
});

function hasEnded(pid: string): boolean {
  try {
    // Nobody may have waited for it yet.
    return /\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return true;
  }
}

async function listening(): Promise<boolean> {
  return ((await world.call({ call: 'gateHealth' })) as { listening: boolean }).listening;
}
