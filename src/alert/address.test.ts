import { expect, test } from 'vitest';
import type { AddressClass } from './address.ts';
import { addressClass } from './address.ts';

const classes: readonly (readonly [string, AddressClass])[] = [
  ['8.8.8.8', 'public'],
  ['2606:4700::1111', 'public'],
  ['203.0.113.7', 'documentation'],
  ['2001:db8::7', 'documentation'],
  ['127.0.0.1', 'local'],
  ['10.0.0.1', 'local'],
  ['172.16.0.1', 'local'],
  ['172.32.0.1', 'public'],
  ['192.168.1.1', 'local'],
  ['100.64.0.1', 'local'],
  ['::1', 'local'],
  ['fd12:3456::1', 'local'],
  ['169.254.169.254', 'never'],
  ['fd00:ec2::254', 'never'],
  ['0.0.0.0', 'never'],
  ['::', 'never'],
  ['224.0.0.1', 'never'],
  ['255.255.255.255', 'never'],
  ['fe80::1', 'never'],
  ['ff02::1', 'never'],
  ['::ffff:127.0.0.1', 'never'],
  ['::ffff:8.8.8.8', 'never'],
  ['::127.0.0.1', 'never'],
  ['64:ff9b::7f00:1', 'never'],
  ['2002:7f00:1::', 'never'],
  ['2001:0:7f00:1::', 'never'],
  ['localhost', 'never'],
  ['127.1', 'never'],
];

for (const [address, expected] of classes) {
  test(`${address} is ${expected}`, () => {
    expect(addressClass(address)).toBe(expected);
  });
}
