import { expect, test } from 'vitest';
import { Batch, Turns } from './turns.ts';

test('does the work of one key in order, of two keys side by side, and goes on after a failure', async () => {
  const turns = new Turns();
  const log: string[] = [];
  const gate = Promise.withResolvers<void>();
  const first = turns.take('one', async () => {
    await gate.promise;
    log.push('one: first');
    throw new Error('broken');
  });
  const second = turns.take('one', async () => void log.push('one: second'));
  await turns.take('two', async () => void log.push('two'));
  gate.resolve();
  await expect(first).rejects.toThrow('broken');
  await second;
  expect(log).toEqual(['two', 'one: first', 'one: second']);
});

test('does together what comes while it is busy, and tells each batch its own end', async () => {
  const gate = Promise.withResolvers<void>();
  const batches: (readonly number[])[] = [];
  const batch = new Batch<number>(async (items) => {
    batches.push(items);
    await gate.promise;
    if (items.includes(3)) throw new Error('broken');
  });
  const all = [1, 2, 3, 4].map((item) => batch.add(item));
  gate.resolve();
  const results = await Promise.allSettled(all);
  expect(batches).toEqual([[1], [2, 3, 4]]);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'rejected']);
  await batch.add(5);
  expect(batches.at(-1)).toEqual([5]);
});
