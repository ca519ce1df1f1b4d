import { expect, test } from 'vitest';
import { formatIpv6, parsePacket } from './packet.ts';

const TCP_IPV4 = '4500003c1c4640004006b1e60ad500026440000ac0de01bb0000000000000000a002ffff00000000';

const CASES: readonly { readonly title: string; readonly hex: string; readonly expected: unknown }[] = [
  {
    title: 'a TCP packet over IPv4',
    hex: TCP_IPV4,
    expected: {
      family: 4,
      source: '10.213.0.2',
      destination: '100.64.0.10',
      protocol: 'tcp',
      sourcePort: 49374,
      destinationPort: 443,
    },
  },
  {
    title: 'a later fragment, whose first bytes are no ports',
    hex: TCP_IPV4.slice(0, 12) + '00b9' + TCP_IPV4.slice(16),
    expected: {
      family: 4,
      source: '10.213.0.2',
      destination: '100.64.0.10',
      protocol: 'tcp',
      sourcePort: null,
      destinationPort: null,
    },
  },
  {
    title: 'an IPv6 neighbour solicitation',
    hex: '6000000000083afffe80000000000000021122fffe334455ff0200000000000000000001ff0000018700000000000000',
    expected: {
      family: 6,
      source: 'fe80::211:22ff:fe33:4455',
      destination: 'ff02::1:ff00:1',
      protocol: 'icmpv6',
      sourcePort: null,
      destinationPort: null,
    },
  },
  { title: 'half a header', hex: TCP_IPV4.slice(0, 30), expected: null },
  { title: 'nothing', hex: '', expected: null },
  { title: 'a version that does not exist', hex: `9${TCP_IPV4.slice(1)}`, expected: null },
];

test.each(CASES)('reads $title', ({ hex, expected }) => {
  expect(parsePacket(Buffer.from(hex, 'hex'))).toEqual(expected);
});

test('reads a TCP header cut before its ports', () => {
  expect(parsePacket(Buffer.from(TCP_IPV4.slice(0, 44), 'hex'))).toMatchObject({ protocol: 'tcp', sourcePort: null });
});

test.each([
  ['00000000000000000000000000000000', '::'],
  ['00000000000000000000000000000001', '::1'],
  ['20010db8000000010000000000000000', '2001:db8:0:1::'],
  ['20010db8000100020003000400050006', '2001:db8:1:2:3:4:5:6'],
])('writes %s as %s', (hex, text) => {
  expect(formatIpv6(Buffer.from(hex, 'hex'))).toBe(text);
});
