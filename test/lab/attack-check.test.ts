import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CHECKED_NAMES, CHECKS, GRANTED_CHECKS } from '../support/attack-check.ts';
import { checkedName, HTTP, TLS } from '../support/attack-grants.ts';
import { openPlaces, type AttackPlaces } from '../support/attack-place.ts';
import { gotThrough, outputOf, runBattery } from '../support/attack.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';

/** Connections on an open road that show the wrong name, or none. Not one byte of them arrives. */
let before: Snapshot;
let places: AttackPlaces;
beforeAll(async () => {
  before = await snapshot();
  places = await openPlaces();
});
afterAll(async () => {
  await places.close();
  // The tree of control groups is the whole machine's; a plain container of the engine has none of ours.
  expect(await leaksSince(before, (leak) => !leak.startsWith('cgroup '))).toEqual([]);
});

test('each gets through where nothing is fenced', { timeout: 150_000 }, async () => {
  const place = await places.openPlace('agent');
  const { through, output } = await runBattery(place, CHECKS);
  await place.leave();
  const harmless = CHECKS.filter(({ id, blunt }) => blunt === null && through[id]?.length === 0);
  expect(harmless.map(({ id }) => outputOf(id, output))).toEqual([]);
});

describe.each(['agent', 'root'] as const)('as %s', (attacker) => {
  test('none gets through the fence, and what is granted does', { timeout: 150_000 }, async () => {
    const names = [...CHECKED_NAMES, 'docs.example.test', 'llm.example.test'].map((each) =>
      checkedName(each, [TLS, HTTP]),
    );
    const place = await places.fencedPlace(attacker, { names });
    const { through, arrivals, output } = await runBattery(place, [...GRANTED_CHECKS, ...CHECKS]);
    await place.leave();
    expect(gotThrough(CHECKS, through)).toEqual({});
    expect(arrivals.seen.filter((each) => each.detail.includes('evil'))).toEqual([]);
    expect(GRANTED_CHECKS.filter(({ id }) => through[id]?.length === 0).map(({ id }) => outputOf(id, output))).toEqual(
      [],
    );
  });
});
