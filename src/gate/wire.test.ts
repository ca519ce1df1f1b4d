import { decode, encode } from 'dns-packet';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeFormatError, encodeReply, parseQuery, RCODE } from './wire.ts';
import type { Query } from './wire.ts';

const PLAIN = '4242010000010000000000000474657374076578616d706c6503636f6d0000010001';
const EDNS = `${PLAIN.slice(0, 20)}0001${PLAIN.slice(24)}`;
const OPT = '00002904d0000000000000';

function queryOf(hex: string): Query {
  const parsed = parseQuery(Buffer.from(hex, 'hex'));
  if (!parsed.ok) throw new Error(parsed.problem);
  return parsed.query;
}

test('reads a plain question', () => {
  expect(queryOf(PLAIN)).toMatchObject({
    id: 0x4242,
    opcode: 0,
    recursionDesired: true,
    labels: ['test', 'example', 'com'],
    type: 1,
    class: 1,
    edns: false,
    udpBytesMax: 512,
  });
  expect(queryOf(EDNS + OPT)).toMatchObject({ edns: true, udpBytesMax: 1232 });
});

test.each([
  ['nothing', '', null],
  ['half a header', PLAIN.slice(0, 20), null],
  ['an answer', `42428180${PLAIN.slice(8)}`, null],
  ['two questions', `${PLAIN.slice(0, 8)}0002${PLAIN.slice(12)}`, 0x4242],
  ['no question', `${PLAIN.slice(0, 8)}0000${PLAIN.slice(12)}`, 0x4242],
  ['a record of its own', `${PLAIN.slice(0, 12)}0001${PLAIN.slice(16)}`, 0x4242],
  ['a name that does not end', PLAIN.slice(0, 40), 0x4242],
  ['a pointer in the name', `${PLAIN.slice(0, 24)}c00c00010001`, 0x4242],
  ['a label of 64 bytes', `${PLAIN.slice(0, 24)}40${'61'.repeat(64)}0000010001`, 0x4242],
  ['a name of 300 bytes', `${PLAIN.slice(0, 24)}${`3f${'61'.repeat(63)}`.repeat(5)}0000010001`, 0x4242],
  ['bytes behind the question', `${PLAIN}00`, 0x4242],
  ['a second additional record', `${EDNS.slice(0, 20)}0002${EDNS.slice(24)}${OPT}${OPT}`, 0x4242],
  ['an option longer than the message', `${EDNS}00002904d000000000ffff`, 0x4242],
])('refuses %s', (_, hex, id) => {
  expect(parseQuery(Buffer.from(hex, 'hex'))).toMatchObject({ ok: false, id });
});

test('never throws and never reads past the end, whatever comes', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
      const parsed = parseQuery(Buffer.from(bytes));
      if (parsed.ok) encodeReply(parsed.query, { rcode: 5, addresses: [], ttlSeconds: 0, extended: null }, 'udp');
    }),
  );
});

test('answers with addresses that any other decoder reads, the question as it was asked', () => {
  const asked = encode({ type: 'query', id: 7, flags: 256, questions: [{ type: 'A', name: 'GooD.TeSt' }] });
  const parsed = parseQuery(asked);
  if (!parsed.ok) throw new Error(parsed.problem);
  const addresses = ['198.51.100.10', '198.51.100.11'];
  const reply = encodeReply(parsed.query, { rcode: RCODE.ok, addresses, ttlSeconds: 30, extended: null }, 'udp');
  expect(decode(reply)).toMatchObject({
    type: 'response',
    id: 7,
    rcode: 'NOERROR',
    questions: [{ name: 'GooD.TeSt', type: 'A', class: 'IN' }],
    answers: addresses.map((data) => ({ name: 'GooD.TeSt', type: 'A', ttl: 30, data })),
    additionals: [],
  });
});

test('puts the reason in an extended error for clients that ask with EDNS, and for no other', () => {
  const refusal = { rcode: RCODE.refused, addresses: [], ttlSeconds: 0, extended: { code: 15, text: 'not listed' } };
  const [option] = [decode(encodeReply(queryOf(EDNS + OPT), refusal, 'udp'))].flatMap(({ additionals }) =>
    (additionals ?? []).flatMap((record) => (record.type === 'OPT' ? record.options : [])),
  ) as unknown as { code: number; data: Buffer }[];
  expect([option?.code, option?.data.readUInt16BE(0), option?.data.subarray(2).toString()]).toEqual([
    15,
    15,
    'not listed',
  ]);
  expect(decode(encodeReply(queryOf(PLAIN), refusal, 'udp')).additionals).toEqual([]);
});

test('truncates over UDP what the client does not take, and not over TCP', () => {
  const addresses = Array.from({ length: 60 }, (_, index) => `198.51.100.${index}`);
  const reply = { rcode: RCODE.ok, addresses, ttlSeconds: 30, extended: null };
  const cut = decode(encodeReply(queryOf(PLAIN), reply, 'udp'));
  expect([cut.flag_tc, cut.answers]).toEqual([true, []]);
  expect(decode(encodeReply(queryOf(PLAIN), reply, 'tcp')).answers).toHaveLength(60);
});

test('answers what it cannot read with its id alone', () => {
  expect(encodeFormatError(0x4242).toString('hex')).toBe('424280810000000000000000');
});
