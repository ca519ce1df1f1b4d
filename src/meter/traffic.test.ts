import { expect, it } from 'vitest';
import type { IpsetCounters } from '../kernel/ipset.ts';
import { createTraffic } from './traffic.ts';

type Sets = Record<string, Readonly<Record<string, number>>>;

function ipsetOf(sets: Sets, reads: { count: number }) {
  return {
    counters: (set: string): Map<string, IpsetCounters> => {
      reads.count += 1;
      const entries = sets[set];
      if (entries === undefined) throw new Error(`no set ${set}`);
      return new Map(
        Object.entries(entries).map(([address, bytes]) => [address, { bytes: BigInt(bytes), packets: 1n }]),
      );
    },
  };
}

function trafficOf(sets: Sets, onlyReported: boolean, reads = { count: 0 }) {
  return createTraffic({
    ipset: ipsetOf(sets, reads),
    egressSet: 'out',
    ingressSet: 'in',
    connectionsSet: 'conns',
    onlyReported,
  });
}

function at(nowMs: number) {
  return { nowMs, ageMsMax: 100 };
}

it('tells each address its own bytes, and an unknown one nothing', () => {
  const traffic = trafficOf({ out: { a: 10, b: 20 }, in: { a: 5 }, conns: { a: 1 } }, true);
  expect([traffic.of('a', at(0)), traffic.of('b', at(1)), traffic.of('c', at(2))]).toEqual([
    { egressBytes: 10, ingressBytes: 5, connections: 1 },
    { egressBytes: 20, ingressBytes: 0, connections: 0 },
    { egressBytes: 0, ingressBytes: 0, connections: 0 },
  ]);
});

it('reads the sets once for all runs, and again later', () => {
  const sets: Sets = { out: { a: 10 }, in: {}, conns: {} };
  const reads = { count: 0 };
  const traffic = trafficOf(sets, true, reads);
  traffic.of('a', at(0));
  sets['out'] = { a: 11 };
  const soon = traffic.of('a', at(99)).egressBytes;
  const later = traffic.of('a', at(100)).egressBytes;
  expect([soon, later, reads.count]).toEqual([10, 11, 6]);
});

it('keeps the numbers while a set is missing where they are only reported, and throws where they decide', () => {
  const sets: Sets = { out: { a: 10 }, in: {}, conns: {} };
  const [reported, deciding] = [trafficOf(sets, true), trafficOf(sets, false)];
  reported.of('a', at(0));
  deciding.of('a', at(0));
  delete sets['in'];
  expect(reported.of('a', at(200)).egressBytes).toBe(10);
  expect(() => deciding.of('a', at(200))).toThrow(/no set in/);
});
