import { expect, test } from 'vitest';
import { engineNetworks, hostNetworks, parseRoutes, poolConflicts } from './host-networks.ts';
import { AddressPool, bridgeOf, parseNetwork, runIdOf } from './pool.ts';

const runId = (index: number): string => `r${String(index).padStart(12, '0')}`;
const network = (text: string) => {
  const parsed = parseNetwork(text);
  if (parsed === null) throw new Error(text);
  return parsed;
};

test('gives a run four addresses of its own, and the same ones when it asks again', () => {
  const pool = new AddressPool('10.213.0.0/16');
  const lease = {
    runId: runId(1),
    bridge: 'rf-000000000001',
    subnet: '10.213.0.0/30',
    gateway: '10.213.0.1',
    address: '10.213.0.2',
  };
  expect(pool.take(runId(1), [])).toEqual(lease);
  expect(pool.take(runId(1), [])).toEqual(lease);
  expect(pool.take(runId(2), []).subnet).toBe('10.213.0.4/30');
});

test('goes round, so that a freed network rests the longest', () => {
  const pool = new AddressPool('10.213.0.0/28');
  expect([1, 2, 3].map((id) => pool.take(runId(id), []).subnet)).toEqual([
    '10.213.0.0/30',
    '10.213.0.4/30',
    '10.213.0.8/30',
  ]);
  pool.free(runId(1));
  expect(pool.take(runId(4), []).subnet).toBe('10.213.0.12/30');
  expect(pool.take(runId(5), []).subnet).toBe('10.213.0.0/30');
  expect(() => pool.take(runId(6), [])).toThrow(
    'no free network is left in the pool 10.213.0.0/28 (4 networks, 4 in use)',
  );
});

test('passes over what the host uses', () => {
  const pool = new AddressPool('10.213.0.0/28');
  const occupied = [network('10.213.0.1'), network('10.213.0.4/30'), network('10.213.0.10')];
  expect(pool.take(runId(1), occupied).subnet).toBe('10.213.0.12/30');
  expect(() => pool.take(runId(2), occupied)).toThrow('no free network');
});

test('remembers its leases and its place in the circle', () => {
  const before = new AddressPool('10.213.0.0/16');
  for (const id of [1, 2, 3]) before.take(runId(id), []);
  before.free(runId(2));
  const after = new AddressPool('10.213.0.0/16');
  after.restore(before.state());
  after.adopt(runId(2), '10.213.0.4');
  expect(after.leases().map(({ subnet }) => subnet)).toEqual(['10.213.0.0/30', '10.213.0.8/30', '10.213.0.4/30']);
  expect(after.take(runId(9), []).subnet).toBe('10.213.0.12/30');
});

test('takes no lease from a file that says nonsense', () => {
  const pool = new AddressPool('10.213.0.0/28');
  pool.restore({
    cursor: 99,
    leases: [
      { runId: '../../etc', index: 0 },
      { runId: runId(1), index: 4 },
      { runId: runId(2), index: -1 },
      { runId: runId(3), index: 0 },
      { runId: runId(4), index: 0 },
    ],
  });
  pool.adopt(runId(5), '192.0.2.4');
  expect(pool.leases().map((lease) => lease.runId)).toEqual([runId(3)]);
  expect(pool.take(runId(6), []).subnet).toBe('10.213.0.12/30');
});

test.each(['10.213.0.1/16', '10.0.0.0/8', '10.213.0.0/30', '10.213.0.0', 'fd00::/64', '10.213.0.0/16/1', ''])(
  'refuses the pool "%s"',
  (pool) => {
    expect(() => new AddressPool(pool)).toThrow('is not an IPv4 network from /12 to /28 without host bits');
  },
);

test('names a bridge after its run and finds the run by it', () => {
  expect(bridgeOf('rabcdefghijkl')).toBe('rf-abcdefghijkl');
  expect(runIdOf('rf-abcdefghijkl')).toBe('rabcdefghijkl');
  expect([runIdOf('rf-abc'), runIdOf('br-abcdefghijkl'), runIdOf('rf-ABCDEFGHIJKL')]).toEqual([null, null, null]);
});

const ROUTES = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	0000000A	00000000	0001	0	0	0	000000FF	0	0	0
rf-a	0400D50A	00000000	0001	0	0	0	FCFFFFFF	0	0	0
`;

test('reads routes, and tells which stand in the way of a pool', () => {
  const routes = parseRoutes(ROUTES);
  expect(routes).toEqual([
    { owner: 'eth0', ...network('192.0.2.0/24') },
    { owner: 'tun0', ...network('10.0.0.0/8') },
    { owner: 'rf-a', ...network('10.213.0.4/30') },
  ]);
  expect(poolConflicts(network('10.213.0.0/16'), routes)).toEqual(['10.0.0.0/8 (tun0)']);
  expect(poolConflicts(network('172.31.0.0/16'), routes)).toEqual([]);
});

test('tells networks of the engine that are runs from those that are in the way', () => {
  const pool = network('10.213.0.0/16');
  const networks = engineNetworks(['172.17.0.0/16', '10.213.0.4/30', '10.213.8.1/24', 'fd00::/64'], pool);
  expect(poolConflicts(pool, networks)).toEqual(['10.213.8.0/24 (engine network 10.213.8.1/24)']);
  expect(networks).toHaveLength(3);
});

test('sees the addresses of this host', () => {
  expect(hostNetworks()).toContainEqual({ owner: 'lo', ...network('127.0.0.0/8') });
});
