import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DOCS, GIT, GRANTED_ROADS, ROADS, UNASKED, WRITTEN, WRITTEN_FTP } from '../support/attack-road.ts';
import { checkedName, TLS } from '../support/attack-grants.ts';
import {
  inContainer,
  openPlaces,
  type AttackPlaces,
  type ContainerPlace,
  type Grant,
} from '../support/attack-place.ts';
import { addressGrant, HTTPS } from '../support/grants.ts';
import { gotThrough, outputOf, runBattery, unexplained } from '../support/attack.ts';
import { docker, insideInternet, lab } from '../support/lab.ts';
import { until } from '../support/until.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';

/**
 * Every way out by road, tried from real containers with real tools. Without a fence each gets through, so the attempt
 * is a good one; with the fence none does, and what is granted goes on working meanwhile.
 */
const SSH_PORT = { port: 22, protocol: 'tcp', check: null } as const;
const GRANT: Grant = {
  names: [checkedName(DOCS.name), checkedName(GIT.name, [SSH_PORT, TLS]), checkedName(UNASKED.name)],
  addresses: [
    addressGrant(WRITTEN, [HTTPS, { port: 9999, protocol: 'udp' }]),
    addressGrant(WRITTEN_FTP, [{ port: 21, protocol: 'tcp' }]),
  ],
};
const GRANTED_PACKETS: ReadonlySet<string> = new Set([
  `udp ${lab.resolver}:53`,
  `tcp ${DOCS.address}:443`,
  `tcp ${GIT.address}:22`,
  `tcp ${WRITTEN}:443`,
  `udp ${WRITTEN}:9999`,
  `tcp ${WRITTEN_FTP}:21`,
]);

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
  const attacks = ROADS.filter(({ rootOnly }) => attacker === 'root' || !rootOnly);

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
    const place = await places.fencedPlace(attacker, GRANT);
    const { through, arrivals, output } = await runBattery(place, [...GRANTED_ROADS, ...attacks]);
    expect(gotThrough(attacks, through)).toEqual({});
    expect(unexplained(arrivals, GRANTED_PACKETS)).toEqual([]);
    expect(GRANTED_ROADS.filter(({ id }) => through[id]?.length === 0).map(({ id }) => outputOf(id, output))).toEqual(
      [],
    );
    expect(await places.fence.verify()).toEqual({ kind: 'in-force' });
    expect(await heardFromElsewhere(place)).toEqual(['itself']);
    await place.leave();
  });
});

/** What the agent's own listener hears when its neighbour, the host's internet and the agent itself dial it. */
async function heardFromElsewhere(place: ContainerPlace): Promise<readonly string[]> {
  const dial = (address: string, word: string): string => `echo ${word} | nc -n -N -w 1 ${address} 8000 || true`;
  const address = place.variables['SELF'] ?? '';
  await place.heard();
  await inContainer(place.neighbour, dial(address, 'neighbour'));
  await insideInternet('timeout', ['2', 'bash', '-c', `echo outside >/dev/tcp/${address}/8000`]);
  await inContainer(place.container, dial('127.0.0.1', 'itself'));
  await until('the agent hears itself', async () => (await docker('logs', place.container)).includes('itself'), {
    deadlineMs: 5_000,
  });
  return (await place.heard()).atAgent;
}
