import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { ReloadReport, RunDetail } from '../../src/api/service.ts';
import { useShells } from '../support/agent-shell.ts';
import { mark, packetsArrived, type Mark } from '../support/lab.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** Profiles that change while their runs live. Whether something is open is read at the other end. */
const world = useSupervised();
const openShell = useShells(world);

const DEADLINE = { deadlineMs: 40_000 };
const LENIENT = { budget: { denials: '100000/1m' }, on: { 'budget.denials': 'warn' } };
const LLM = '192.0.2.40';
const DOCS = '192.0.2.50';
/** One number a moment, over one connection. */
const TALK = `(i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done | nc -n ${LLM} 9999) >/dev/null 2>&1 &`;

async function arrived(address: string, since: Mark): Promise<number> {
  return (await packetsArrived({ since })).filter(({ destination }) => destination === address).length;
}

/** Writes the profile anew, as a person would, with another value at one place. */
function edit(path: string, change: (profile: Record<string, Record<string, unknown>>) => void): void {
  const profile = JSON.parse(readFileSync(path, 'utf8')) as Record<string, Record<string, unknown>>;
  change(profile);
  writeFileSync(path, JSON.stringify(profile, null, 2));
}

async function reload(path: string): Promise<ReloadReport> {
  return JSON.parse(await world.ringfence('reload', path, '--json')) as ReloadReport;
}

async function inspect(runId: string): Promise<RunDetail> {
  return JSON.parse(await world.ringfence('inspect', runId, '--json')) as RunDetail;
}

test('a tighter profile cuts what is open, a wider one opens without a restart, and both are on record', async () => {
  const { run, path, type } = await openShell({
    name: 'changes',
    egress: { allow: [`${LLM}/32:9999`] },
    ...LENIENT,
  });
  const before = await mark();
  await type(TALK);
  await until('the agent talks', async () => (await arrived(LLM, before)) > 5, DEADLINE);
  edit(path, (profile) => (profile['egress'] = { allow: ['docs.example.test:443'] }));
  const report = await reload(path);
  const since = await mark();
  expect(report.runs).toEqual([
    {
      runId: run.runId,
      fromDigest: run.profileDigest,
      changes: [
        { path: 'egress.allow', before: `${LLM}/32:9999`, after: null, effect: 'tighter' },
        { path: 'egress.allow', before: null, after: 'docs.example.test:443', effect: 'wider' },
      ],
    },
  ]);
  // What was open is cut, and cannot be opened again; what is new works for the process that was there all the time.
  expect(await type(`echo x | nc -n -w 5 ${LLM} 9999; echo "knocked $?"`)).toContain('knocked 1');
  expect(await type('curl -sS --cacert /agent/lab-ca.crt https://docs.example.test/')).toContain('docs.example.test');
  expect(await arrived(DOCS, since)).toBeGreaterThan(0);
  expect(await arrived(LLM, since)).toBe(0);
  const after = await inspect(run.runId);
  expect(after).toMatchObject({ containerId: run.containerId, profileDigest: report.profileDigest, phase: 'running' });
  expect(after.egress).toEqual(['docs.example.test:443']);
  const [changed] = (await world.records(run.runId)).filter(({ kind }) => kind === 'run.changed');
  expect(changed).toMatchObject({
    fromDigest: run.profileDigest,
    toDigest: report.profileDigest,
    profileText: readFileSync(path, 'utf8'),
    caller: { uid: 0 },
    changes: [`egress.allow: removed ${LLM}/32:9999 (tighter)`, 'egress.allow: added docs.example.test:443 (wider)'],
  });
});

test('a reload that cannot be made whole changes nothing, and says where it cannot', async () => {
  const { run, path, type } = await openShell({ name: 'stays', egress: { allow: [`${LLM}/32:9999`] }, ...LENIENT });
  const since = await mark();
  const refused = async (code: number): Promise<string> => {
    const { exitCode, stderr } = await world.daemon.cli(['reload', path]);
    expect(exitCode).toBe(code);
    return stderr;
  };
  const text = readFileSync(path, 'utf8');
  edit(path, (profile) => {
    profile['limits'] = { ...profile['limits'], memory: '96MiB' };
    profile['egress'] = { allow: [`${LLM}/32:9999`, `${DOCS}/32:9999`] };
  });
  expect(await refused(126)).toMatch(/stays\.yaml:\d+:\d+ limits\.memory: .* → 96 MiB: a running agent keeps/);
  writeFileSync(path, text.replace('"pids"', '"pidz"'));
  expect(await refused(126)).toMatch(/stays\.yaml:\d+:\d+ limits\.pidz: is an unknown key; did you mean pids\?/);
  writeFileSync(path, text.replace('"stays"', '"moves"'));
  expect(await refused(1)).toContain('is called moves now, and its runs are of stays');
  writeFileSync(path, text);
  const elsewhere = world.writeText('stays-elsewhere', text);
  const other = await world.daemon.cli(['reload', elsewhere]);
  expect(other).toMatchObject({ exitCode: 1, stderr: expect.stringContaining(`run ${run.runId} is of another file`) });
  expect(await inspect(run.runId)).toMatchObject({ profileDigest: run.profileDigest, egress: [`${LLM}/32:9999`] });
  expect(await type(`echo x | nc -n -w 5 ${DOCS} 9999; echo "knocked $?"`)).toContain('knocked 1');
  expect(await type(`echo x | nc -n -w 5 ${LLM} 9999`)).toContain('taken');
  expect({ docs: await arrived(DOCS, since), llm: (await arrived(LLM, since)) > 0 }).toEqual({ docs: 0, llm: true });
  expect((await world.records(run.runId)).map(({ kind }) => kind)).not.toContain('run.changed');
});

test('the next daemon holds the run to the changed profile', async () => {
  const knock = (address: string): string => `echo x | nc -n -w 1 ${address} 9999`;
  const run = await world.start({
    name: 'changed-and-adopted',
    command: SHELL(`while :; do ${knock(LLM)}; ${knock(DOCS)}; sleep 0.2; done`),
    egress: { allow: [`${LLM}/32:9999`, `${DOCS}/32:9999`] },
    ...LENIENT,
  });
  const { runId } = run;
  const before = await mark();
  await until(
    'both are reached',
    async () => (await arrived(LLM, before)) * (await arrived(DOCS, before)) > 0,
    DEADLINE,
  );
  edit(run.profilePath, (profile) => (profile['egress'] = { allow: [`${DOCS}/32:9999`] }));
  const { profileDigest } = await reload(run.profilePath);
  // What stands in the file when the daemon starts again was never in force.
  edit(run.profilePath, (profile) => (profile['egress'] = { allow: [`${LLM}/32:9999`] }));
  await world.daemon.crash();
  await world.daemon.start();
  const adopted = await world.running(runId);
  expect(adopted).toMatchObject({ profileDigest, containerId: run.containerId, egress: [`${DOCS}/32:9999`] });
  const since = await mark();
  await until('what is allowed is reached', async () => (await arrived(DOCS, since)) > 5, DEADLINE);
  expect(await arrived(LLM, since)).toBe(0);
  await world.ringfence('kill', runId);
  expect((await world.wait(runId)).outcome).toMatchObject({ reason: 'killed', profileDigest });
});

test('a budget that is used up already when it is tightened ends the run', async () => {
  const run = await world.start({ name: 'less-time', command: SHELL('exec sleep 60'), budget: { wall: '50s' } });
  const { runId } = run;
  await until('a second is over', async () => (await inspect(runId)).usage.wallMs > 1_000, DEADLINE);
  edit(run.profilePath, (profile) => (profile['budget'] = { ...profile['budget'], wall: '1s' }));
  const { profileDigest } = await reload(run.profilePath);
  const { outcome } = await world.wait(runId);
  expect(outcome).toMatchObject({ reason: 'budget.wall', profileDigest });
});
