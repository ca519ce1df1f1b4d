import { execa } from 'execa';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createGateClient } from '../../src/gate/client.ts';
import type { GateClient } from '../../src/gate/client.ts';
import type { FenceDenial } from '../../src/core/ports/fence.ts';
import { NEVER_RANGES } from '../../src/policy/egress.ts';
import { HTTPS, grantOf, nameGrant } from '../support/grants.ts';
import { until } from '../support/until.ts';
import { GOOD, makeWorld, OTHER } from './fence-world.ts';
import type { Agent, World } from './fence-world.ts';

/** The gate and its checker together: what a connection shows is judged by the gate, and follows its rules as they change. */
const CHECKED = { ports: [{ ...HTTPS, check: 'tls' as const }] };
const NAMES = [nameGrant('good.test', CHECKED), nameGrant('host.test', CHECKED)];
const NOBODY = '10.213.255.2';

let world: World;
let agent: Agent;

beforeAll(async () => {
  world = await makeWorld();
  await world.call({ call: 'install' });
  await world.call({ call: 'startGate' });
  agent = await world.addAgent('reeeeeeeeeee1');
  await world.arm(agent, { names: NAMES });
});
afterAll(async () => await world.remove());

/** A client that shows a name to an address, says what became of it, and ends when it is closed or its time is over. */
const CLIENT = `const [host, servername, forMs] = process.argv.slice(1);
  const say = (line) => process.stdout.write(line + '\\n');
  say('marker: the client runs');
  const socket = require('tls').connect({ host, port: 443, servername, rejectUnauthorized: false });
  socket.on('error', (error) => { say(error.code ?? error.message); process.exit(0); });
  socket.on('close', () => { say('closed'); process.exit(0); });
  setTimeout(() => { say('open'); process.exit(0); }, Number(forMs));`;

/** The internet sends back what comes, so that no handshake succeeds: the hello is its first bytes, and they count. */
async function shows(name: string, host = GOOD): Promise<{ readonly said: string; readonly arrived: number }> {
  const before = await world.seen(host);
  const { stdout } = await agent.namespace.run(process.execPath, ['-e', CLIENT, host, name, '2000'], {
    timeoutMs: 20_000,
  });
  const [marker, ...said] = stdout.split('\n');
  expect(marker).toBe('marker: the client runs');
  return { said: said.join(' '), arrived: (await world.seen(host)) - before };
}

async function denials(): Promise<string[]> {
  const lines = (await world.call({ call: 'denials' })) as FenceDenial[];
  return lines.map(({ denial }) => `${denial.kind} ${denial.rule} ${denial.destination}:${denial.port}`);
}

const ask = (name: string) => ({ probe: 'dns', server: agent.lease.gateway, name }) as const;

test('lets through what shows a listed name, and nothing that shows another one, to an address that is open', async () => {
  expect(await agent.probe([ask('good.test')])).toMatchObject([{ code: 'NOERROR', answers: [GOOD] }]);
  const listed = await shows('good.test');
  // The internet's answer is no TLS, which the client says; what matters is that the hello arrived there.
  expect(listed.arrived).toBeGreaterThan(3);
  const other = await shows('other.test');
  expect([other.arrived, other.said]).toEqual([0, expect.stringContaining('ALERT')]);
  expect(await denials()).toEqual(['name check.name other.test:443']);
  // Nor does the name of an address that is not open open it.
  expect(await shows('good.test', OTHER)).toEqual({ said: expect.stringContaining('ECONNREFUSED'), arrived: 0 });
});

test('leads no connection to the host itself under a name that does', async () => {
  const listening = world.host.run(process.execPath, ['-e', HOST_SERVICE], { timeoutMs: 20_000 });
  expect((await agent.probe([ask('host.test'), ask('good.test')])).map(({ ok }) => ok)).toEqual([false, true]);
  const { said } = await shows('host.test');
  expect(said).toContain('ALERT');
  expect((await listening).stdout).toBe('0');
  expect(await denials()).toEqual(['name egress.never host.test:53', 'name egress.never host.test:443']);
});

// Counts who comes to the host on the port of the name, for as long as the test needs.
const HOST_SERVICE = `let count = 0;
  require('net').createServer((socket) => { count += 1; socket.destroy(); }).listen(443, '0.0.0.0');
  setTimeout(() => { process.stdout.write(String(count)); process.exit(0); }, 5000);`;

test('closes a connection whose name a change takes away, before the change is done', async () => {
  await agent.probe([ask('good.test')]);
  const before = await world.seen(GOOD);
  // Held open in its middle: the hello has passed, and the client waits for an answer that is TLS.
  const client = execa('nsenter', [`--net=${agent.namespace.path}`, process.execPath, '-e', SILENT_CLIENT, GOOD], {
    timeout: 30_000,
    stdin: 'ignore',
    reject: false,
  });
  await until('the hello has arrived', async () => (await world.seen(GOOD)) > before + 2, { deadlineMs: 10_000 });
  await world.call({ call: 'change', grant: grantOf({ lease: agent.lease, names: [] }) });
  expect((await client).stdout).toBe('marker: connected\nclosed');
  expect((await world.host.run('ipset', ['save'])).stdout).not.toContain(`rf-checked ${agent.lease.address}`);
  expect((await shows('good.test')).arrived).toBe(0);
  await world.call({ call: 'change', grant: grantOf({ lease: agent.lease, names: NAMES }) });
});

// Sends a TLS hello by hand and never ends the connection itself; gives up after twenty seconds.
const SILENT_CLIENT = `const tls = require('tls'); const net = require('net'); const { Duplex } = require('stream');
  const socket = net.connect(443, process.argv[1], () => {
    process.stdout.write('marker: connected\\n');
    const wire = new Duplex({ read() {}, write(chunk, encoding, done) { socket.write(chunk, done); } });
    tls.connect({ socket: wire, servername: 'good.test', rejectUnauthorized: false }).on('error', () => undefined);
  });
  socket.on('error', () => undefined).on('data', () => undefined);
  socket.on('close', () => { process.stdout.write('closed\\n'); process.exit(0); });
  setTimeout(() => { process.stdout.write('still open\\n'); process.exit(0); }, 20000);`;

const SILENT = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

/** A gate of the test's own process, on ports of its own: it opens nothing, as nobody can reach it. */
function ownGate(ports: { readonly port: number; readonly checkPort: number }): GateClient {
  return createGateClient({
    config: { ...ports, pool: '10.213.0.0/16', upstreams: [], neverRanges: NEVER_RANGES, holdMs: 100 },
    wardenPipe: null,
    log: SILENT,
  });
}

test('ends with its checker, is started again, and makes the certificates of runs', async () => {
  const client = ownGate({ port: 5395, checkPort: 5396 });
  await client.start();
  try {
    await client.grant(NOBODY, NAMES);
    const first = client.health().pid ?? 0;
    expect(await client.authority(NOBODY, 'reeeeeeeeeee9')).toMatch(/^-----BEGIN CERTIFICATE-----/);
    // The second one cannot listen where the first one does, says so, and leaves nothing behind.
    const second = ownGate({ port: 5397, checkPort: 5396 });
    await expect(second.start()).rejects.toMatchObject({ code: 'FENCE_FAILED' });
    await second.close();
    const [checker = 0] = childrenOf(first);
    expect(checker).toBeGreaterThan(0);
    process.kill(checker, 'SIGKILL');
    await until('another gate listens', () => client.health().listening && client.health().pid !== first, {
      deadlineMs: 30_000,
    });
    // Without a fence there may be no sets: what the gate cannot take away it does not call done, and it goes on.
    await client.change(NOBODY, NAMES).catch(() => undefined);
    await client.revoke(NOBODY);
    expect(await canConnect(5396)).toBe(true);
  } finally {
    await client.close();
  }
  await until('nobody listens', async () => !(await canConnect(5396)), { deadlineMs: 10_000 });
  await expect(
    client.decide(NOBODY, { kind: 'name', name: 'a.test', ports: [], rule: 'a.test' }, null),
  ).rejects.toThrow('not running');
});

function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text
    .split(' ')
    .filter((each) => each !== '')
    .map(Number);
}

async function canConnect(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
