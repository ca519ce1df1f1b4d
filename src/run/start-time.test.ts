import { expect, test } from 'vitest';
import { startTime } from './start-time.ts';

const asked = { at: '2026-01-01T00:00:10.000Z', atMs: 5_000 };
const now = { at: '2026-01-01T00:00:12.000Z', atMs: 7_000 };

test.each([
  ['between the call and the answer', '2026-01-01T00:00:11.600Z', 6_600],
  ['to the nanosecond, as engines write it', '2026-01-01T00:00:11.600123456Z', 6_600],
  ['before the call, by a clock that was set', '2025-12-31T23:00:00.000Z', 5_000],
  ['after the answer, by a clock that was set', '2026-01-01T01:00:00.000Z', 7_000],
  ['no time', null, 5_000],
  ['nonsense', 'yesterday', 5_000],
])('%s', (_, said, startedAtMs) => {
  expect(startTime(said, asked, now)).toBeCloseTo(startedAtMs, 0);
});
