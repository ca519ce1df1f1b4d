import { describe, expect, it } from 'vitest';
import { looksLikePool, miningSign, SERIES_MS_MAX, withMoment, type GpuSeries } from './pattern.ts';

function series(seconds: number, percentAt: (second: number) => number, bytesPerSecond = 0): GpuSeries {
  let found: GpuSeries = [];
  for (let second = 0; second <= seconds; second += 1) {
    const moment = { atMs: second * 1000, percent: percentAt(second), trafficBytes: second * bytesPerSecond };
    found = withMoment(found, moment);
  }
  return found;
}

const flat = (): number => 97;
const POOL = { destination: 'stratum.pool.example', port: 443 };
const SHOP = { destination: 'shop.example', port: 443 };

describe('a mining-like pattern', () => {
  it('is minutes of flat work without traffic', () => {
    expect(miningSign(series(200, flat), [])).toEqual({
      label: 'mining-like',
      why: 'a GPU was 97% busy for 180 s, within 0%, with next to no traffic',
      meanPercent: 97,
      spreadPercent: 0,
    });
  });

  it('is seconds of work beside a refused connection to a pool', () => {
    expect(
      miningSign(
        series(20, (second) => 80 + (second % 2) * 20),
        [SHOP, POOL],
      )?.why,
    ).toMatch(/looks like a pool$/);
  });

  it.each<[string, GpuSeries, readonly (typeof POOL)[]]>([
    ['a shorter time', series(170, flat), []],
    ['work that comes and goes', series(200, (second) => (second % 10 < 5 ? 100 : 60)), []],
    ['work that varies', series(200, (second) => 85 + (second % 3) * 7), []],
    ['less work', series(200, () => 70), []],
    ['traffic', series(200, flat, 100_000), []],
    ['a refused connection elsewhere', series(20, flat), [SHOP]],
    ['a pool without work', series(20, () => 5), [POOL]],
    ['nothing', [], [POOL]],
  ])('is not %s', (_, moments, denied) => {
    expect(miningSign(moments, denied)).toBeNull();
  });

  it('knows pools by port and by name', () => {
    const named = (destination: string, port: number | null = 443): boolean => looksLikePool({ destination, port });
    expect([
      named('203.0.113.9', 3333),
      named('xmr.nanopool.org'),
      named('eu.pool.example', null),
      named('pool-2.example'),
      named('stratum.example'),
    ]).toEqual([true, true, true, true, true]);
    expect([
      named('203.0.113.9'),
      named('liverpool.example'),
      named('determined.example'),
      named('carpool.example'),
    ]).toEqual([false, false, false, false]);
  });

  it('is made of at most one moment a second for five minutes', () => {
    let found: GpuSeries = [];
    for (let atMs = 0; atMs <= 2 * SERIES_MS_MAX; atMs += 200)
      found = withMoment(found, { atMs, percent: 1, trafficBytes: 0 });
    expect(found.length).toBeLessThanOrEqual(SERIES_MS_MAX / 1000 + 1);
    expect(found.at(-1)?.atMs).toBe(2 * SERIES_MS_MAX);
  });
});
