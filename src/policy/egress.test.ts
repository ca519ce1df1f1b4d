import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicaliseName } from '../profile/names.ts';
import { parseRule } from '../profile/rules.ts';
import type { EgressRule } from '../profile/spec.ts';
import { addressVerdict, isNever, nameVerdict, neverRangeOf, ruleReaches, type EgressRules } from './egress.ts';

function rule(text: string, list: 'allow' | 'ask' = 'allow'): EgressRule {
  const parsed = parseRule(text, { list, inspect: false });
  if (!parsed.ok) throw new Error(`${text} ${parsed.rule}`);
  return parsed.rule;
}

const rules: EgressRules = {
  allow: [
    rule('api.example.com'),
    rule('*.example.org:443'),
    rule('git.example.org:22'),
    rule('10.20.0.0/16:5432'),
    rule('10.20.0.5/32:53/udp'),
  ],
  ask: [rule('*.amazonaws.com', 'ask'), rule('api.example.com:8443', 'ask')],
};
const nothing: EgressRules = { allow: [], ask: [] };

describe('nameVerdict', () => {
  test.each([
    ['api.example.com', 'allow', [443]],
    ['a.example.org', 'allow', [443]],
    ['a.b.c.example.org', 'allow', [443]],
    ['git.example.org', 'allow', [443, 22]],
    ['s3.amazonaws.com', 'ask', [443]],
  ])('%s: %s', (name, kind, ports) => {
    const verdict = nameVerdict(rules, name);
    expect([verdict.kind, verdict.kind === 'deny' ? [] : verdict.ports.map(({ port }) => port)]).toEqual([kind, ports]);
  });

  test.each([
    ['a subdomain of an exact rule', 'x.api.example.com'],
    ['a parent', 'example.com'],
    ['a sibling', 'www.example.com'],
    ['the apex of a wildcard', 'example.org'],
    ['a look-alike suffix', 'evilexample.org'],
    ['a rule as the prefix of a name', 'api.example.com.evil.test'],
    ['one character more', 'api.example.comm'],
    ['one character less', 'pi.example.com'],
    ['another top level', 'api.example.net'],
    ['an address rule as a name', '10.20.0.5'],
    ['upper case, which is not canonical', 'API.example.com'],
    ['a name with an empty label before a wildcard', '.example.org'],
    ['the empty name', ''],
  ])('denies %s', (_, name) => {
    expect(nameVerdict(rules, name)).toEqual({
      kind: 'deny',
      rule: 'egress',
      explanation: `"${name}" is not in egress.allow`,
    });
  });

  test('names the first rule that matches', () => {
    expect(nameVerdict(rules, 'git.example.org')).toMatchObject({ rule: { text: '*.example.org:443' } });
  });

  test('an allow wins over an ask of the same name, without its ports', () => {
    expect(nameVerdict(rules, 'api.example.com')).toMatchObject({ kind: 'allow', ports: [{ port: 443 }] });
  });

  test('nothing is allowed without a rule, whatever the name', () => {
    fc.assert(fc.property(fc.oneof(fc.domain(), fc.string()), (name) => nameVerdict(nothing, name).kind === 'deny'));
  });

  test('what a rule does not name or cover is denied, and a wildcard never matches its apex or a look-alike', () => {
    const label = fc.stringMatching(/^[a-z0-9]{1,8}$/);
    const domain = fc.tuple(label, label).map(([left, right]) => `${left}.${right}.example`);
    fc.assert(
      fc.property(domain, domain, label, fc.boolean(), (ruled, asked, extra, wildcard) => {
        const only: EgressRules = { allow: [rule(`${wildcard ? '*.' : ''}${ruled}`)], ask: [] };
        const allowed = (name: string): boolean => nameVerdict(only, name).kind !== 'deny';
        expect(allowed(ruled)).toBe(!wildcard);
        expect(allowed(`${extra}.${ruled}`)).toBe(wildcard);
        expect(allowed(`${extra}${ruled}`)).toBe(false);
        expect(allowed(`${ruled}.${extra}`)).toBe(false);
        expect(allowed(ruled.slice(1))).toBe(false);
        if (asked !== ruled && !asked.endsWith(`.${ruled}`)) expect(allowed(asked)).toBe(false);
      }),
    );
  });

  test('spelling does not matter to a canonical name', () => {
    const name = canonicaliseName('A.EXAMPLE.ORG.');
    expect(name.ok && nameVerdict(rules, name.name).kind).toBe('allow');
  });
});

describe('addressVerdict', () => {
  test.each([
    ['10.20.0.5', 5432, 'tcp', 'allow', '10.20.0.0/16:5432'],
    ['10.20.255.255', 5432, 'tcp', 'allow', '10.20.0.0/16:5432'],
    ['10.20.0.5', 53, 'udp', 'allow', '10.20.0.5/32:53/udp'],
    ['10.20.0.6', 53, 'udp', 'deny', 'egress.never'],
    ['10.20.0.5', 53, 'tcp', 'deny', 'egress.never'],
    ['10.20.0.5', 5433, 'tcp', 'deny', 'egress.never'],
    ['10.21.0.0', 5432, 'tcp', 'deny', 'egress.never'],
    ['10.19.255.255', 5432, 'tcp', 'deny', 'egress.never'],
    ['169.254.169.254', 80, 'tcp', 'deny', 'egress.never'],
    ['203.0.113.7', 443, 'tcp', 'deny', 'egress'],
    ['8.8.8.8', 53, 'udp', 'deny', 'egress'],
    ['010.20.0.5', 5432, 'tcp', 'deny', 'egress.never'],
    ['::1', 5432, 'tcp', 'deny', 'egress.never'],
    ['::ffff:10.20.0.5', 5432, 'tcp', 'deny', 'egress.never'],
    ['', 5432, 'tcp', 'deny', 'egress.never'],
  ] as const)('%s:%i/%s: %s by %s', (address, port, protocol, kind, decided) => {
    const verdict = addressVerdict(rules, { address, port, protocol });
    expect([verdict.kind, verdict.kind === 'deny' ? verdict.rule : verdict.rule.text]).toEqual([kind, decided]);
  });

  test('says what decided', () => {
    expect(addressVerdict(nothing, { address: '10.0.0.1', port: 22, protocol: 'tcp' })).toEqual({
      kind: 'deny',
      rule: 'egress.never',
      explanation: '10.0.0.1:22/tcp is in 10.0.0.0/8 (private), reachable only when written as an address',
    });
  });

  test('nothing is allowed without a rule, whatever the address', () => {
    const destination = fc.record({
      address: fc.oneof(fc.ipV4(), fc.ipV6(), fc.string()),
      port: fc.integer({ min: 0, max: 65_535 }),
      protocol: fc.constantFrom('tcp' as const, 'udp' as const),
    });
    fc.assert(fc.property(destination, (to) => addressVerdict(nothing, to).kind === 'deny'));
  });
});

describe('never-ranges', () => {
  test.each([
    '0.0.0.0',
    '0.255.255.255',
    '10.0.0.0',
    '10.255.255.255',
    '100.64.0.0',
    '100.127.255.255',
    '127.0.0.1',
    '168.63.129.16',
    '169.254.169.254',
    '172.16.0.0',
    '172.31.255.255',
    '192.0.0.192',
    '192.168.0.1',
    '198.18.0.0',
    '198.19.255.255',
    '224.0.0.1',
    '239.255.255.255',
    '240.0.0.0',
    '255.255.255.255',
    '',
    '::1',
    'fd00::1',
    '::ffff:8.8.8.8',
    '8.8.8',
    '08.8.8.8',
    '8.8.8.8 ',
    '0x08080808',
    '256.1.1.1',
    'localhost',
  ])('%j is never reachable through a name', (address) => {
    expect(isNever(address)).toBe(true);
  });

  // The neighbours of every range, and the documentation ranges, in which the lab has its internet.
  test.each([
    '1.0.0.0',
    '9.255.255.255',
    '11.0.0.0',
    '100.63.255.255',
    '100.128.0.0',
    '126.255.255.255',
    '128.0.0.0',
    '168.63.129.15',
    '168.63.129.17',
    '169.253.255.255',
    '169.255.0.0',
    '172.15.255.255',
    '172.32.0.0',
    '192.0.1.0',
    '192.0.2.1',
    '192.167.255.255',
    '192.169.0.0',
    '198.17.255.255',
    '198.20.0.0',
    '198.51.100.1',
    '203.0.113.1',
    '223.255.255.255',
    '8.8.8.8',
  ])('%s is reachable', (address) => {
    expect(neverRangeOf(address)).toBeNull();
  });

  test('a list of the caller replaces the built-in one', () => {
    const ranges = [{ cidr: '203.0.113.0/24', what: 'ours' }];
    expect([isNever('203.0.113.9', ranges), isNever('10.0.0.1', ranges)]).toEqual([true, false]);
  });
});

test.each([
  ['10.0.0.0/8:443', true],
  ['10.213.7.0/24', true],
  ['10.212.0.0/16', false],
  ['a.example.com', false],
])('does %s reach the pool of the runs: %s', (text, reaches) => {
  expect(ruleReaches(rule(text), '10.213.0.0/16')).toBe(reaches);
});
