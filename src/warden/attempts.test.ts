import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { PacketFacts } from '../kernel/packet.ts';
import { createAskedTold, createAttempts } from './attempts.ts';

const FIRST: PacketFacts = {
  family: 4,
  source: '10.213.0.2',
  destination: '198.51.100.1',
  protocol: 'tcp',
  sourcePort: 40_000,
  destinationPort: 8_080,
};

function counted(packets: readonly (readonly [number, Partial<PacketFacts>])[], names: Names = {}): number {
  const attempts = createAttempts();
  for (const [name, addresses] of Object.entries(names)) {
    attempts.resolved({ kind: 'resolved', address: '10.213.0.2', name, addresses });
  }
  return packets.filter(([atMs, more]) => !attempts.isRepeat({ ...FIRST, ...more }, atMs)).length;
}

type Names = Readonly<Record<string, readonly string[]>>;
const TEN = Array.from({ length: 10 }, (_, index) => `198.51.100.${index + 1}`);
const TRIES = TEN.map((destination, index) => [index * 100, { destination, sourcePort: 40_000 + index }] as const);

describe('one attempt', () => {
  const resent = [0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000];

  it.each([
    ['an opening that the kernel sends again', resent.map((atMs) => [atMs, {}] as const), 1],
    [
      'openings from two ports',
      [
        [0, {}],
        [1, { sourcePort: 40_001 }],
      ],
      2,
    ],
    [
      'openings to two addresses',
      [
        [0, {}],
        [1, { destination: '198.51.100.2' }],
      ],
      2,
    ],
    [
      'openings to two ports',
      [
        [0, {}],
        [1, { destinationPort: 22 }],
      ],
      2,
    ],
    [
      'the same ports long afterwards',
      [
        [0, {}],
        [41_000, {}],
      ],
      2,
    ],
    [
      'datagrams',
      [
        [0, { protocol: 'udp' }],
        [1, { protocol: 'udp' }],
      ],
      2,
    ],
    [
      'packets without ports',
      [
        [0, { protocol: 'icmp', sourcePort: null, destinationPort: null }],
        [1, { protocol: 'icmp', sourcePort: null, destinationPort: null }],
      ],
      2,
    ],
  ] as const)('counts %s', (_, packets, expected) => {
    expect(counted(packets)).toBe(expected);
  });

  it('is a client that tries ten addresses of one name, and ten attempts without the name', () => {
    expect([counted(TRIES, { 'a.example': TEN }), counted(TRIES)]).toEqual([1, 10]);
  });

  it('is no client that tries the addresses of two names, another port, the same address again, or later', () => {
    const halves = { 'a.example': TEN.slice(0, 5), 'b.example': TEN.slice(5) };
    const names = { 'a.example': TEN };
    const otherPort = [...TRIES.slice(0, 2), [200, { destination: TEN[2], destinationPort: 22 }] as const];
    const again = [...TRIES.slice(0, 2), [200, { destination: TEN[0], sourcePort: 50_000 }] as const];
    const later = [...TRIES.slice(0, 2), [3_001, { destination: TEN[2], sourcePort: 50_000 }] as const];
    expect([
      counted(TRIES, halves),
      ...[otherPort, again, later].map((packets) =>
        counted(
          packets.map(([atMs, { destination = FIRST.destination, ...more }]) => [atMs, { destination, ...more }]),
          names,
        ),
      ),
    ]).toEqual([2, 2, 2, 2]);
  });

  it('hides no more than a bounded part of what was refused, whatever is sent', () => {
    const packet = fc.record({
      afterMs: fc.nat({ max: 2_000 }),
      destination: fc.constantFrom(...TEN),
      sourcePort: fc.integer({ min: 40_000, max: 40_020 }),
      destinationPort: fc.constantFrom(22, 8_080),
    });
    fc.assert(
      fc.property(fc.array(packet, { maxLength: 400 }), (sent) => {
        let atMs = 0;
        const packets = sent.map(({ afterMs, ...more }) => {
          atMs += afterMs;
          return [atMs, more] as const;
        });
        expect(counted(packets, { 'a.example': TEN }) * 70).toBeGreaterThanOrEqual(sent.length);
      }),
    );
  });
});

describe('a destination that waits for a person', () => {
  it('is told once a second', () => {
    const told = createAskedTold();
    expect([0, 999, 1_000, 1_500, 2_000].map((atMs) => told.admit('a', atMs))).toEqual([
      true,
      false,
      true,
      false,
      true,
    ]);
  });

  it('is told beside others, of which there are at most 64 a second', () => {
    const told = createAskedTold();
    const admitted = (atMs: number): number =>
      Array.from({ length: 200 }, (_, index) => told.admit(String(index), atMs)).filter(Boolean).length;
    expect([admitted(0), admitted(500), admitted(1_000)]).toEqual([64, 0, 64]);
  });
});
