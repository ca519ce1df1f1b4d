import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PortGrant } from './spec.ts';
import { destinationOf, parseRule } from './rules.ts';

const tcp = (...ports: number[]): readonly PortGrant[] => ports.map((port) => ({ port, protocol: 'tcp' }));

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
  ])('the name %s', (text, name, wildcard, ports) => {
    expect(parseRule(text)).toEqual({ ok: true, rule: { kind: 'name', text, name, wildcard, ports, inspect: false } });
  });

  test('both protocols on one port', () => {
    const parsed = parseRule('dns.example.com:53/udp,53', { list: 'ask', inspect: true });
    expect(parsed).toMatchObject({
      ok: true,
      rule: {
        inspect: true,
        ports: [
          { port: 53, protocol: 'udp' },
          { port: 53, protocol: 'tcp' },
        ],
      },
    });
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

  test('an address to be inspected', () => {
    expect(parseRule('10.20.0.5/32', { list: 'allow', inspect: true }).ok).toBe(false);
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
