import { expect, test } from 'vitest';
import { addressGrant, grantOf, HTTPS, nameGrant } from '../../test/support/grants.ts';
import type { FenceGrant, FenceLease } from '../core/ports/fence.ts';
import { parseConnections, staysOpen } from './connections.ts';

const LEASE: FenceLease = {
  runId: 'raaaaaaaaaaa1',
  bridge: 'rf-aaaaaaaaaaa1',
  subnet: '10.213.0.0/30',
  gateway: '10.213.0.1',
  address: '10.213.0.2',
};

test('reads the first packet’s side of each connection, and its mark', () => {
  const lines = [
    'tcp      6 431999 ESTABLISHED src=10.213.0.2 dst=198.51.100.10 sport=40000 dport=443 src=198.51.100.10 dst=192.0.2.2 sport=443 dport=40000 [ASSURED] mark=33554432 use=1',
    'udp      17 29 src=10.213.0.2 dst=10.213.0.1 sport=50000 dport=53 [UNREPLIED] src=10.213.0.1 dst=10.213.0.2 sport=5365 dport=50000 mark=0 use=1',
    'icmp     1 29 src=10.213.0.2 dst=198.51.100.10 type=8 code=0 id=1 src=198.51.100.10 dst=10.213.0.2 type=0 code=0 id=1 mark=0 use=1',
    '',
  ];
  expect(parseConnections(lines.join('\n'))).toEqual([
    { protocol: 'tcp', source: '10.213.0.2', destination: '198.51.100.10', port: 443, mark: 0x0200_0000 },
    { protocol: 'udp', source: '10.213.0.2', destination: '10.213.0.1', port: 53, mark: 0 },
  ]);
});

const open = { protocol: 'tcp', source: LEASE.address, destination: '198.51.100.10', port: 443, mark: 1 } as const;
const allowed = addressGrant('198.51.100.0/24', [HTTPS]);
const asked = addressGrant('198.51.100.0/24', [HTTPS], { ask: true });
const otherPort = addressGrant('198.51.100.0/24', [{ port: 80, protocol: 'tcp' }]);
const [one, two] = [nameGrant('one.test'), nameGrant('two.test')];

const CASES: readonly {
  readonly what: string;
  readonly before: Partial<FenceGrant> | null;
  readonly after: Partial<FenceGrant>;
  readonly listed?: boolean;
  readonly stays: boolean;
}[] = [
  { what: 'still allowed', before: { addresses: [allowed] }, after: { addresses: [allowed] }, stays: true },
  { what: 'allowed no more', before: { addresses: [allowed] }, after: {}, stays: false },
  {
    what: 'allowed on another port',
    before: { addresses: [allowed] },
    after: { addresses: [otherPort] },
    stays: false,
  },
  { what: 'asked about now', before: { addresses: [allowed] }, after: { addresses: [asked] }, stays: false },
  { what: 'approved before', before: { addresses: [asked] }, after: { addresses: [asked] }, stays: true },
  { what: 'asked about no more', before: { addresses: [asked] }, after: {}, stays: false },
  { what: 'still in a set', before: { addresses: [allowed] }, after: {}, listed: true, stays: true },
  { what: 'by a name, and more names', before: { names: [one] }, after: { names: [one, two] }, stays: true },
  { what: 'by a name, and fewer names', before: { names: [one, two] }, after: { names: [one] }, stays: false },
  {
    what: 'by a name that is asked about now',
    before: { names: [one] },
    after: { names: [{ ...one, ask: true }] },
    stays: false,
  },
  { what: 'of a run that nobody remembers', before: null, after: { names: [one] }, stays: false },
];

test.each(CASES)('a connection $what', ({ before, after, listed = false, stays }) => {
  const change = {
    before: before === null ? null : grantOf({ lease: LEASE, ...before }),
    after: grantOf({ lease: LEASE, ...after }),
  };
  expect(staysOpen(open, change, { test: () => listed })).toBe(stays);
});
