import { encode } from 'dns-packet';
import { expect, test } from 'vitest';
import { decideQuery, rulesOf } from './decide.ts';
import { parseQuery } from './wire.ts';
import type { Query } from './wire.ts';

const PORTS = [{ port: 443, protocol: 'tcp' }] as const;
const RULES = rulesOf([
  { name: 'good.test', wildcard: false, ports: PORTS, text: 'good.test' },
  { name: 'good.test', wildcard: false, ports: [{ port: 22, protocol: 'tcp' }], text: 'good.test:22' },
  { name: 'wild.test', wildcard: true, ports: PORTS, text: '*.wild.test' },
]);
const OWN = ['10.213.0.2', '10.213.0.1'];

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
  const both = [...PORTS, { port: 22, protocol: 'tcp' }];
  for (const name of ['good.test', 'GOOD.TeSt']) {
    expect(decideQuery(RULES, question(name), OWN)).toEqual({
      kind: 'resolve',
      name: 'good.test',
      ports: both,
      wildcard: false,
    });
  }
  expect(decideQuery(RULES, question('a.b.wild.test'), OWN)).toEqual({
    kind: 'resolve',
    name: 'a.b.wild.test',
    ports: PORTS,
    wildcard: true,
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
  expect(decideQuery(RULES, query, OWN)).toMatchObject({
    kind: 'refuse',
    counts: true,
    refusal: { rule, destination },
  });
});

test('says that a listed name has no IPv6 address and no service record, without a denial', () => {
  for (const type of ['AAAA', 'UNKNOWN_65', 'UNKNOWN_64']) {
    expect(decideQuery(RULES, question('good.test', type), OWN)).toEqual({ kind: 'empty' });
    expect(decideQuery(RULES, question('other.test', type), OWN)).toMatchObject({ kind: 'refuse', counts: true });
  }
});

test('holds nobody to account for the reverse of their own address', () => {
  const decision = decideQuery(RULES, question('2.0.213.10.in-addr.arpa', 'PTR'), OWN);
  expect(decision).toMatchObject({ kind: 'refuse', counts: false });
});
