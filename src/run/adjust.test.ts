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

function paused(...budgets: readonly ('egress' | 'ingress' | 'connections')[]): ReturnType<typeof specOf> {
  const { budget, on } = specOf();
  const actions = Object.fromEntries(budgets.map((name) => [name, 'pause' as const]));
  return specOf({ budget: { ...budget, egressBytes: 1_000, ingressBytes: 2_000 }, on: { ...on, ...actions } });
}

test('a throttled run keeps a quarter of its rate, and gets one when it had none', () => {
  const rateOf = (bits: number | null): number | null =>
    adjusted({ ...GRANT, bandwidthBitsPerSecond: bits }, { ...UNADJUSTED, slowed: true }).bandwidthBitsPerSecond;
  expect([8_000_000, 100_000, null].map(rateOf)).toEqual([2_000_000, 64_000, 1_000_000]);
  expect(adjusted(GRANT, UNADJUSTED)).toEqual(GRANT);
});

test('a budget that pauses and is used up is granted once more from here; any other stays what it is', () => {
  const more = (spec: ReturnType<typeof specOf>): unknown => grantedOnceMore(GRANT, { spec, counters: USED });
  expect(more(paused('egress', 'ingress', 'connections'))).toEqual({ egressBytesMax: 2_100, ingressBytesMax: 2_000 });
  expect(more(paused('ingress'))).toEqual({ ingressBytesMax: 2_000 });
  expect(more(paused())).toEqual({});
});
