import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FENCE_PREFIXES } from '../core/fence-names.ts';
import type { NflogPacket } from '../kernel/nflog.ts';
import { createDenialValve, denialOfPacket, ownerOfPacket, parseGateLine } from './denials.ts';

const AT = '2026-01-01T00:00:00.000Z';
const PACKET: NflogPacket = {
  prefix: FENCE_PREFIXES.deny,
  sequence: 0,
  packet: {
    family: 4,
    source: '10.213.0.2',
    destination: '198.51.100.9',
    protocol: 'tcp',
    sourcePort: 40_000,
    destinationPort: 22,
  },
  inputDevice: 3,
  outputDevice: null,
  uid: null,
};

describe('denialOfPacket', () => {
  it.each([
    [FENCE_PREFIXES.deny, 'packet', 'egress'],
    [FENCE_PREFIXES.never, 'packet', 'egress.never'],
    [FENCE_PREFIXES.host, 'packet', 'egress.host'],
    [FENCE_PREFIXES.spoof, 'spoof', 'egress.spoof'],
    [FENCE_PREFIXES.budget, 'budget', 'budget.egress'],
    [FENCE_PREFIXES.connections, 'budget', 'budget.connections'],
    [FENCE_PREFIXES.rate, 'packet', 'egress.rate'],
    ['something else', 'packet', 'egress'],
  ])('tells by the prefix %s which rule refused', (prefix, kind, rule) => {
    const denial = denialOfPacket({ ...PACKET, prefix }, AT);
    expect(denial).toMatchObject({ kind, rule, destination: '198.51.100.9', port: 22, protocol: 'tcp', at: AT });
  });

  it('says so when the packet could not be read', () => {
    expect(denialOfPacket({ ...PACKET, packet: null }, AT)).toMatchObject({
      destination: 'unreadable packet',
      port: null,
      protocol: 'unknown',
    });
  });
});

describe('a packet that came in beyond its budget', () => {
  const facts = { family: 4, source: '198.51.100.9', destination: '10.213.0.2', protocol: 'tcp' } as const;
  const packet: NflogPacket = {
    ...PACKET,
    prefix: FENCE_PREFIXES.ingress,
    packet: { ...facts, sourcePort: 443, destinationPort: 40_000 },
    inputDevice: 3,
    outputDevice: 7,
  };

  it('is told by who sent it', () => {
    expect(denialOfPacket(packet, AT)).toMatchObject({
      kind: 'budget',
      rule: 'budget.ingress',
      destination: '198.51.100.9',
      port: 443,
    });
  });

  it('belongs to the run that it was for, and every other packet to the run that it came from', () => {
    expect([ownerOfPacket(packet), ownerOfPacket({ ...packet, prefix: FENCE_PREFIXES.deny })]).toEqual([
      { device: 7, address: '10.213.0.2' },
      { device: 3, address: '198.51.100.9' },
    ]);
  });
});

describe('parseGateLine', () => {
  const good = { address: '10.213.0.2', suppressed: 3, denial: denialOfPacket(PACKET, AT) };

  it('takes what the gate sends', () => {
    expect(parseGateLine(JSON.stringify(good))).toEqual({ kind: 'denied', ...good });
  });

  it.each([
    ['no JSON', 'x'],
    ['null', 'null'],
    ['no denial', JSON.stringify({ ...good, denial: null })],
    ['a number for an address', JSON.stringify({ ...good, address: 1 })],
    ['a foreign kind', JSON.stringify({ ...good, denial: { ...good.denial, kind: 'other' } })],
    ['a port that is none', JSON.stringify({ ...good, denial: { ...good.denial, port: 70_000 } })],
    ['no destination', JSON.stringify({ ...good, denial: { ...good.denial, destination: undefined } })],
  ])('passes over %s', (_, line) => {
    expect(parseGateLine(line)).toBeNull();
  });

  it('takes the addresses of a name, as many as one attempt may have', () => {
    const addresses = Array.from({ length: 40 }, (_, index) => `198.51.100.${index}`);
    const resolved = { kind: 'resolved', address: '10.213.0.2', name: 'a.example', addresses };
    expect([
      parseGateLine(JSON.stringify(resolved)),
      parseGateLine(JSON.stringify({ ...resolved, addresses: 'all' })),
      parseGateLine(JSON.stringify({ ...resolved, name: 4 })),
    ]).toEqual([{ ...resolved, addresses: addresses.slice(0, 16) }, null, null]);
  });

  it('lets no text of an agent through that is long or not printable, and no count that is none', () => {
    const hostile = {
      ...good,
      suppressed: -1,
      denial: { ...good.denial, destination: `\u001b[2J\n${'x'.repeat(5_000)}` },
    };
    const parsed = parseGateLine(JSON.stringify(hostile));
    if (parsed?.kind !== 'denied') throw new Error('it is a denial');
    expect(parsed.suppressed).toBe(0);
    expect(parsed.denial.destination).toMatch(/^\\u\{1b\}\[2J\\u\{a\}x+… \(\d+ characters\)$/);
    expect(parsed.denial.destination.length).toBeLessThan(400);
  });
});

it('lets a bounded number of denials through, and every other one is told as suppressed', () => {
  const arrivals = fc.array(fc.record({ afterMs: fc.nat({ max: 50 }), count: fc.integer({ min: 1, max: 9 }) }));
  fc.assert(
    fc.property(arrivals, (steps) => {
      const valve = createDenialValve();
      let nowMs = 0;
      let [arrived, told, open] = [0, 0, 0];
      for (const { afterMs, count } of steps) {
        nowMs += afterMs;
        arrived += count;
        const suppressed = valve.admit(nowMs, count);
        if (suppressed === null) continue;
        open += 1;
        told += 1 + suppressed;
        expect(told).toBe(arrived);
      }
      expect(open).toBeLessThanOrEqual(33 + nowMs / 100);
    }),
  );
});
