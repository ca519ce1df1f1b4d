import type { CurvePoint } from '../api/service.ts';
import type { Usage } from '../core/outcome.ts';

/** How a run came to its end: a few points of its use over the whole of it. */
export type Curve = { readonly points: readonly CurvePoint[]; readonly everyMs: number };

const POINTS_MAX = 48;
const FIRST_EVERY_MS = 500;

export const CURVE_NONE: Curve = { points: [], everyMs: FIRST_EVERY_MS };

/** Adds a point when its time has come. A full curve keeps every second point, so that it spans the whole run. */
export function withSample(curve: Curve, usage: Usage): Curve {
  const last = curve.points.at(-1);
  if (last !== undefined && usage.wallMs - last.wallMs < curve.everyMs) return curve;
  const points = [...curve.points, pointOf(usage)];
  if (points.length <= POINTS_MAX) return { ...curve, points };
  return { points: points.filter((_, index) => index % 2 === 0), everyMs: curve.everyMs * 2 };
}

/** The curve with where it ended, whenever that was. */
export function finished(curve: Curve, usage: Usage): readonly CurvePoint[] {
  const last = curve.points.at(-1);
  return last !== undefined && last.wallMs >= usage.wallMs ? curve.points : [...curve.points, pointOf(usage)];
}

function pointOf({ wallMs, cpuMs, memoryBytes, pids, egressBytes }: Usage): CurvePoint {
  return { wallMs, cpuMs, memoryBytes, pids, egressBytes };
}
