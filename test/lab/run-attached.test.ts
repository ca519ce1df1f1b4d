import { randomBytes } from 'node:crypto';
import { spawn, type ChildProcess } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { DoctorReport } from '../../src/api/service.ts';
import { BUDGETS, LIMITS } from '../../src/core/outcome.ts';
import { startDaemon, type TestDaemon } from '../support/daemon.ts';
import { command, docker } from '../support/lab.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';
import { profileText, writeProfile, writeShellProfile, type ProfileLines } from '../support/profile.ts';
import { until } from '../support/until.ts';

/** The command line against the real daemon and real containers: an attached run, and every command on a run. */
const MAIN = join(import.meta.dirname, '../../dist/main.js');
const DEADLINE_MS = 20_000;
const RUN_ID = /^r[a-z0-9]{12}$/;

let daemon: TestDaemon;
let before: Snapshot;
const children: ChildProcess[] = [];

beforeAll(async () => {
  daemon = await startDaemon();
  before = await snapshot();
});

afterEach(() => {
  for (const child of children.splice(0))
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
});

afterAll(async () => {
  const leaks = await leaksSince(before);
  await daemon.close();
  expect(leaks).toEqual([]);
});

let profiles = 0;
/** A profile of its own for each call, so that a name means one run. */
function agent(script: string, changes: ProfileLines = {}): string {
  profiles += 1;
  const name = `agent-${profiles}`;
  return writeShellProfile(`${daemon.folder}/${name}.yaml`, script, { name, ...changes });
}

type Program = {
  readonly child: ChildProcess;
  readonly stdout: () => string;
  readonly stderr: () => string;
  readonly bytes: () => Buffer;
  readonly exit: Promise<number | null>;
};

function follow(child: ChildProcess): Program {
  children.push(child);
  const chunks = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  child.stdout?.on('data', (chunk: Buffer) => chunks.stdout.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => chunks.stderr.push(chunk));
  child.stdin?.on('error', () => undefined);
  return {
    child,
    stdout: () => Buffer.concat(chunks.stdout).toString(),
    stderr: () => Buffer.concat(chunks.stderr).toString(),
    bytes: () => Buffer.concat(chunks.stdout),
    exit: new Promise((resolve) => child.once('close', (code) => resolve(code))),
  };
}

const start = (...words: readonly string[]): Program => follow(daemon.spawnCli(words));
const says = (program: Program, text: string) =>
  until(`it says ${text}`, () => (program.stdout() + program.stderr()).includes(text), {
    deadlineMs: DEADLINE_MS,
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}, but: ${program.stdout()}${program.stderr()}`, { cause: error });
  });

async function json<T = Record<string, unknown>>(...words: readonly string[]): Promise<T> {
  const { stdout, stderr } = await daemon.cli([...words, '--json']);
  try {
    return JSON.parse(stdout) as T;
  } catch (error) {
    throw new Error(`${words.join(' ')} --json answered ${stdout} ${stderr}`, { cause: error });
  }
}

const linesOf = (text: string): Record<string, unknown>[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe('the streams of an attached run', () => {
  it('are apart, and nothing is added to them', async () => {
    const program = start('run', agent('printf "out\\0\\377"; printf err >&2; exit 3'));
    expect(await program.exit).toBe(3);
    expect([program.bytes(), program.stderr()]).toEqual([Buffer.from('out\0\xff', 'latin1'), 'err']);
  });

  it('carry a megabyte there and back, byte for byte', async () => {
    const program = start('run', agent('exec cat'));
    const sent = randomBytes(1024 * 1024);
    program.child.stdin?.end(sent);
    expect(await program.exit).toBe(0);
    expect(program.bytes().equals(sent)).toBe(true);
  });

  it('end at the agent when ours does', async () => {
    const program = start('run', agent('read line; echo "got $line"; read more || echo end'));
    program.child.stdin?.end('one\n');
    expect(await program.exit).toBe(0);
    expect(program.stdout()).toBe('got one\nend\n');
  });

  it('leave stdout to the outcome with --json', async () => {
    const { stdout, stderr, exitCode } = await daemon.cli(['run', agent('echo out; exit 4'), '--json']);
    expect([exitCode, stderr]).toEqual([4, 'out']);
    expect(JSON.parse(stdout)).toMatchObject({ reason: 'exited', exitCode: 4, incidentId: null });
  });

  it('take the words after -- where the profile leaves the command open, as they are', async () => {
    const file = writeProfile(`${daemon.folder}/any.yaml`, { name: 'any', command: 'any' });
    const { stdout } = await daemon.cli(['run', file, '--', '/bin/echo', '$(id)', '-d', '--json', "it's"]);
    expect(stdout).toBe("$(id) -d --json it's");
  });
});

describe('the exit code of an attached run', () => {
  it.each([
    ['0', ['/bin/true'], 0],
    ['the agent’s own', ['/bin/sh', '-c', 'exit 77'], 77],
    ['126 of a command that cannot be executed', ['/etc/passwd'], 126],
    ['127 of a command that is not there', ['/no/such/program'], 127],
    ['137 of an agent that kills itself', ['/bin/sh', '-c', 'kill -9 $$'], 137],
  ])('is %s', async (_what, words, exitCode) => {
    const file = agent('', { command: JSON.stringify(words) });
    const result = await daemon.cli(['run', file]);
    expect(result.exitCode, result.stderr).toBe(exitCode);
    expect(result.stdout).toBe('');
  });

  it('is 124 when a budget ended it, and the last line says which', async () => {
    const { exitCode, stderr } = await daemon.cli([
      'run',
      agent('sleep 60', { budget: '{ wall: 1s }', on: '{ quarantine: false }' }),
    ]);
    expect(exitCode).toBe(124);
    expect(stderr).toMatch(/ended by budget\.wall: .*`ringfence incident i[a-z0-9]{12}`$/);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('is that of an agent that one %s ended', async (signal, exitCode) => {
    const program = start('run', agent('echo ready; exec sleep 60'));
    await says(program, 'ready');
    program.child.kill(signal);
    expect(await program.exit).toBe(exitCode);
  });
});

describe('a signal', () => {
  it.each(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const)('%s reaches the agent', async (signal) => {
    const name = signal.slice(3);
    const script = `trap 'echo got ${name}; exit 9' ${name}; echo ready; while :; do sleep 0.05; done`;
    const program = start('run', agent(script));
    await says(program, 'ready');
    program.child.kill(signal);
    expect([await program.exit, program.stdout()]).toEqual([9, `ready\ngot ${name}\n`]);
  });

  it('that the agent ignores stops it when it comes twice, after the grace', async () => {
    const program = start(
      'run',
      agent('trap "" INT TERM; echo ready; while :; do sleep 0.05; done', { on: '{ grace: 1s }' }),
    );
    await says(program, 'ready');
    program.child.kill('SIGINT');
    program.child.kill('SIGTERM');
    // Now and then a process hears the second of two signals first.
    expect([128 + 2, 128 + 15]).toContain(await program.exit);
    expect(program.stderr()).toMatch(/stopping r.*\n.*ended by stopped/);
  });

  it('before there is an agent ends the launch', async () => {
    const file = agent('echo ready; sleep 60');
    const program = start('run', file);
    await until('the run is admitted', async () => (await json<unknown[]>('ps')).length > 0, {
      deadlineMs: DEADLINE_MS,
    });
    program.child.kill('SIGTERM');
    expect(await program.exit).toBe(143);
    expect(await json<unknown[]>('ps')).toEqual([]);
  });
});

describe('an agent at a terminal', () => {
  /** script(1) gives our command a terminal; `first` runs in it before. */
  function atTerminal(file: string, first: string): Program {
    writeFileSync(`${daemon.folder}/terminal.sh`, `${first}\nexec ${process.execPath} ${MAIN} run ${file}\n`);
    const words = ['--quiet', '--return', '--command', `/bin/sh ${daemon.folder}/terminal.sh`, '/dev/null'];
    const env = { ...process.env, SHELL: '/bin/sh', RINGFENCE_SOCKET: daemon.socket };
    return follow(spawn('script', words, { env }));
  }

  it('has it: its size, its changes, its keys', async () => {
    await command('mkfifo', [`${daemon.folder}/resize`]);
    const script = [
      "trap 'echo interrupted; exit 9' INT",
      'until [ "$(stty size)" = "41 101" ]; do sleep 0.05; done',
      "trap 'stty size' WINCH",
      'tty; stty size; echo ready',
      'while :; do sleep 0.05; done',
    ].join('\n');
    const resize = `(read go <${daemon.folder}/resize; stty cols 120 rows 50 </dev/tty) &`;
    const program = atTerminal(agent(script), `stty cols 101 rows 41\n${resize}`);
    await says(program, 'ready');
    writeFileSync(`${daemon.folder}/resize`, 'go\n');
    await says(program, '50 120');
    program.child.stdin?.write('\u0003');
    expect(await program.exit).toBe(9);
    expect(program.stdout().replaceAll('\r', '')).toBe('/dev/pts/0\n41 101\nready\n50 120\n^Cinterrupted\n');
  });
});

describe('a run in the background', () => {
  const SCRIPT = 'echo one; echo two >&2; echo ready; trap "exit 5" TERM; while :; do sleep 0.05; done';

  async function launch(file: string, ...words: readonly string[]): Promise<string> {
    const { stdout, stderr, exitCode } = await daemon.cli(['run', '-d', file, ...words]);
    expect([exitCode, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(RUN_ID);
    await until('it runs', async () => (await json<{ phase: string }>('inspect', stdout)).phase === 'running', {
      deadlineMs: DEADLINE_MS,
    });
    return stdout;
  }

  it('is told of by every command, as text and as JSON, and ends by stop', async () => {
    const file = agent(SCRIPT);
    const name = `agent-${profiles}`;
    const runId = await launch(file, '--label', 'ticket=OPS-12', '--label', 'team=a=b');
    const labels = { ticket: 'OPS-12', team: 'a=b' };
    const logs = start('logs', '-f', runId);
    const events = start('events', '-f', '--run', name, '--json');
    const waiting = start('wait', runId.slice(0, 6), '--json');
    await says(logs, 'ready');

    expect(await json('ps')).toEqual([expect.objectContaining({ runId, profile: name, phase: 'running', labels })]);
    expect((await daemon.cli(['ps'])).stdout).toContain(runId);
    for (const reference of [runId, runId.slice(0, 5), name])
      expect(await json('inspect', reference)).toMatchObject({ runId, labels, command: ['/bin/sh', '-c', SCRIPT] });
    expect((await daemon.cli(['inspect', name])).stdout).toContain('ticket=OPS-12');
    const { containerId } = await json<{ containerId: string }>('inspect', runId);
    expect(await docker('inspect', '--format', '{{.State.Running}}', containerId)).toBe('true');
    expect(await json('why', runId)).toMatchObject({ subject: runId, rule: null });
    const { stdout } = await daemon.cli(['logs', name, '--tail', '1', '--json']);
    expect(linesOf(stdout)).toEqual([
      { stream: expect.stringMatching(/^std/), text: expect.stringMatching(/^\w+\n$/) },
    ]);
    expect(await json('gc')).toEqual({ removed: [] });

    expect(await daemon.cli(['stop', name])).toMatchObject({ exitCode: 0, stderr: '' });
    expect(await logs.exit).toBe(0);
    expect([logs.stdout(), logs.stderr()]).toEqual(['one\nready\n', 'two\n']);
    expect(await waiting.exit).toBe(124);
    const outcome = JSON.parse(waiting.stdout()) as Record<string, unknown>;
    expect(outcome).toMatchObject({ runId, reason: 'stopped', detail: 'stopped by user 0', incidentId: null });
    expect(await json('ps')).toEqual([]);
    expect(await json('ps', '--all')).toContainEqual(expect.objectContaining({ runId, phase: 'over', outcome }));
    expect(await json('inspect', runId)).toMatchObject({ phase: 'over', outcome });
    expect((await daemon.cli(['why', runId])).stdout).toContain(`was stopped by a person`);
    await until('the record is told', () => events.stdout().includes('"run.cleaned"'), { deadlineMs: DEADLINE_MS });
    events.child.kill('SIGTERM');
    await events.exit;
    const kinds = linesOf(events.stdout()).map(({ kind }) => kind);
    expect(kinds).toEqual([
      'run.admitted',
      'run.started',
      'run.verified',
      'command.issued',
      'run.ended',
      'run.cleaned',
    ]);

    expect(await daemon.cli(['stop', runId])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('is over'),
    });
    expect(await daemon.cli(['logs', runId])).toMatchObject({ exitCode: 1 });
    expect(await daemon.cli(['wait', runId])).toMatchObject({ exitCode: 124 });
  });

  it('ends at once by kill', async () => {
    const runId = await launch(agent('trap "" TERM; while :; do sleep 0.05; done', { on: '{ grace: 1m }' }));
    expect(await json('kill', runId)).toEqual({ run: runId, asked: 'kill' });
    expect(await json('wait', runId)).toMatchObject({ reason: 'killed', detail: 'killed by user 0' });
  });

  it('is named by its profile only while it is the one', async () => {
    const file = agent(SCRIPT);
    const name = `agent-${profiles}`;
    const runIds = [await launch(file), await launch(file)];
    const refused = await daemon.cli(['stop', name]);
    expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(`"${name}" has 2 runs alive`) });
    expect(await daemon.cli(['stop', 'r'])).toMatchObject({ exitCode: 1 });
    expect(await daemon.cli(['stop', 'rzzzzzzzzzzzz'])).toMatchObject({ exitCode: 1 });
    await Promise.all(runIds.map((runId) => daemon.cli(['kill', runId])));
    await Promise.all(runIds.map((runId) => daemon.cli(['wait', runId])));
  });
});

describe('a breach', () => {
  it('is told by why, incidents and incident, and bars the profile until release', async () => {
    const file = agent('sleep 60', { budget: '{ wall: 1s }', on: '{ quarantine: true }' });
    const name = `agent-${profiles}`;
    const outcome = await json<{ runId: string; incidentId: string }>('run', file, '--label', 'ticket=OPS-13');
    const { runId, incidentId } = outcome;
    expect(outcome).toMatchObject({ reason: 'budget.wall', rule: 'budget.wall' });

    const incidents = await json<Record<string, unknown>[]>('incidents');
    expect(incidents).toContainEqual(
      expect.objectContaining({ id: incidentId, runId, profile: name, rule: 'budget.wall', quarantined: true }),
    );
    expect(await json('incident', incidentId)).toMatchObject({
      id: incidentId,
      subject: { profile: name, runId, labels: { ticket: 'OPS-13' } },
      what: { reason: 'budget.wall', rule: 'budget.wall' },
      action: { taken: 'kill', survivors: 0 },
    });
    for (const reference of [runId, incidentId, name])
      expect(await json('why', reference)).toMatchObject({ rule: 'budget.wall', change: [expect.any(String)] });
    expect((await daemon.cli(['incidents'])).stdout).toContain(incidentId);
    expect((await daemon.cli(['incident', incidentId])).stdout).toContain('budget.wall');
    expect((await daemon.cli(['why', incidentId])).stdout).toContain('budget.wall');
    expect(await daemon.cli(['incident', 'izzzzzzzzzzzz'])).toMatchObject({ exitCode: 1 });

    expect(await daemon.cli(['run', file])).toMatchObject({
      exitCode: 126,
      stderr: expect.stringContaining('quarantine'),
    });
    expect(await json('release', name)).toEqual({ profile: name, quarantined: false });
    expect(await daemon.cli(['release', name])).toMatchObject({ exitCode: 1 });
    expect(await daemon.cli(['run', file])).toMatchObject({ exitCode: 124 });
  });
});

describe('a command without a run', () => {
  it('doctor says what this host holds', async () => {
    const report = await json<DoctorReport>('doctor');
    expect(report.ok, JSON.stringify(report.checks)).toBe(true);
    // Of every bound that a profile can state, once, and of what runs it.
    const bounds = [...LIMITS.map((name) => `limits.${name}`), ...BUDGETS.map((name) => `budget.${name}`)];
    const asked = [...bounds, 'limits.gpu.memory', 'mounts.size', 'egress'];
    const held = report.checks.filter(({ rung }) => rung !== null).map(({ name }) => name);
    expect(asked.filter((name) => held.filter((other) => other === name).length !== 1)).toEqual([]);
    const parts = [
      'engine version',
      'containerd version',
      'runc version',
      'image store',
      'quotas',
      'pressure',
      'events',
    ];
    const names = report.checks.map(({ name }) => name);
    expect(parts.filter((name) => !names.includes(name))).toEqual([]);
    expect(report.checks.filter(({ state, fix }) => (state === 'ok') !== (fix === null))).toEqual([]);
    expect((await daemon.cli(['doctor'])).exitCode).toBe(0);
  });

  it('schema and validate need no daemon', async () => {
    const nowhere = { env: { RINGFENCE_SOCKET: '/nowhere/socket' } };
    const { stdout } = await daemon.cli(['schema'], nowhere);
    expect(JSON.parse(stdout)).toMatchObject({
      additionalProperties: false,
      required: expect.arrayContaining(['egress']),
    });
    const good = writeProfile(`${daemon.folder}/good.yaml`);
    writeFileSync(`${daemon.folder}/bad.yaml`, profileText({ user: 'root' }));
    const checked = await daemon.cli(['validate', good, `${daemon.folder}/bad.yaml`, '--json'], nowhere);
    expect(checked.exitCode).toBe(2);
    expect(JSON.parse(checked.stdout)).toMatchObject([
      { file: good, valid: true, name: 'probe', problems: [] },
      { valid: false, problems: [{ line: 5, column: 7, path: 'user' }] },
    ]);
  });

  it('ledger verify reads the files of a daemon that goes on writing', async () => {
    const verified = await json<{ ok: boolean; records: number }>('ledger', 'verify', '--state', daemon.state);
    expect(verified).toMatchObject({ ok: true, firstBad: null });
    expect(verified.records).toBeGreaterThan(50);
  });
});
