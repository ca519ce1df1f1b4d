import { expect, test } from 'vitest';
import type { FenceDestination } from '../core/ports/fence.ts';
import { FLOWS_MAX, TRAFFIC_NONE, trafficSince } from './traffic.ts';

const AT = '2026-10-05T08:00:00.000Z';
const LATER = '2026-10-05T08:01:00.000Z';
const site: FenceDestination = { address: '192.0.2.40', port: 443, protocol: 'tcp', egressBytes: 1_000, packets: 10 };

test('tells what moved since the last look, and nothing of what did not', () => {
  const first = trafficSince(TRAFFIC_NONE, { destinations: [site], names: [], at: AT });
  expect(first.flows).toEqual([
    {
      countedBy: 'kernel',
      destination: '192.0.2.40',
      name: null,
      port: 443,
      protocol: 'tcp',
      egressBytes: 1_000,
      ingressBytes: null,
      connections: null,
      packets: 10,
      destinations: 1,
    },
  ]);
  expect(trafficSince(first.state, { destinations: [site], names: [], at: LATER }).flows).toEqual([]);
  const more = { ...site, egressBytes: 1_500, packets: 12 };
  const second = trafficSince(first.state, { destinations: [more], names: [], at: LATER });
  expect(second.flows).toMatchObject([{ egressBytes: 500, packets: 2 }]);
  expect(second.state.last).toEqual([
    { destination: '192.0.2.40', name: null, port: 443, protocol: 'tcp', egressBytes: 1_500, lastAt: LATER },
  ]);
});

test('a counter that was made anew counts from zero', () => {
  const first = trafficSince(TRAFFIC_NONE, { destinations: [site], names: [], at: AT });
  const anew = { ...site, egressBytes: 40, packets: 1 };
  expect(trafficSince(first.state, { destinations: [anew], names: [], at: LATER }).flows).toMatchObject([
    { egressBytes: 40, packets: 1 },
  ]);
});

test('names that were passed on come with both directions', () => {
  const name = { name: 'api.example.com', port: 443, connections: 2, egressBytes: 700, ingressBytes: 9_000 };
  const { flows, state } = trafficSince(TRAFFIC_NONE, { destinations: [], names: [name], at: AT });
  expect(flows).toMatchObject([
    { countedBy: 'name-check', name: 'api.example.com', ingressBytes: 9_000, packets: null },
  ]);
  expect(state.last).toMatchObject([{ name: 'api.example.com', egressBytes: 700 }]);
});

test('a sweep of many destinations is bounded, and nothing of it lost', () => {
  const destinations = Array.from({ length: 64 }, (_, index) => ({ ...site, port: index + 1, egressBytes: index + 1 }));
  const names = Array.from({ length: 200 }, (_, index) => ({
    name: `n${index}.example.com`,
    port: 443,
    connections: 1,
    egressBytes: 10,
    ingressBytes: 20,
  }));
  const { flows, state } = trafficSince(TRAFFIC_NONE, { destinations, names, at: AT });
  expect(flows).toHaveLength(FLOWS_MAX);
  expect(flows.reduce((sum, flow) => sum + flow.egressBytes, 0)).toBe((64 * 65) / 2 + 2_000);
  expect(flows.at(-1)).toMatchObject({ destination: 'other destinations', destinations: 264 - 63, port: null });
  expect(state.last.length).toBeLessThanOrEqual(16);
});
