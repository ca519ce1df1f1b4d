import { encode } from 'dns-packet';
import { expect, test } from 'vitest';
import { decideQuery } from './decide.ts';
import { named } from './testing.ts';
import { rulesOf } from './verdict.ts';
import type { Standing } from './verdict.ts';
import { parseQuery } from './wire.ts';
import type { Query } from './wire.ts';

const RULES = rulesOf([named('good.test'), named('good.test:22'), named('*.wild.test'), named('?later.test:443,22')]);
const HTTPS = { port: 443, protocol: 'tcp', check: 'tls', untilMs: null };
const SSH = { port: 22, protocol: 'tcp', check: null, untilMs: null };

function decide(query: Query, standing: Standing = { kind: 'undecided' }) {
  return decideQuery({ rules: RULES, standing: () => standing, ownAddresses: ['10.213.0.2', '10.213.0.1'] }, query);
}

function question(name: string, type = 'A'): Query {
  const parsed = parseQuery(encode({ type: 'query', id: 1, questions: [{ type: type as 'A', name }] }));
  if (!parsed.ok) throw new Error(parsed.problem);
  return parsed.query;
}

/** A question whose labels hold any bytes: what an encoder would not write. */
function labelled(...labels: string[]): Query {
  return { ...question('good.test'), labels };
}

test('resolves a listed name in any spelling of case, with every port that rules give it', () => {
  for (const name of ['good.test', 'GOOD.TeSt']) {
    const whole = { kind: 'resolve', name: 'good.test', ports: [HTTPS, SSH], wildcard: null };
    expect(decide(question(name))).toEqual(whole);
  }
  const below = { kind: 'resolve', name: 'a.b.wild.test', ports: [HTTPS], wildcard: 'wild.test' };
  expect(decide(question('a.b.wild.test'))).toEqual(below);
});

test('asks a person about every type of question that may lead to an address, and about no other', () => {
  const ports = [
    { port: 443, protocol: 'tcp' },
    { port: 22, protocol: 'tcp' },
  ];
  const request = { kind: 'name', name: 'later.test', ports, rule: 'later.test:443,22' };
  for (const type of ['A', 'AAAA', 'UNKNOWN_65']) {
    expect(decide(question('Later.test', type))).toEqual({ kind: 'ask', request });
  }
  expect(decide(question('later.test', 'TXT'))).toMatchObject({ kind: 'refuse', counts: true });
  expect(decide(question('a.later.test'))).toMatchObject({ kind: 'refuse', counts: true });
});

test('follows what a person said, for the ports that the person saw', () => {
  const approved = { kind: 'approved', ports: [{ port: 22, protocol: 'tcp' }], untilMs: 9_000 } as const;
  const open = { kind: 'resolve', name: 'later.test', ports: [{ ...SSH, untilMs: 9_000 }], wildcard: null };
  expect(decide(question('later.test'), approved)).toEqual(open);
  expect(decide(question('later.test', 'AAAA'), approved)).toEqual({ kind: 'empty' });
  expect(decide(question('other.test'), approved)).toMatchObject({ kind: 'refuse', counts: true });
  const denied = decide(question('later.test'), { kind: 'denied' });
  expect(denied).toMatchObject({
    kind: 'refuse',
    counts: true,
    refusal: { rule: 'egress', destination: 'later.test' },
  });
});

test.each([
  ['another name', question('other.test'), 'egress', 'other.test'],
  ['the apex of a wildcard', question('wild.test'), 'egress', 'wild.test'],
  ['a look-alike suffix', question('evilgood.test'), 'egress', 'evilgood.test'],
  ['a listed name below another', question('good.test.evil.test'), 'egress', 'good.test.evil.test'],
  ['one character less', question('ood.test'), 'egress', 'ood.test'],
  ['a subdomain of an exact rule', question('a.good.test'), 'egress', 'a.good.test'],
  ['the root', question('.'), 'dns.name', '.'],
  ['an underscore', question('_dmarc.good.test'), 'dns.name', '_dmarc.good.test'],
  ['a dot inside a label', labelled('good.test'), 'dns.name', 'good.test'],
  ['a NUL', labelled('good', 'test\0'), 'dns.name', String.raw`good.test\u{0}`],
  ['a new line', labelled('good\n', 'test'), 'dns.name', String.raw`good\u{a}.test`],
  ['a space', labelled('good', 'test '), 'dns.name', 'good.test '],
  ['UTF-8 bytes', labelled('gööd', 'test'), 'dns.name', 'gööd.test'],
  ['an address', question('198.51.100.10'), 'dns.name', '198.51.100.10'],
  ['an address in hexadecimal', question('0x7f.1'), 'dns.name', '0x7f.1'],
  ['TXT of a listed name', question('good.test', 'TXT'), 'dns.type', 'good.test'],
  ['NULL of a listed name', question('good.test', 'NULL'), 'dns.type', 'good.test'],
  ['MX of a listed name', question('good.test', 'MX'), 'dns.type', 'good.test'],
  ['SRV of a listed name', question('good.test', 'SRV'), 'dns.type', 'good.test'],
  ['CNAME of a listed name', question('good.test', 'CNAME'), 'dns.type', 'good.test'],
  ['another class', { ...question('good.test'), class: 3 }, 'dns.type', 'good.test'],
  ['another opcode', { ...question('good.test'), opcode: 5 }, 'dns.malformed', 'good.test'],
  [
    'the reverse of somebody else',
    question('53.100.51.198.in-addr.arpa', 'PTR'),
    'egress',
    '53.100.51.198.in-addr.arpa',
  ],
] as const)('refuses %s', (_, query, rule, destination) => {
  expect(decide(query)).toMatchObject({
    kind: 'refuse',
    counts: true,
    refusal: { rule, destination },
  });
});

test('says that a listed name has no IPv6 address and no service record, without a denial', () => {
  for (const type of ['AAAA', 'UNKNOWN_65', 'UNKNOWN_64']) {
    expect(decide(question('good.test', type))).toEqual({ kind: 'empty' });
    expect(decide(question('other.test', type))).toMatchObject({ kind: 'refuse', counts: true });
  }
});

test('holds nobody to account for the reverse of their own address', () => {
  const decision = decide(question('2.0.213.10.in-addr.arpa', 'PTR'));
  expect(decision).toMatchObject({ kind: 'refuse', counts: false });
});
