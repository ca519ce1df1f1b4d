import { expect, test } from 'vitest';
import { createHostAddresses, parseLocal } from './host-addresses.ts';

const TRIE = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.2
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
     |-- 192.0.2.2
        /32 host LOCAL
     |-- 198.51.100.7
        /32 link BROADCAST
        /32 host LOCAL
Id 100:
     |-- 0.0.0.0
        /0 host LOCAL
`;

test('takes what the kernel delivers to the host, and no route or broadcast', () => {
  expect(parseLocal(TRIE)).toEqual([
    { network: 0x7f000000, prefixLength: 8 },
    { network: 0xc0000202, prefixLength: 32 },
    { network: 0xc6336407, prefixLength: 32 },
  ]);
});

test.each([
  ['192.0.2.2', true],
  ['192.0.2.3', false],
  ['127.8.8.8', true],
  ['198.51.100.7', true],
  ['198.51.100.8', false],
  ['not an address', true],
])('says of %s whether it is the host', (address, isHost) => {
  expect(createHostAddresses({ now: () => 0, read: () => TRIE })(address)).toBe(isHost);
});

test('sees an address that the host has taken in the meantime, and fails where it cannot look', () => {
  let nowMs = 0;
  let text = TRIE;
  const isHost = createHostAddresses({ now: () => nowMs, read: () => text });
  expect(isHost('192.0.2.9')).toBe(false);
  text = TRIE.replaceAll('192.0.2.2\n', '192.0.2.9\n');
  nowMs = 1_000;
  expect([isHost('192.0.2.9'), isHost('192.0.2.2')]).toEqual([true, false]);
  const blind = createHostAddresses({
    now: () => 0,
    read: () => {
      throw new Error('no /proc');
    },
  });
  expect(() => blind('192.0.2.9')).toThrow('no /proc');
});

test('knows the loopback network of this very host', () => {
  const isHost = createHostAddresses({ now: () => performance.now() });
  expect([isHost('127.0.0.1'), isHost('198.51.100.222')]).toEqual([true, false]);
});
