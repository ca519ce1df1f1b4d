import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import { command, docker, lab, mark, packetsTo } from '../support/lab.ts';
import { PYTHON, SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * The daemon is killed without warning and started again. While it is away the kernel and the warden hold its runs;
 * afterwards it takes them over as they are.
 */
const world = useSupervised();
const GAP_MS_MAX = 20_000;
const FORBIDDEN = '203.0.113.98';

async function containerState(run: RunDetail): Promise<string> {
  const args = [
    '--host',
    `unix://${lab.dockerSocket}`,
    'inspect',
    '--format',
    '{{.State.Status}}',
    run.containerId ?? '',
  ];
  return (await command('docker', args)).stdout.trim();
}

async function untilOver(run: RunDetail): Promise<void> {
  await until('the agent is over', async () => (await containerState(run)) === 'exited', { deadlineMs: GAP_MS_MAX });
}

test('a run goes on, is read back again, and keeps what it had used', async () => {
  const { runId } = await world.start({
    name: 'goes-on',
    command: PYTHON('import time\nwhile time.process_time() < 0.5: pass\ntime.sleep(60)'),
  });
  const used = await until(
    'it has used CPU time',
    async () => {
      const { usage } = await world.running(runId);
      return usage.cpuMs > 300 ? usage.cpuMs : null;
    },
    { deadlineMs: GAP_MS_MAX },
  );
  await world.daemon.crash();
  await world.daemon.start();
  const adopted = await world.running(runId);
  expect(adopted.usage.cpuMs).toBeGreaterThanOrEqual(used);
  expect(await containerState(adopted)).toBe('running');
  await world.ringfence('kill', runId);
  const { outcome } = await world.wait(runId);
  expect(outcome).toMatchObject({ reason: 'killed', incidentId: null });
  const kinds = (await world.records(runId)).map((record) => record.kind);
  expect(kinds).toEqual([
    'run.admitted',
    'run.started',
    'run.verified',
    'run.adopted',
    'run.verified',
    'command.issued',
    'run.ended',
    'run.cleaned',
  ]);
});

test('wall time counts from the start of the run, the gap included', async () => {
  const { runId } = await world.start({
    name: 'wall-goes-on',
    command: SHELL('exec sleep 60'),
    budget: { wall: '6s' },
  });
  await world.daemon.crash();
  await world.daemon.start();
  const { outcome } = await world.wait(runId);
  expect(outcome.reason).toBe('budget.wall');
  expect(outcome.usage.wallMs).toBeGreaterThanOrEqual(6_000);
  expect(outcome.usage.wallMs).toBeLessThan(7_500);
});

test('a budget that is used up while nobody is there is a kill then, and an incident later', async () => {
  const run = await world.start({
    name: 'burns-alone',
    command: SHELL('sleep 3; while :; do :; done'),
    budget: { cpu: '1s' },
    on: { quarantine: true },
  });
  const { runId } = run;
  const alertsBefore = world.receiver.deliveries.length;
  await world.daemon.crash();
  await untilOver(run);
  await world.daemon.start();
  const { outcome } = await world.wait(runId);
  expect(outcome.reason).toBe('budget.cpu');
  expect(outcome.usage.cpuMs).toBeGreaterThanOrEqual(1_000);
  expect(outcome.usage.cpuMs).toBeLessThan(2_000);
  expect((await world.incidentsOf('burns-alone')).map(({ rule, quarantined }) => ({ rule, quarantined }))).toEqual([
    { rule: 'budget.cpu', quarantined: true },
  ]);
  await until('the alert arrives', async () => world.receiver.deliveries.length > alertsBefore, {
    deadlineMs: GAP_MS_MAX,
  });
  await world.ringfence('release', 'burns-alone');
});

test('an agent that ends while nobody is there keeps its exit code', async () => {
  const run = await world.start({ name: 'ends-alone', command: SHELL('sleep 3; exit 7') });
  const { runId } = run;
  await world.daemon.crash();
  await untilOver(run);
  await world.daemon.start();
  expect((await world.wait(runId)).outcome).toMatchObject({ reason: 'exited', exitCode: 7, incidentId: null });
});

test('supervisor.lost: kill is honoured without a daemon, and not before its time', async () => {
  const killed = await world.launch({
    name: 'not-alone',
    command: SHELL('exec sleep 60'),
    on: { 'supervisor.lost': { action: 'kill', for: '2s' } },
  });
  const kept = await world.launch({ name: 'alone', command: SHELL('exec sleep 60') });
  const [run, twin] = [await world.running(killed.runId), await world.running(kept.runId)];
  await world.daemon.crash();
  const goneAtMs = performance.now();
  await untilOver(run);
  expect(performance.now() - goneAtMs).toBeGreaterThan(1_500);
  expect(await containerState(twin)).toBe('running');
  await world.daemon.start();
  expect((await world.wait(killed.runId)).outcome).toMatchObject({
    reason: 'supervisor.lost',
    rule: 'on.supervisor.lost',
  });
  await world.running(kept.runId);
  await world.ringfence('kill', kept.runId);
  expect((await world.wait(kept.runId)).outcome.reason).toBe('killed');
});

test('a run that cannot be taken over has an outcome for whoever asks the next daemon', async () => {
  const { runId, containerId } = await world.start({ name: 'taken-away', command: SHELL('exec sleep 60') });
  await world.daemon.crash();
  await command('docker', ['--host', `unix://${lab.dockerSocket}`, 'rm', '--force', containerId ?? '']);
  await world.daemon.start();
  expect((await world.wait(runId)).outcome).toMatchObject({ reason: 'supervisor.lost', exitCode: null });
});

/** Asks for one name at once and for the other when it is told to, and then dials what it found and what is forbidden. */
const DIALLER = PYTHON(`
import os, socket, time
def ask(name):
    try: return socket.getaddrinfo(name, 9999, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except OSError: return "nothing"
def dial(address):
    try: socket.create_connection((address, 9999), 1).close()
    except OSError: pass
learned = ask("docs.example.test")
print("learned", learned)
while not os.path.exists("/signs/gap"): time.sleep(0.1)
dial(learned)
dial("${FORBIDDEN}")
print("new", ask("llm.example.test"))
time.sleep(600)
`);

test('in the gap a name that was learned leads on, and neither a new name nor an address does', async () => {
  const folder = mkdtempSync(join(lab.scratch, 'gap-'));
  chmodSync(folder, 0o755);
  const { runId, containerId } = await world.start({
    name: 'in-the-gap',
    command: DIALLER,
    egress: { allow: ['docs.example.test:9999', 'llm.example.test:9999'] },
    budget: { wall: '10m', denials: '1000/1m' },
    more: { mounts: [{ host: folder, path: '/signs', mode: 'ro' }] },
  });
  const said = async (): Promise<string> => await docker('logs', containerId ?? '');
  const untilSaid = (line: RegExp): Promise<RegExpExecArray> =>
    until(`the agent said ${line.source}`, async () => line.exec(await said()), { deadlineMs: 60_000 });
  const [, learned = ''] = await untilSaid(/^learned ([\d.]+)$/m);
  const since = await mark();
  await world.daemon.crash();
  writeFileSync(join(folder, 'gap'), '');
  await untilSaid(/^new nothing$/m);
  expect((await packetsTo(learned, { since })).map(({ destinationPort }) => destinationPort)).toContain(9999);
  expect(await packetsTo(FORBIDDEN, { since })).toEqual([]);
  await world.daemon.start();
  await world.ringfence('kill', runId);
  expect((await world.wait(runId)).outcome.reason).toBe('killed');
  rmSync(folder, { recursive: true });
});

test('a container with our label that no ledger admitted is told of and left alone, by the start and by gc', async () => {
  const name = `nobodys-${process.pid}`;
  const label = 'ringfence.run=rnobodysrun00';
  const options = ['--detach', '--name', name, '--network', 'none', '--label', label];
  const foreign = await docker('run', ...options, 'ringfence/agent-shell:local', 'sleep', '600');
  try {
    await world.daemon.crash();
    await world.daemon.start();
    await world.ringfence('gc');
    const told = world.daemon.log().split('\n');
    expect(told.filter((line) => line.includes(`container ${name}`) && line.includes('left alone'))).toHaveLength(2);
    expect(await docker('inspect', '--format', '{{.State.Status}}', foreign)).toBe('running');
  } finally {
    await docker('rm', '--force', foreign);
  }
});
