import { MessageChannel } from 'node:worker_threads';
import { expect, test, vi } from 'vitest';
import { whenLate } from './lateness.ts';

const turn = async (): Promise<void> => await new Promise((resolve) => setImmediate(resolve));

test('who was not cancelled in time is late, once', async () => {
  const onLate = vi.fn();
  whenLate(1, onLate);
  await vi.waitFor(() => expect(onLate).toHaveBeenCalledTimes(1));
  await turn();
  expect(onLate).toHaveBeenCalledTimes(1);
});

test('what a kept process reads after the time, but in the turn that is left, is in time', async () => {
  const { port1, port2 } = new MessageChannel();
  const onLate = vi.fn();
  const late = whenLate(5, onLate);
  const read = vi.fn(() => late.cancel());
  port2.on('message', read);
  port1.postMessage('came in time');
  // Kept from its work for longer than the time is.
  const untilMs = performance.now() + 20;
  while (performance.now() < untilMs);
  await vi.waitFor(() => expect(read).toHaveBeenCalled());
  for (let count = 0; count < 5; count += 1) await turn();
  expect(onLate).not.toHaveBeenCalled();
  port1.close();
});

test('who is cancelled is never late', async () => {
  const onLate = vi.fn();
  whenLate(1, onLate).cancel();
  const other = vi.fn();
  whenLate(5, other);
  await vi.waitFor(() => expect(other).toHaveBeenCalled());
  expect(onLate).not.toHaveBeenCalled();
});
