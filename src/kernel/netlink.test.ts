import { expect, test } from 'vitest';
import { attribute, nested, netfilterMessage, networkAttribute, textAttribute } from './netlink.ts';
import { errorNumber, parseAttributes, parseMessages } from './netlink.ts';

test('reads back what it writes, padding and nesting included', () => {
  const message = netfilterMessage({
    type: 0x609,
    flags: 5,
    sequence: 7,
    family: 2,
    resource: 86,
    attributes: [
      textAttribute(2, 'rf-dns'),
      nested(7, [networkAttribute(4, { bits: 16, value: 443n }), attribute(9, Buffer.alloc(4))]),
    ],
  });
  const [first, second] = parseMessages(Buffer.concat([message, message]));
  expect(second).toEqual(first);
  expect({ type: first?.type, flags: first?.flags, sequence: first?.sequence }).toEqual({
    type: 0x609,
    flags: 5,
    sequence: 7,
  });
  expect(first?.body.subarray(0, 4).toString('hex')).toBe('02000056');
  const [name, data] = parseAttributes(first?.body.subarray(4) ?? Buffer.alloc(0));
  expect(name).toEqual({ type: 2, payload: Buffer.from('rf-dns\0') });
  expect(data?.type).toBe(7);
  expect(parseAttributes(data?.payload ?? Buffer.alloc(0))).toEqual([
    { type: 4, payload: Buffer.from('01bb', 'hex') },
    { type: 9, payload: Buffer.alloc(4) },
  ]);
});

test('stops at a torn message and at a torn attribute', () => {
  const message = netfilterMessage({ type: 1, flags: 0, sequence: 1, family: 0, resource: 0, attributes: [] });
  expect(parseMessages(Buffer.concat([message, message.subarray(0, 18)]))).toHaveLength(1);
  expect(parseAttributes(Buffer.from('ffff0100', 'hex'))).toEqual([]);
  expect(parseAttributes(Buffer.from('00000100', 'hex'))).toEqual([]);
});

test('reads the error number of an acknowledgement', () => {
  const body = Buffer.alloc(4);
  body.writeInt32LE(-2);
  expect(errorNumber({ type: 2, flags: 0, sequence: 0, body })).toBe(2);
});
