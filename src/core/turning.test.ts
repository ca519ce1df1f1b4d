import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { listenForTurning, SILENT_SECONDS_MAX, TURNING_MS } from './turning.ts';

const SILENCE_MS = SILENT_SECONDS_MAX * 1_000;
beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('who says nothing stands still, and that is told once', () => {
  const onStill = vi.fn();
  listenForTurning(onStill);
  vi.advanceTimersByTime(SILENCE_MS - 1);
  expect(onStill).not.toHaveBeenCalled();
  vi.advanceTimersByTime(10 * SILENCE_MS);
  expect(onStill).toHaveBeenCalledTimes(1);
});

test('who says something in time does not, as long as he goes on', () => {
  const onStill = vi.fn();
  const listener = listenForTurning(onStill);
  for (let turn = 0; turn < 100; turn += 1) {
    vi.advanceTimersByTime(SILENCE_MS - TURNING_MS);
    listener.heard();
  }
  expect(onStill).not.toHaveBeenCalled();
  vi.advanceTimersByTime(SILENCE_MS);
  expect(onStill).toHaveBeenCalledTimes(1);
});

test('of one that is over nothing is told', () => {
  const onStill = vi.fn();
  listenForTurning(onStill).stop();
  vi.advanceTimersByTime(10 * SILENCE_MS);
  expect(onStill).not.toHaveBeenCalled();
});
