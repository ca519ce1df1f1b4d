import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { EgressRule, PortGrant } from './spec.ts';
import { destinationOf, parseRule, type RuleOptions } from './rules.ts';

const tcp = (...ports: number[]): readonly PortGrant[] => ports.map((port) => ({ port, protocol: 'tcp' }));
const CHECK_OF_PORT = new Map([
  [443, 'tls'],
  [80, 'http'],
]);
const checked = (ports: readonly PortGrant[]) =>
  ports.map((grant) => ({ ...grant, check: CHECK_OF_PORT.get(grant.port) ?? null }));

describe('parseRule takes', () => {
  test.each([
    ['api.example.com', 'api.example.com', false, tcp(443)],
    ['API.Example.COM.', 'api.example.com', false, tcp(443)],
    ['API.Example.COM.:8443', 'api.example.com', false, tcp(8443)],
    ['github.com:22,443', 'github.com', false, tcp(22, 443)],
    ['ssh.example.com:22/tcp', 'ssh.example.com', false, tcp(22)],
    ['*.example.com', 'example.com', true, tcp(443)],
    ['*.example.com:443,8443', 'example.com', true, tcp(443, 8443)],
    ['*.me.github.io', 'me.github.io', true, tcp(443)],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example', false, tcp(443)],
    ['a.example:1,65535', 'a.example', false, tcp(1, 65535)],
    ['a.example:80,443,8443', 'a.example', false, tcp(80, 443, 8443)],
  ])('the name %s', (text, name, wildcard, ports) => {
    expect(parseRule(text)).toEqual({
      ok: true,
      rule: { kind: 'name', text, name, wildcard, ports: checked(ports), inspect: false, requests: [] },
    });
  });

  test('both protocols on one port', () => {
    const parsed = parseRule('dns.example.com:53/udp,53', { list: 'ask', inspect: false });
    expect(parsed.ok && parsed.rule.ports).toEqual([
      { port: 53, protocol: 'udp', check: null },
      { port: 53, protocol: 'tcp', check: null },
    ]);
  });

  test.each([
    ['a.example:8443,22', {}, [null, null]],
    ['a.example:8443,22', { check: 'tls' }, ['tls', 'tls']],
    ['a.example:8080,443', { check: 'http' }, ['http', 'http']],
    ['a.example:80,443', { check: 'off' }, [null, null]],
    ['a.example:443/udp,443', {}, [null, 'tls']],
    ['a.example:443/udp,8443', { check: 'tls' }, [null, 'tls']],
  ] satisfies readonly (readonly [string, Partial<RuleOptions>, readonly ('tls' | 'http' | null)[]])[])(
    '%s with %j',
    (text, more, checks) => {
      const parsed = parseRule(text, { list: 'allow', inspect: false, ...more });
      expect(parsed.ok && parsed.rule.kind === 'name' && parsed.rule.ports.map(({ check }) => check)).toEqual(checks);
    },
  );

  test('requests of an inspected name', () => {
    const requests = ['GET /v1/*', '* /upload'];
    const rule: EgressRule = {
      kind: 'name',
      text: 'a.example:8443',
      name: 'a.example',
      wildcard: false,
      ports: [{ port: 8443, protocol: 'tcp', check: 'tls' }],
      inspect: true,
      requests: [
        { text: 'GET /v1/*', method: 'GET', path: '/v1/', pathPrefix: true },
        { text: '* /upload', method: '*', path: '/upload', pathPrefix: false },
      ],
    };
    const parsed = parseRule('a.example:8443', { list: 'allow', inspect: true, check: 'tls', requests });
    expect(parsed).toEqual({ ok: true, rule });
  });

  test.each([
    ['10.20.0.5/32:5432', '10.20.0.5', 32, tcp(5432)],
    ['10.20.0.0/16', '10.20.0.0', 16, tcp(443)],
    ['10.0.0.0/8:443', '10.0.0.0', 8, tcp(443)],
    ['203.0.113.7/32:22', '203.0.113.7', 32, tcp(22)],
    ['100.64.0.1/32:80', '100.64.0.1', 32, tcp(80)],
  ])('the address %s', (text, network, prefixLength, ports) => {
    expect(parseRule(text)).toEqual({ ok: true, rule: { kind: 'address', text, network, prefixLength, ports } });
  });
});

// The golden profiles hold what each of these is told; here is only that none of them passes.
describe('parseRule refuses', () => {
  test.each([
    '',
    '*',
    '*.',
    '*.*',
    '**.example.com',
    '*.com',
    '*.co.uk',
    '*.github.io',
    'a.*.example.com',
    '*a.example.com',
    '1.2.3',
    '1.2.3.4',
    '1.2.3.4:80',
    '0x7f.1',
    '0177.0.0.1',
    '2130706433',
    '127.1',
    '1.2.3.4.',
    '1.2.3.4/',
    '10.0.0.1/24',
    '10.0.0.0/7',
    '10.0.0.0/33',
    '10.0.0.0/08',
    '10.0.0.0/8/8',
    '0.0.0.0/0',
    '010.0.0.0/8',
    '127.0.0.1/32',
    '169.254.169.254/32',
    '169.0.0.0/8',
    '100.100.100.200/32',
    '100.100.100.0/24',
    '0.0.0.0/8',
    '224.0.0.251/32:5353/udp',
    '255.255.255.255/32',
    '168.63.129.16/32',
    '::1',
    '[::1]:443',
    '::ffff:10.0.0.5',
    '2001:db8::1/128',
    'fe80::1%eth0',
    '::/0',
    'https://example.com',
    'example.com/path',
    'example.com?x',
    'example.com#x',
    'user@example.com',
    'a\\b.example',
    'example.com ',
    ' example.com',
    'exam ple.com',
    'example.com\n',
    'example.com\0',
    'example.com\t:443',
    'example.com:',
    'example.com:0',
    'example.com:65536',
    'example.com:0443',
    'example.com:22-25',
    'example.com:+1',
    'example.com:443,',
    'example.com:,443',
    'example.com:443,443',
    'example.com:443/sctp',
    'example.com:443/TCP',
    'example.com:443/tcp/udp',
    'example.com:443:80',
    'a_b.example.com',
    '-a.example.com',
    'a-.example.com',
    '.example.com',
    'a..example.com',
    'localhost',
    'intranet',
    'bücher.example',
    'ex%61mple.com',
    'a'.repeat(601),
    `${'a'.repeat(64)}.example.com`,
  ])('%j', (text) => {
    expect(parseRule(text).ok).toBe(false);
  });

  test('a wildcard above rented names under allow, not under ask', () => {
    expect(parseRule('*.amazonaws.com', { list: 'allow', inspect: false }).ok).toBe(false);
    expect(parseRule('*.amazonaws.com', { list: 'ask', inspect: false }).ok).toBe(true);
  });

  test.each([
    ['an address to be inspected', '10.20.0.5/32', { inspect: true }],
    ['an address to be checked', '10.20.0.5/32', { check: 'tls' }],
    ['a check of a rule without tcp', 'a.example:53/udp', { check: 'tls' }],
    ['inspection beside check: off', 'a.example', { inspect: true, check: 'off' }],
    ['inspection of a port where nobody knows what is spoken', 'a.example:22', { inspect: true }],
    ['requests without inspection', 'a.example', { requests: ['GET /'] }],
    ['requests of an address', '10.20.0.5/32', { requests: ['GET /'] }],
    ['a request that is none', 'a.example', { inspect: true, requests: ['GET'] }],
  ] satisfies readonly (readonly [string, string, Partial<RuleOptions>])[])('%s', (_, text, more) => {
    expect(parseRule(text, { list: 'allow', inspect: false, ...more }).ok).toBe(false);
  });

  test.each(['10.20.0.5/32:5432', '192.168.0.0/16', '100.64.0.1/32', '198.18.0.0/24', '192.0.0.0/25'])(
    '%s under ask, where it would be a question about a never-range',
    (text) => {
      expect(parseRule(text, { list: 'ask', inspect: false })).toEqual({
        ok: false,
        rule: expect.stringMatching(/^must not reach .*: nobody is asked about what no name may lead to$/) as string,
        hint: 'write it under egress.allow, or take it out',
      });
      expect(parseRule(text, { list: 'allow', inspect: false }).ok).toBe(true);
    },
  );

  test('no public address under ask', () => {
    expect(parseRule('203.0.113.0/24', { list: 'ask', inspect: false }).ok).toBe(true);
  });
});

test('whatever comes in, it does not throw, and a rule is canonical', () => {
  const part = fc.constantFrom('*', '.', 'a', 'com', ':', '443', '/', '32', '10.0.0.0', ',', 'tcp', '%', '[', '-', 'ü');
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(part, { maxLength: 12 }).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(text, (raw) => {
      const parsed = parseRule(raw);
      if (!parsed.ok) {
        expect(parsed.rule).toMatch(/^must /);
        return;
      }
      const { rule } = parsed;
      expect(rule.ports.length).toBeGreaterThan(0);
      const ports = rule.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(',');
      const again = parseRule(`${destinationOf(rule)}:${ports}`);
      expect(again).toEqual({ ok: true, rule: { ...rule, text: `${destinationOf(rule)}:${ports}` } });
    }),
    { numRuns: 3_000 },
  );
});
