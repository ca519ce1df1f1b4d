import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { RunDetail, RunView } from '../../src/api/service.ts';
import { mark, packetsArrived, type Mark } from '../support/lab.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** Runs that are held without being ended, and the person who lets them go on. */
const world = useSupervised();
const DEADLINE = { deadlineMs: 40_000 };
const LLM = '192.0.2.40';

async function inspect(runId: string): Promise<RunDetail> {
  return JSON.parse(await world.ringfence('inspect', runId, '--json')) as RunDetail;
}

async function held(runId: string, action: 'pause' | 'throttle'): Promise<RunDetail> {
  return await until(
    `the run is held: ${action}`,
    async () => {
      const run = await inspect(runId);
      return run.held?.action === action ? run : null;
    },
    DEADLINE,
  );
}

async function bytesTo(address: string, since: Mark): Promise<number> {
  return (await packetsArrived({ since })).filter(({ destination }) => destination === address).length;
}

test('a run that is paused for the bytes it sent stands still, and goes on with as many more', async () => {
  const { runId } = await world.launch({
    name: 'sends',
    command: SHELL(`while :; do head -c 20000 /dev/zero | nc -n -w 1 ${LLM} 9999 >/dev/null; sleep 0.1; done`),
    egress: { allow: [`${LLM}/32:9999`] },
    budget: { egress: '100kB' },
    on: { 'budget.egress': 'pause' },
  });
  const first = await held(runId, 'pause');
  expect(first).toMatchObject({ phase: 'running', held: { rule: 'budget.egress' } });
  const [view] = JSON.parse(await world.ringfence('ps', '--json')) as readonly RunView[];
  expect(view?.held?.action).toBe('pause');
  expect(await world.ringfence('ps')).toContain('paused');
  const still = await mark();
  await world.ringfence('resume', runId);
  await until('it sends again', async () => (await bytesTo(LLM, still)) > 5, DEADLINE);
  const again = await until(
    'it is paused for the next part',
    async () => {
      const run = await inspect(runId);
      return run.held !== null && run.usage.egressBytes > first.usage.egressBytes + 50_000 ? run : null;
    },
    DEADLINE,
  );
  expect(again.usage.egressBytes).toBeLessThan(400_000);
  const kinds = (await world.records(runId)).map(({ kind }) => kind);
  expect(kinds.filter((kind) => kind === 'run.held' || kind === 'run.resumed' || kind === 'command.issued')).toEqual([
    'run.held',
    'command.issued',
    'run.resumed',
    'run.held',
  ]);
  await until(
    'the sinks hear of it',
    () => world.receiver.deliveries.some(({ body }) => body.includes('"run.held"') && body.includes(runId)),
    DEADLINE,
  );
  await world.ringfence('kill', runId);
  expect((await world.wait(runId)).outcome.reason).toBe('killed');
});

test('a run that is throttled says so, and is held no more under a larger budget', async () => {
  const { runId } = await world.launch({
    name: 'burns-slowly',
    command: SHELL('while :; do :; done'),
    budget: { cpu: '1s' },
    on: { 'budget.cpu': 'throttle' },
  });
  const slowed = await held(runId, 'throttle');
  expect(await world.ringfence('ps')).toContain('slowed');
  const refused = await world.daemon.cli(['resume', runId]);
  expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('is not paused') as string });
  expect(slowed.phase).toBe('running');
  const profile = JSON.parse(readFileSync(slowed.profilePath, 'utf8')) as { budget: Record<string, unknown> };
  writeFileSync(slowed.profilePath, JSON.stringify({ ...profile, budget: { ...profile.budget, cpu: '10m' } }));
  await world.ringfence('reload', slowed.profilePath);
  expect((await inspect(runId)).held).toBeNull();
  await world.ringfence('kill', runId);
  await world.wait(runId);
});
