import { expect, test } from 'vitest';
import type { Approval } from '../../src/api/service.ts';
import { useShells } from '../support/agent-shell.ts';
import { mark, observed, packetsArrived, type Mark } from '../support/lab.ts';
import { useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** Agents that ask, and a person who decides. Whether something was reached is read at the other end. */
const EXPIRE_SECONDS = 12;
const world = useSupervised({
  config: { approvals: { holdSeconds: 25, expireSeconds: EXPIRE_SECONDS, grantSeconds: 600 } },
});
const openShell = useShells(world);

const DEADLINE = { deadlineMs: 40_000 };
const LENIENT = { budget: { denials: '100000/1m' }, on: { 'budget.denials': 'warn' } };
/** The engine's resolver gives up after 4 s, so an agent that waits asks again; the gate holds its questions together. */
const PATIENT = { env: { RES_OPTIONS: 'timeout:5 attempts:5' } };
const DOCS = '192.0.2.50';
const GIT = '192.0.2.30';
const LLM = '192.0.2.40';

const get = (name: string): string =>
  `curl -sS --max-time 30 --cacert /agent/lab-ca.crt https://${name}/; echo "got $?"`;
const knock = (address: string, port: number, seconds: number): string =>
  `curl -sS --connect-timeout ${seconds} --max-time 30 http://${address}:${port}/ > /dev/null; echo "knocked $?"`;

async function approvals(runId: string, ...args: readonly string[]): Promise<readonly Approval[]> {
  const all = JSON.parse(await world.ringfence('pending', '--json', ...args)) as readonly Approval[];
  return all.filter((approval) => approval.runId === runId);
}

/** The one request of the run that waits, once there is one. */
async function asked(runId: string, wants: string): Promise<Approval> {
  return await until(
    `somebody is asked for ${wants}`,
    async () => (await approvals(runId)).find((approval) => approval.wants === wants) ?? null,
    DEADLINE,
  );
}

async function reached(address: string, since: Mark): Promise<number> {
  return (await packetsArrived({ since })).filter(({ destination }) => destination === address).length;
}

test('a name waits, is approved for a time, and only then is reached', async () => {
  const { run, type } = await openShell({
    name: 'asks',
    egress: { ask: ['docs.example.test:443', 'git.example.test:443'] },
    more: PATIENT,
    ...LENIENT,
  });
  const since = await mark();
  const answered = type(get('docs.example.test'));
  const request = await asked(run.runId, 'docs.example.test on 443/tcp');
  expect(request).toMatchObject({ profile: 'asks', state: 'pending', request: { rule: 'docs.example.test:443' } });
  expect(await reached(DOCS, since)).toBe(0);
  expect(await world.ringfence('why', run.runId)).toContain(`ringfence approve ${request.id}`);
  expect(await world.ringfence('approve', request.id, '--for', '10m')).toBe(
    'asks may reach docs.example.test on 443/tcp for 10m 00s',
  );
  expect(await answered).toContain('docs.example.test');
  expect(await reached(DOCS, since)).toBeGreaterThan(0);
  // What was not asked for by name is not opened with it: another name waits for an answer of its own, and gets no.
  const refused = type(get('git.example.test'));
  const other = await asked(run.runId, 'git.example.test on 443/tcp');
  await world.ringfence('deny', other.id, '--reason', 'not today');
  expect(await refused).toContain('got 6');
  // Denied is denied: the same question is answered at once and nobody is asked again.
  expect(await type(get('git.example.test'))).toContain('got 6');
  expect(await approvals(run.runId)).toEqual([]);
  expect(await reached(GIT, since)).toBe(0);
  const twice = await world.daemon.cli(['approve', other.id]);
  expect({ exitCode: twice.exitCode, says: twice.stderr }).toEqual({
    exitCode: 1,
    says: expect.stringContaining(`request ${other.id} is denied`) as string,
  });
  const records = (await world.records(run.runId)).filter(({ kind }) => kind.startsWith('approval'));
  expect(records.map(({ kind, id, decision }) => ({ kind, id, decision }))).toEqual([
    { kind: 'approval.requested', id: request.id, decision: undefined },
    { kind: 'approval.decided', id: request.id, decision: 'approved' },
    { kind: 'approval.requested', id: other.id, decision: undefined },
    { kind: 'approval.decided', id: other.id, decision: 'denied' },
  ]);
  expect(records[1]).toMatchObject({ caller: { uid: 0 }, forMs: 600_000, profileDigest: run.profileDigest });
  await until(
    'the sinks hear of both',
    () => world.receiver.deliveries.filter(({ body }) => body.includes('"approval.requested"')).length === 2,
    DEADLINE,
  );
});

test('nobody comes: what was asked for is denied when its time is over', async () => {
  const { run, type } = await openShell({
    name: 'asks-in-vain',
    egress: { ask: ['docs.example.test:443'] },
    more: PATIENT,
    ...LENIENT,
  });
  const since = await mark();
  const answered = type(get('docs.example.test'));
  const request = await asked(run.runId, 'docs.example.test on 443/tcp');
  expect(await answered).toContain('got 6');
  expect(await approvals(run.runId, '--all')).toMatchObject([{ id: request.id, state: 'expired' }]);
  expect(await type(get('docs.example.test'))).toContain('got 6');
  expect(await reached(DOCS, since)).toBe(0);
});

test('an address waits by its packets, opens with exactly its port, and closes when its time is over', async () => {
  const { run, type } = await openShell({ name: 'asks-address', egress: { ask: [`${LLM}/32:80,8080`] }, ...LENIENT });
  const since = await mark();
  const answered = type(knock(LLM, 80, 30));
  const request = await asked(run.runId, `${LLM}:80/tcp`);
  expect(await reached(LLM, since)).toBe(0);
  await world.ringfence('approve', request.id.slice(0, 9), '--for', '6s');
  expect(await answered).toContain('knocked 0');
  const seen = await observed({ since });
  expect(seen.map(({ localAddress, localPort }) => `${localAddress}:${localPort}`)).toContain(`${LLM}:80`);
  // The port beside it waits, and is refused at once when a person says no.
  const beside = type(knock(LLM, 8080, 30));
  const other = await asked(run.runId, `${LLM}:8080/tcp`);
  await world.ringfence('deny', other.id);
  expect(await beside).toContain('knocked 7');
  expect((await observed({ since })).filter(({ localPort }) => localPort === 8080)).toEqual([]);
  // After its time the same port is a new question.
  await until(
    'it is asked again',
    async () => {
      await type(knock(LLM, 80, 1));
      return (await approvals(run.runId)).some(({ wants }) => wants === `${LLM}:80/tcp`);
    },
    DEADLINE,
  );
});
