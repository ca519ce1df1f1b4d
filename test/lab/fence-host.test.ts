import { afterEach, beforeEach, expect, test } from 'vitest';
import type { FenceLease } from '../../src/core/ports/fence.ts';
import { addressGrant, grantOf, HTTPS } from '../support/grants.ts';
import { GOOD, makeWorld, OTHER } from './fence-world.ts';
import type { World } from './fence-world.ts';

/** Hosts that are crowded, or on which somebody else has taken what the fence needs. */
let world: World;

beforeEach(async () => {
  world = await makeWorld({ gate: 'stand-in' });
});
afterEach(async () => await world.remove());

const RUNS = 40;
const RULES = 50;

test('sets up and takes down a host full of runs, also after a crash, and nothing is inherited', async () => {
  await world.call({ call: 'install' });
  const addresses = Array.from({ length: RULES }, (_, index) => addressGrant(`198.51.100.${index + 1}`, [HTTPS]));
  const runId = (index: number): string => `rgggggggg${String(index).padStart(4, '0')}`;
  const fill = async (): Promise<void> => {
    for (let index = 0; index < RUNS; index += 1) {
      const lease = (await world.call({ call: 'lease', runId: runId(index) })) as FenceLease;
      await world.call({ call: 'arm', grant: grantOf({ lease, addresses, egressBytesMax: 1, connectionsMax: 1 }) });
    }
  };
  const entries = async (): Promise<number> => {
    const { stdout } = await world.host.run('ipset', ['save']);
    return stdout.split('\n').filter((line) => line.startsWith('add ') && !line.startsWith('add rf-never ')).length;
  };
  await fill();
  const counters = 4;
  const budgets = 2;
  expect(await entries()).toBe(RUNS * (RULES + counters + budgets + 1));
  for (const flow of [GOOD, OTHER]) {
    await world.host.run('ipset', ['add', 'rf-flows', `10.213.0.2,tcp:443,${flow}`]);
    await world.host.run('ipset', ['add', 'rf-learned', `10.213.255.2,tcp:443,${flow}`]);
  }
  await world.restartHost();
  await world.call({ call: 'install' });
  const removed = (await world.call({ call: 'collectGarbage', keep: [runId(7)] })) as string[];
  expect(removed).toHaveLength(RUNS - 1);
  expect(await entries()).toBe(RULES + counters + budgets + 1);
  await world.call({ call: 'disarm', runId: runId(7) });
  expect(await entries()).toBe(0);
  // All at once, as when the daemon stops.
  await fill();
  await Promise.all(Array.from({ length: RUNS }, (_, index) => world.call({ call: 'disarm', runId: runId(index) })));
  expect(await entries()).toBe(0);
}, 120_000);

test('takes no set that is somebody else’s', async () => {
  await world.host.run('ipset', ['create', 'rf-learned', 'hash:ip']);
  await expect(world.call({ call: 'install' })).rejects.toThrow(
    'FENCE_FAILED: a set rf-learned of the kind hash:ip is on this host, and it is not the fence’s (hash:ip,port,ip)',
  );
  await world.host.run('ipset', ['destroy', 'rf-learned']);
  await world.call({ call: 'install' });
  expect(await world.call({ call: 'verify' })).toEqual({ kind: 'in-force' });
});

test('gives no run a bridge whose name a device has already', async () => {
  await world.call({ call: 'install' });
  await world.host.run('ip', ['link', 'add', 'rf-hhhhhhhhhhh1', 'type', 'ifb']);
  await expect(world.call({ call: 'lease', runId: 'rhhhhhhhhhhh1' })).rejects.toThrow(
    'FENCE_FAILED: the host has a device rf-hhhhhhhhhhh1 already',
  );
  expect(await world.call({ call: 'lease', runId: 'rhhhhhhhhhhh2' })).toMatchObject({ bridge: 'rf-hhhhhhhhhhh2' });
});

test('takes the routing rules of an earlier pool away, unless a run of it is left', async () => {
  await world.call({ call: 'install' });
  const earlier = async (): Promise<string[]> => {
    const { stdout } = await world.host.run('ip', ['rule']);
    return stdout.split('\n').filter((line) => line.includes('10.217.'));
  };
  const add = async (pool: string): Promise<void> => {
    await world.host.run('ip', ['rule', 'add', 'from', pool, 'iif', 'lo', 'lookup', 'main', 'priority', '212']);
    const prohibit = ['from', pool, 'fwmark', '0/0x6000000', 'lookup', '21300', 'priority', '213'];
    await world.host.run('ip', ['rule', 'add', ...prohibit]);
  };
  await add('10.217.0.0/24');
  await add('10.217.1.0/24');
  await world.host.run('ipset', ['add', 'rf-bridge', '10.217.1.4/30,rf-iiiiiiiiiii1']);
  await world.call({ call: 'install' });
  expect(await earlier()).toHaveLength(2);
  for (const line of await earlier()) expect(line).toContain('10.217.1.0/24');
  await world.host.run('ipset', ['del', 'rf-bridge', '10.217.1.4/30,rf-iiiiiiiiiii1']);
  await world.call({ call: 'install' });
  expect(await earlier()).toEqual([]);
  expect(await world.call({ call: 'verify' })).toEqual({ kind: 'in-force' });
});
