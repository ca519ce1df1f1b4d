import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DNS, GRANTED_NAMES, LISTED, NAMES } from '../support/attack-names.ts';
import { openPlaces, type AttackPlaces } from '../support/attack-place.ts';
import { checkedName } from '../support/attack-grants.ts';
import { gotThrough, outputOf, runBattery, unexplained } from '../support/attack.ts';
import { lab } from '../support/lab.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';

/** Names and their resolver as a way out. The verdict is what any resolver out there was asked, and what was dialled. */
const GRANTED_PACKETS: ReadonlySet<string> = new Set([
  `udp ${lab.resolver}:53`,
  `tcp ${lab.resolver}:53`,
  'tcp 192.0.2.50:443',
  'tcp 192.0.2.60:443',
]);
const ATTACKS = [...NAMES, ...DNS];

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

describe.each(['agent', 'root'] as const)('as %s', (attacker) => {
  const attacks = ATTACKS.filter(({ rootOnly }) => attacker === 'root' || !rootOnly);

  test('each gets through where nothing is fenced', { timeout: 150_000 }, async () => {
    const place = await places.openPlace(attacker);
    // What needs no root was shown to be possible as the agent already.
    const shown = attacks.filter(({ rootOnly }) => rootOnly === (attacker === 'root'));
    const { through, output } = await runBattery(place, shown);
    await place.leave();
    const harmless = shown.filter(({ id, blunt }) => blunt === null && through[id]?.length === 0);
    expect(harmless.map(({ id }) => outputOf(id, output))).toEqual([]);
  });

  test('none gets through the fence, and what is granted does', { timeout: 150_000 }, async () => {
    const place = await places.fencedPlace(attacker, { names: LISTED.map((each) => checkedName(each)) });
    const { through, arrivals, output } = await runBattery(place, [...GRANTED_NAMES, ...attacks]);
    await place.leave();
    expect(gotThrough(attacks, through)).toEqual({});
    expect(unexplained(arrivals, GRANTED_PACKETS)).toEqual([]);
    const asked = new Set(arrivals.queries.map((query) => `${query.type} ${query.name} ${query.resolver}`));
    expect([...asked].filter((question) => !ASKED.has(question))).toEqual([]);
    expect(GRANTED_NAMES.filter(({ id }) => through[id]?.length === 0).map(({ id }) => outputOf(id, output))).toEqual(
      [],
    );
  });
});

/** The only questions that may leave: the listed names, as the gate writes them. */
const ASKED: ReadonlySet<string> = new Set(
  [...LISTED.filter((each) => !each.startsWith('*.')), 'files.pkg.example.test', 'a.b.pkg.example.test'].map(
    (each) => `A ${each} ${lab.resolver}`,
  ),
);
