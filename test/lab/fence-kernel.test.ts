import { afterAll, beforeAll, expect, test } from 'vitest';
import { besideThis, makeNamespace } from './fence-namespace.ts';
import type { Namespace } from './fence-namespace.ts';
import type { KernelStep } from './fence-kernel-script.ts';

let host: Namespace;

beforeAll(async () => {
  host = await makeNamespace('kernel');
  await host.run('ipset', ['restore'], {
    input: [
      'create t-learned hash:ip,port,ip timeout 60',
      'create t-written hash:ip,port,net',
      'create t-bridge hash:net,iface',
      'create t-bytes hash:ip counters',
      'create t-full hash:ip maxelem 1',
      '',
    ].join('\n'),
  });
});
afterAll(async () => await host.remove());

async function perform(steps: readonly KernelStep[]): Promise<unknown[]> {
  const { stdout } = await host.run(process.execPath, [besideThis('fence-kernel-script.ts'), JSON.stringify(steps)]);
  return JSON.parse(stdout) as unknown[];
}

const LEARNED = {
  kind: 'ip,port,ip',
  source: '10.213.0.2',
  port: 443,
  protocol: 'tcp',
  destination: '198.51.100.9',
} as const;
const WRITTEN = {
  kind: 'ip,port,net',
  source: '10.213.0.2',
  port: 5432,
  protocol: 'tcp',
  network: '203.0.113.0',
  prefixLength: 24,
} as const;
const BRIDGE = { kind: 'net,iface', network: '10.213.0.0', prefixLength: 30, device: 'rf-abcdefgh' } as const;

/** The kernel counts down in ticks, and rounds down. */
const justBelow42 = (seconds: unknown): boolean => Number(seconds) <= 42 && Number(seconds) > 30;

test('adds, finds, lists and removes an entry of each kind, and finds no neighbour of it', async () => {
  const results = await perform([
    { step: 'test', set: 't-learned', entry: LEARNED },
    { step: 'add', set: 't-learned', entry: LEARNED, extras: { timeoutSeconds: 42 } },
    { step: 'test', set: 't-learned', entry: LEARNED },
    { step: 'test', set: 't-learned', entry: { ...LEARNED, port: 444 } },
    { step: 'test', set: 't-learned', entry: { ...LEARNED, protocol: 'udp' } },
    { step: 'test', set: 't-learned', entry: { ...LEARNED, source: '10.213.0.6' } },
    { step: 'list', set: 't-learned' },
    { step: 'remove', set: 't-learned', entry: LEARNED },
    { step: 'remove', set: 't-learned', entry: LEARNED },
    { step: 'test', set: 't-learned', entry: LEARNED },
    { step: 'add', set: 't-written', entry: WRITTEN },
    { step: 'list', set: 't-written' },
    { step: 'add', set: 't-bridge', entry: BRIDGE },
    { step: 'list', set: 't-bridge' },
    { step: 'remove', set: 't-bridge', entry: BRIDGE },
    { step: 'list', set: 't-bridge' },
  ]);
  const member = (entry: unknown): unknown => ({ entry, timeoutSeconds: null, bytes: null, packets: null });
  expect(results).toEqual([
    false,
    'added',
    true,
    false,
    false,
    false,
    [{ entry: LEARNED, timeoutSeconds: expect.toSatisfy(justBelow42), bytes: null, packets: null }],
    'removed',
    'removed',
    false,
    'added',
    [member(WRITTEN)],
    'added',
    [member(BRIDGE)],
    'removed',
    [],
  ]);
});

test('sets and reads byte counters beyond 53 bits exactly', async () => {
  const start = String(2n ** 62n - 5n);
  const results = await perform([
    { step: 'add', set: 't-bytes', entry: { kind: 'ip', address: '10.213.0.2' }, extras: { bytes: start } },
    { step: 'counters', set: 't-bytes' },
  ]);
  expect(results).toEqual(['added', [['10.213.0.2', { bytes: start, packets: '0' }]]]);
});

test('hands back the real error of the kernel', async () => {
  const entry = (address: string): KernelStep => ({ step: 'add', set: 't-full', entry: { kind: 'ip', address } });
  const results = await perform([
    { step: 'add', set: 't-absent', entry: LEARNED },
    { step: 'list', set: 't-absent' },
    entry('192.0.2.1'),
    entry('192.0.2.2'),
    entry('192.0.2'),
  ]);
  expect(results).toEqual([
    { error: 'ENOENT' },
    { error: 'ENOENT' },
    'added',
    { error: 'IPSET_ERR_HASH_FULL' },
    { error: 'Error: ipset: not an IPv4 address: "192.0.2"' },
  ]);
});

test('lists a set that does not fit one datagram', async () => {
  const lines = Array.from({ length: 5_000 }, (_, index) => `add t-learned 10.213.1.2,tcp:${index + 1},198.51.100.1`);
  await host.run('ipset', ['restore'], { input: `${lines.join('\n')}\n` });
  const [members] = await perform([{ step: 'list', set: 't-learned' }]);
  expect(members).toHaveLength(5_000);
});

test('receives logged packets with prefix and ports, and accounts for every one it could not receive', async () => {
  const rule = ['-o', 'lo', '-p', 'udp', '--dport', '4000', '-j', 'NFLOG', '--nflog-group', '87'];
  await host.run('iptables', ['-A', 'OUTPUT', ...rule, '--nflog-prefix', 'rf:deny', '--nflog-threshold', '1']);
  const [few, flood] = (await perform([
    { step: 'feed', group: 87, port: 4000, datagrams: 2, quietMs: 300 },
    { step: 'feed', group: 87, port: 4000, datagrams: 40_000, quietMs: 300 },
  ])) as { received: number; lost: number; first: unknown }[];
  expect(few).toMatchObject({
    received: 3,
    lost: 0,
    first: {
      prefix: 'rf:deny',
      sequence: 0,
      packet: { source: '127.0.0.1', destination: '127.0.0.1', protocol: 'udp', destinationPort: 4000 },
      inputDevice: null,
      outputDevice: 1,
      uid: 0,
    },
  });
  expect(flood?.lost).toBeGreaterThan(0);
  expect((flood?.received ?? 0) + (flood?.lost ?? 0)).toBe(40_001);
});

test('refuses a group that somebody else holds', async () => {
  const [held, refused] = await perform([
    { step: 'hold', group: 88 },
    { step: 'feed', group: 88, port: 4001, datagrams: 0, quietMs: 1 },
  ]);
  expect([held, refused]).toEqual(['held', { error: 'SystemCallError: nflog bind of group 88: EPERM' }]);
});
