import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createCleanAgain } from './clean-again.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());
const SILENT = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
const MINUTE = 60_000;

function world(answers: readonly (readonly string[] | Error)[]) {
  const times: number[] = [];
  const clean = async (): Promise<{ readonly left: readonly string[] }> => {
    const answer = answers[times.length] ?? [];
    times.push(Date.now());
    if (answer instanceof Error) throw answer;
    return { left: answer };
  };
  return { times, again: createCleanAgain({ clean, log: SILENT }) };
}

/** One whose looks last until they are let go. */
function slowWorld() {
  let times = 0;
  let letGo: (left: readonly string[]) => void = () => undefined;
  const clean = async (): Promise<{ readonly left: readonly string[] }> => {
    times += 1;
    return await new Promise((resolve) => {
      letGo = (left) => resolve({ left });
    });
  };
  const again = createCleanAgain({ clean, log: SILENT });
  return { times: () => times, letGo: (left: readonly string[]) => letGo(left), again };
}

test('it looks until nothing is left, less and less often', async () => {
  const { times, again } = world([['network a'], new Error('no engine'), ['network a'], []]);
  const startMs = Date.now();
  again.soon();
  again.soon();
  await vi.advanceTimersByTimeAsync(60 * MINUTE);
  expect(times.map((at) => (at - startMs) / 1_000)).toEqual([2, 6, 14, 30]);
});

test('it never waits longer than five minutes, and starts small again', async () => {
  const { times, again } = world(Array.from({ length: 12 }, () => ['network a']));
  again.soon();
  await vi.advanceTimersByTimeAsync(60 * MINUTE);
  const waits = times.slice(1).map((at, index) => at - (times[index] ?? 0));
  expect(Math.max(...waits)).toBe(5 * MINUTE);
  await vi.advanceTimersByTimeAsync(10 * MINUTE);
  const before = times.length;
  again.soon();
  await vi.advanceTimersByTimeAsync(2_000);
  expect(times).toHaveLength(before + 1);
});

test('what is left while it looks is looked for once more', async () => {
  const { times, letGo, again } = slowWorld();
  again.soon();
  await vi.advanceTimersByTimeAsync(2_000);
  again.soon();
  letGo([]);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(times()).toBe(2);
  letGo([]);
  await vi.advanceTimersByTimeAsync(60 * MINUTE);
  expect(times()).toBe(2);
});

test('it looks at once when the engine is back, and then starts small', async () => {
  const { times, again } = world([['a'], ['a'], ['a'], ['a'], ['a'], []]);
  again.soon();
  await vi.advanceTimersByTimeAsync(20_000);
  const backMs = Date.now();
  const before = times.length;
  again.engineBack();
  await vi.advanceTimersByTimeAsync(60 * MINUTE);
  expect(times.slice(before).map((at) => (at - backMs) / 1_000)).toEqual([0, 2, 6]);
});

test('an engine that is back while it looks is not asked by two at a time', async () => {
  const { times, letGo, again } = slowWorld();
  again.soon();
  await vi.advanceTimersByTimeAsync(2_000);
  again.engineBack();
  expect(times()).toBe(1);
  letGo(['a']);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(times()).toBe(2);
  letGo([]);
  await vi.advanceTimersByTimeAsync(60 * MINUTE);
  expect(times()).toBe(2);
});

test('an engine that is back has nothing to do with nothing left', async () => {
  const { times, again } = world([]);
  again.engineBack();
  await vi.advanceTimersByTimeAsync(60 * MINUTE);
  expect(times).toEqual([]);
});

test('it is over when it is stopped', async () => {
  const { times, again } = world([['network a']]);
  again.soon();
  again.stop();
  again.engineBack();
  await vi.advanceTimersByTimeAsync(60 * MINUTE);
  expect(times).toEqual([]);
});
