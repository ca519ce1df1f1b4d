import { expect, test } from 'vitest';
import type { FenceCounters, FenceGrant } from '../core/ports/fence.ts';
import { adjusted, grantedOnceMore, UNADJUSTED } from './adjust.ts';
import { specOf } from './testing.ts';

const LEASE = { runId: 'r', bridge: 'rf-1', subnet: '10.0.0.0/30', gateway: '10.0.0.1', address: '10.0.0.2' };
const GRANT: FenceGrant = {
  lease: LEASE,
  names: [],
  addresses: [],
  egressBytesMax: 1_000,
  ingressBytesMax: 2_000,
  connectionsMax: null,
  bandwidthBitsPerSecond: 8_000_000,
};
const USED: FenceCounters = { egressBytes: 1_100, ingressBytes: 500, connections: 7, deniedPackets: 0 };

const SPEC = specOf({ budget: { ...specOf().budget, egressBytes: 1_000, ingressBytes: 2_000 } });

test('a throttled run keeps a quarter of its rate, and gets one when it had none', () => {
  const rateOf = (bits: number | null): number | null =>
    adjusted({ ...GRANT, bandwidthBitsPerSecond: bits }, { ...UNADJUSTED, slowed: true }).bandwidthBitsPerSecond;
  expect([8_000_000, 100_000, null].map(rateOf)).toEqual([2_000_000, 64_000, 1_000_000]);
  expect(adjusted(GRANT, UNADJUSTED)).toEqual(GRANT);
});

test('a budget that paused the run is granted once more from its end; any other stays what it is', () => {
  const more = (...rules: readonly string[]): unknown => grantedOnceMore(GRANT, { spec: SPEC, counters: USED, rules });
  expect(more('budget.egress', 'budget.connections')).toEqual({ egressBytesMax: 2_100 });
  // The kernel let a packet less than the budget through, and cut it off all the same.
  expect(more('budget.ingress')).toEqual({ ingressBytesMax: 4_000 });
  expect(more('budget.cpu')).toEqual({});
  expect(more()).toEqual({});
});
