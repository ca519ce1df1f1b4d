import { describe, expect, test } from 'vitest';
import { useBurner } from '../support/burner.ts';
import { useEngineProcess } from '../support/engine-process.ts';
import { mark, packetsTo } from '../support/lab.ts';
import { isAlive, untilDead } from '../support/processes.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** The engine is stopped or dies, is away for a while, and comes back, with agents that end with it or outlive it. */
const engine = useEngineProcess();
const world = useSupervised();
const burner = useBurner();
const TIME_OUT = { timeout: 240_000 };
const DEADLINE_MS = 60_000;
const ELSEWHERE = '203.0.113.192';
const ENDS_IN_ORDER = SHELL('trap "exit 5" TERM; while :; do sleep 0.2; done');
const KNOCKS = SHELL(`while :; do curl -s -m 1 http://${ELSEWHERE}/; sleep 0.2; done`);

async function isRefused(): Promise<void> {
  const refused = await world.daemon.cli(['run', world.writeProfile({ name: 'late', command: SHELL('true') })]);
  expect(refused).toMatchObject({ exitCode: 125, stdout: '' });
  expect(refused.stderr).toMatch(/the container engine does not answer[^]*hint: /);
}

async function isWellAgain(): Promise<void> {
  const after = await world.run({ name: 'after', command: SHELL('exit 3'), budget: { wall: '10m' } });
  expect(after).toMatchObject({ exitCode: 3, outcome: { reason: 'exited' } });
}

describe('an engine whose containers end with it', () => {
  test.each(['SIGTERM', 'SIGKILL'] as const)(
    '%s: its runs end, and are told with what is known',
    TIME_OUT,
    async (signal) => {
      const run = await world.start({
        name: `held-${signal.toLowerCase()}`,
        command: ENDS_IN_ORDER,
        budget: { wall: '10m' },
      });
      await engine.end(signal);
      await isRefused();
      await engine.start();
      expect((await world.wait(run.runId)).outcome).toMatchObject({ reason: 'exited', exitCode: 5, incidentId: null });
      await isWellAgain();
      await until(
        'nothing of it is left',
        async () => JSON.parse(await world.ringfence('gc', '--json')).removed.length === 0,
        {
          deadlineMs: DEADLINE_MS,
        },
      );
    },
  );
});

test('an agent that outlives its engine is held without it and after it', TIME_OUT, async () => {
  await engine.end('SIGTERM');
  await engine.start({ liveRestore: true });
  const since = await mark();
  const [kept, burning] = [
    await world.start({ name: 'outlives', command: KNOCKS, budget: { wall: '10m' } }),
    await world.start(burner.draft('burns-alone')),
  ];
  await engine.end('SIGKILL');
  burner.burn('burns-alone');
  await untilDead(burning);
  await isRefused();
  await engine.start({ liveRestore: true });
  expect((await world.wait(burning.runId)).outcome).toMatchObject({ reason: 'budget.cpu', rule: 'budget.cpu' });
  await isWellAgain();
  expect(isAlive(kept)).toBe(true);
  await world.ringfence('kill', kept.runId);
  expect((await world.wait(kept.runId)).outcome).toMatchObject({ reason: 'killed' });
  expect(await packetsTo(ELSEWHERE, { since })).toEqual([]);
});
