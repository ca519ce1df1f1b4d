import { decode, encode } from 'dns-packet';
import type { Answer, DecodedPacket } from 'dns-packet';
import { expect, test } from 'vitest';
import { entrySeconds, walkAnswer } from './answer.ts';

const a = (name: string, data: string, ttl = 60): Answer => ({ type: 'A', name, data, ttl });
const cname = (name: string, data: string, ttl = 60): Answer => ({ type: 'CNAME', name, data, ttl });
const packet = (...answers: Answer[]): DecodedPacket => decode(encode({ type: 'response', id: 1, answers }));

test.each([
  ['an address', packet(a('good.test', '198.51.100.10')), { addresses: ['198.51.100.10'], ttlSeconds: 60 }],
  ['a name in other case', packet(a('GOOD.test', '198.51.100.10')), { addresses: ['198.51.100.10'] }],
  [
    'a chain of aliases, with the shortest life of it',
    packet(cname('good.test', 'b.test', 20), cname('b.test', 'c.test'), a('c.test', '198.51.100.12')),
    { addresses: ['198.51.100.12'], ttlSeconds: 20, finalName: 'c.test' },
  ],
  ['an address of somebody else', packet(a('evil.test', '198.51.100.66')), { addresses: [] }],
  [
    'an address beside the chain',
    packet(cname('good.test', 'b.test'), a('evil.test', '198.51.100.66'), a('b.test', '198.51.100.12')),
    { addresses: ['198.51.100.12'] },
  ],
  ['a long life', packet(a('good.test', '198.51.100.10', 86_400)), { ttlSeconds: 300 }],
  ['no life at all', packet(a('good.test', '198.51.100.10', 0)), { ttlSeconds: 5 }],
  [
    'an alias that leads out of the answer',
    packet(cname('good.test', 'cdn.test')),
    { kind: 'alias', target: 'cdn.test' },
  ],
  ['an alias of itself', packet(cname('good.test', 'good.test')), { kind: 'loop' }],
  ['aliases in a circle', packet(cname('good.test', 'b.test'), cname('b.test', 'good.test')), { kind: 'loop' }],
])('walks %s', (_, answer, expected) => {
  expect(walkAnswer(answer, 'good.test')).toMatchObject(expected);
});

test('takes sixteen addresses of a hundred, and each once', () => {
  const many = packet(...Array.from({ length: 100 }, (_, index) => a('good.test', `198.51.100.${index}`)));
  const walk = walkAnswer(many, 'good.test');
  expect(walk.kind === 'addresses' && walk.addresses).toHaveLength(16);
  const twice = walkAnswer(packet(a('good.test', '198.51.100.1'), a('good.test', '198.51.100.1')), 'good.test');
  expect(twice.kind === 'addresses' && twice.addresses).toEqual(['198.51.100.1']);
});

test('keeps a door open longer than the client keeps the address', () => {
  expect([5, 60, 300].map(entrySeconds)).toEqual([90, 90, 330]);
});
