import { expect, test } from 'vitest';
import { USAGE_NONE } from '../core/outcome.ts';
import { CURVE_NONE, finished, withSample } from './curve.ts';

test('a curve spans the whole run in a bounded number of points', () => {
  let curve = CURVE_NONE;
  for (let second = 0; second <= 3_600; second += 1) {
    curve = withSample(curve, { ...USAGE_NONE, wallMs: second * 1_000, cpuMs: second });
  }
  const points = finished(curve, { ...USAGE_NONE, wallMs: 3_600_400, cpuMs: 9_999 });
  expect(points.length).toBeLessThanOrEqual(49);
  expect(points.length).toBeGreaterThan(24);
  expect([points[0]?.wallMs, points.at(-1)?.cpuMs]).toEqual([0, 9_999]);
  const gaps = points.slice(1, -1).map((point, index) => point.wallMs - (points[index]?.wallMs ?? 0));
  expect(Math.max(...gaps)).toBeLessThanOrEqual(4 * Math.min(...gaps));
});

test('samples that come too often are not all kept', () => {
  let curve = CURVE_NONE;
  for (const wallMs of [0, 100, 200, 600]) curve = withSample(curve, { ...USAGE_NONE, wallMs });
  expect(curve.points.map(({ wallMs }) => wallMs)).toEqual([0, 600]);
});
