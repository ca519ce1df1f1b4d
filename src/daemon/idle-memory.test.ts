import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createIdleMemory } from './idle-memory.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function world() {
  const collect = vi.fn(async () => undefined);
  const host = { isIdle: true };
  return { host, collect, memory: createIdleMemory({ isIdle: () => host.isIdle, collect }) };
}

test('memory is given back once, when nothing has run for a while', async () => {
  const { collect, memory } = world();
  memory.runCleaned();
  await vi.advanceTimersByTimeAsync(6_000);
  memory.runCleaned();
  await vi.advanceTimersByTimeAsync(6_000);
  expect(collect).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(3_600_000);
  expect(collect).toHaveBeenCalledTimes(1);
});

test('nothing is collected while a run is alive, nor after the end', async () => {
  const { host, collect, memory } = world();
  host.isIdle = false;
  memory.runCleaned();
  await vi.advanceTimersByTimeAsync(60_000);
  host.isIdle = true;
  memory.runCleaned();
  memory.stop();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(collect).not.toHaveBeenCalled();
});

test('a full collection is what it asks for', async () => {
  vi.useRealTimers();
  let held: object | null = { some: 'thing' };
  const gone = Promise.withResolvers<void>();
  const registry = new FinalizationRegistry(() => gone.resolve());
  registry.register(held, '');
  held = null;
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  createIdleMemory({ isIdle: () => true }).runCleaned();
  await vi.advanceTimersByTimeAsync(10_000);
  await gone.promise;
  expect('gc' in globalThis).toBe(false);
  expect(held).toBeNull();
});
