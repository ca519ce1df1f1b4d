import { afterAll, expect, test } from 'vitest';
import counterexamples from '../simulation/counterexamples.json' with { type: 'json' };
import { openProfiles } from '../simulation/profiles.ts';
import { simulate } from '../simulation/simulate.ts';

/** New seeds on every day, the same ones for everybody on that day. `node test/simulation/run.ts` runs many more. */
const FRESH_SEEDS = 250;
const DAY_MS = 86_400_000;

const world = openProfiles();
afterAll(() => world.close());

test.each(counterexamples)('seed $seed, in which $found, goes well', async ({ seed }) => {
  expect((await simulate(seed, world)).violations).toEqual([]);
});

test('a host whose daemon dies, whose engine lies and whose warden stalls holds every invariant', async () => {
  const first = 1_000_000 + Math.floor(Date.now() / DAY_MS) * FRESH_SEEDS;
  const wrong: string[] = [];
  for (let seed = first; seed < first + FRESH_SEEDS; seed += 1) {
    const { violations } = await simulate(seed, world);
    if (violations.length > 0) wrong.push(`seed ${seed}: ${violations.join('; ')}`);
  }
  expect(wrong).toEqual([]);
});

test('a seed is enough to see the same thing again', async () => {
  const shape = async () => {
    const { runs, records, crashes, trace } = await simulate(4_034, world);
    return { runs, records, crashes, happened: trace.map((line) => line.replaceAll(/\b[ir][0-9a-z]{12}\b/g, 'ID')) };
  };
  expect(await shape()).toEqual(await shape());
});
