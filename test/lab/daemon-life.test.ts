import { appendFileSync, chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cli, layOutDaemon, startDaemon, type TestDaemon } from '../support/daemon.ts';
import { command, docker, lab, mark, packetsTo } from '../support/lab.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';
import { writeShellProfile } from '../support/profile.ts';
import { startReceiver } from '../support/receiver.ts';
import { until } from '../support/until.ts';

/** What holds when the daemon is doubled, unreachable, killed, restarted or stopped. */
const MAIN = join(import.meta.dirname, '../../dist/main.js');
const DEADLINE_MS = 20_000;
const STRANGER = 54_321;
/** The group `daemon` of every Debian. */
const GROUP = { name: 'daemon', id: 1 };

let before: Snapshot;
beforeAll(async () => {
  before = await snapshot();
});
afterAll(async () => {
  const standing = /^(?:iptables|ip6tables|ipset|routing rule) /;
  // The fence's standing rules outlive a daemon on purpose.
  expect((await leaksSince(before)).filter((leak) => !standing.test(leak))).toEqual([]);
});

async function records(daemon: TestDaemon): Promise<Record<string, unknown>[]> {
  const { stdout } = await daemon.cli(['events', '--json']);
  return stdout.split('\n').map((line) => JSON.parse(line) as Record<string, unknown>);
}

async function verified(daemon: TestDaemon): Promise<unknown> {
  const { stdout, exitCode } = await cli(['ledger', 'verify', '--json', '--state', daemon.state]);
  return { exitCode, ...(JSON.parse(stdout) as object) };
}

const phaseOf = async (daemon: TestDaemon, run: string): Promise<string> => {
  const { stdout } = await daemon.cli(['inspect', run, '--json']);
  return (JSON.parse(stdout) as { phase?: string }).phase ?? 'unknown';
};

async function launch(daemon: TestDaemon, file: string): Promise<string> {
  const { stdout, stderr } = await daemon.cli(['run', '-d', file]);
  expect(stderr).toBe('');
  await until('it runs', async () => (await phaseOf(daemon, stdout)) === 'running', { deadlineMs: DEADLINE_MS });
  return stdout;
}

describe('a daemon', () => {
  it('that is not running is said to be, with how to start it', async () => {
    const { exitCode, stdout, stderr } = await cli(['ps', '--socket', `${lab.runtime}/none.sock`]);
    expect([exitCode, stdout]).toEqual([125, '']);
    expect(stderr).toMatch(/daemon is not running[^]*hint: start it as root: `ringfence daemon`/);
  });

  it('is refused a second time on the same state, and on the same socket', async () => {
    await using daemon = await startDaemon();
    const other = layOutDaemon({});
    const second = (state: string, socket: string) =>
      cli(['daemon', '--config', daemon.config, '--state', state, '--socket', socket]);
    try {
      const refused = { exitCode: 125, stderr: expect.stringContaining('another daemon') };
      expect(await second(daemon.state, other.socket)).toMatchObject(refused);
      expect(readdirSync(other.sockets)).toEqual([]);
    } finally {
      other.remove();
    }
    expect((await daemon.cli(['ps'])).exitCode).toBe(0);
    expect(await verified(daemon)).toMatchObject({ exitCode: 0, ok: true });
  });

  it('without an engine says so and leaves nothing behind', async () => {
    const paths = layOutDaemon({ config: { engine: `unix://${lab.runtime}/no-engine.sock` } });
    try {
      const places = ['--config', paths.config, '--state', paths.state, '--socket', paths.socket];
      const { exitCode, stderr } = await cli(['daemon', ...places]);
      expect([exitCode, readdirSync(paths.sockets)]).toEqual([125, []]);
      expect(stderr).toMatch(/ringfence: .*no-engine\.sock[^]*hint: /);
    } finally {
      paths.remove();
    }
  });
});

describe('the socket', () => {
  it('is open to its group and to nobody else', async () => {
    await using daemon = await startDaemon({ config: { socket: { mode: '0660', group: GROUP.name } } });
    // The folder of a real daemon's socket may be entered by everybody.
    chmodSync(dirname(daemon.socket), 0o755);
    const { mode, uid, gid } = statSync(daemon.socket);
    expect({ mode: mode & 0o777, uid, gid }).toEqual({ mode: 0o660, uid: 0, gid: GROUP.id });
    const psAs = (groupId: number) =>
      command('setpriv', [
        `--reuid=${STRANGER}`,
        `--regid=${groupId}`,
        '--clear-groups',
        process.execPath,
        MAIN,
        'ps',
        '--json',
        '--socket',
        daemon.socket,
      ]);
    const stranger = await psAs(STRANGER);
    expect(stranger).toMatchObject({ exitCode: 125, stderr: expect.stringMatching(/may not|permission|EACCES/i) });
    expect(stranger.stderr).toContain('join the group that owns the socket');
    expect(await psAs(GROUP.id)).toMatchObject({ exitCode: 0, stdout: '[]' });
  });
});

describe('a daemon that is killed', () => {
  it('leaves limits and fence in force, and the next one accounts for the run', async () => {
    await using receiver = await startReceiver();
    await using daemon = await startDaemon({ sinks: { ops: { url: receiver.url, secret: receiver.secret } } });
    mkdirSync(`${daemon.folder}/w`);
    chmodSync(`${daemon.folder}/w`, 0o777);
    // Each line that the agent writes is one refused attempt, before and after the daemon has gone.
    const script =
      'while :; do curl -s -m 1 http://203.0.113.99:8080/ && echo open || echo shut; sleep 0.1; done >>/w/tries';
    const file = writeShellProfile(`${daemon.folder}/alive.yaml`, script, {
      name: 'alive',
      mounts: `[{ host: ${daemon.folder}/w, path: /w, mode: rw }]`,
    });
    const since = await mark();
    const runId = await launch(daemon, file);
    const { stdout } = await daemon.cli(['inspect', runId, '--json']);
    const { cgroups, containerId } = JSON.parse(stdout) as { cgroups: string[]; containerId: string };
    const tries = (): string[] => readFileSync(`${daemon.folder}/w/tries`, 'utf8').trim().split('\n');
    await until('the agent tries', () => tries().length > 1, { deadlineMs: DEADLINE_MS });

    await daemon.crash();
    const count = tries().length;
    await until('it tries again', () => tries().length > count + 3, { deadlineMs: DEADLINE_MS });
    expect(new Set(tries())).toEqual(new Set(['shut']));
    expect(await packetsTo('203.0.113.99', { since })).toEqual([]);
    expect(await docker('inspect', '--format', '{{.HostConfig.Memory}} {{.State.Running}}', containerId)).toBe(
      `${64 * 2 ** 20} true`,
    );
    const memory = cgroups.find((path) => path.includes('/memory/')) ?? cgroups[0] ?? '';
    expect(statSync(memory).isDirectory()).toBe(true);

    await daemon.start();
    await daemon.cli(['kill', runId]);
    const { stdout: waited } = await daemon.cli(['wait', runId, '--json']);
    const outcome = JSON.parse(waited) as Record<string, unknown>;
    expect(outcome).toMatchObject({ runId, reason: 'killed', incidentId: null });
    expect(await docker('ps', '--all', '--quiet', '--filter', `id=${containerId}`)).toBe('');
    const kinds = (await records(daemon)).filter((record) => record['runId'] === runId).map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind === 'run.ended')).toEqual(['run.ended']);
    const started = (await records(daemon)).filter(({ kind }) => kind === 'daemon.started');
    expect(started).toMatchObject([{ gapFrom: null }, { gapFrom: expect.any(String) }]);
    expect(await packetsTo('203.0.113.99', { since })).toEqual([]);
    expect(await verified(daemon)).toMatchObject({ exitCode: 0, ok: true });
  });

  it('loses neither the alert that was on its way nor the quarantine', async () => {
    await using receiver = await startReceiver();
    await using daemon = await startDaemon({ sinks: { ops: { url: receiver.url, secret: receiver.secret } } });
    // As if nobody were there: whatever comes now is refused, and tried again later.
    receiver.answerNext(...Array.from({ length: 3 }, () => ({ status: 503 })));
    const file = writeShellProfile(`${daemon.folder}/slow.yaml`, 'sleep 60', {
      name: 'slow',
      budget: '{ wall: 1s }',
      on: '{ quarantine: true }',
      alerts: '[ops]',
    });
    expect(await daemon.cli(['run', file])).toMatchObject({ exitCode: 124 });
    await until('the first attempt was refused', () => receiver.deliveries.length > 0, { deadlineMs: DEADLINE_MS });
    await daemon.crash();
    const attempts = receiver.deliveries.length;
    await daemon.start();
    const delivered = () => receiver.deliveries.find(({ answered, verified: signed }) => signed && answered === 204);
    const accepted = await until('the alert arrives', delivered, { deadlineMs: 40_000 });
    expect(receiver.deliveries.length).toBeGreaterThan(attempts);
    expect(new Set(receiver.deliveries.map(({ id }) => id))).toEqual(new Set([accepted.id]));

    const refused = await daemon.cli(['run', file]);
    expect(refused).toMatchObject({ exitCode: 126, stderr: expect.stringContaining('slow is in quarantine') });
    expect(await daemon.cli(['release', 'slow'])).toMatchObject({ exitCode: 0 });
    await daemon.stop();
    await daemon.start();
    expect(await daemon.cli(['run', file])).toMatchObject({ exitCode: 124 });
    expect(await daemon.cli(['incidents', '--json'])).toMatchObject({ stdout: expect.stringContaining('budget.wall') });
    expect(await verified(daemon)).toMatchObject({ exitCode: 0, ok: true });
  });

  it('in the middle of a record leaves a ledger that is repaired, and says so', async () => {
    await using daemon = await startDaemon();
    await daemon.crash();
    const folder = `${daemon.state}/ledger`;
    const segment = readdirSync(folder)
      .filter((name) => name.endsWith('.ndjson') || name.endsWith('.jsonl'))
      .toSorted()
      .at(-1);
    appendFileSync(`${folder}/${segment}`, '{"seq":2,"at":"2026-01-01T00:0');
    expect(await verified(daemon)).toMatchObject({ exitCode: 1, ok: false });
    await daemon.start();
    const kinds = (await records(daemon)).map(({ kind }) => kind).filter((kind) => kind !== 'ledger.key');
    expect(kinds).toEqual(['daemon.started', 'ledger.recovered', 'daemon.started']);
    expect(await verified(daemon)).toMatchObject({ exitCode: 0, ok: true });
  });
});

describe('a ledger that somebody edited by hand', () => {
  it('is named by verify and in one line of the log, and the record goes on beside it', async () => {
    await using daemon = await startDaemon();
    const file = `${daemon.state}/ledger/ledger-000001.ndjson`;
    await daemon.cli(['run', `${daemon.folder}/none.yaml`]);
    await daemon.stop();
    const text = readFileSync(file, 'utf8');
    const line = text.split('\n').findIndex((each) => each.includes('"kind":"daemon.started"')) + 1;
    writeFileSync(file, text.replace(/"version":"[^"]*"/, '"version":"9.9.9"'));
    const edited = readFileSync(file, 'utf8');
    expect(await verified(daemon)).toMatchObject({ exitCode: 1, ok: false, firstBad: { seq: line, line } });
    await daemon.start();
    const said = daemon
      .log()
      .split('\n')
      .filter((each) => each.includes('the ledger is damaged'));
    expect(said).toEqual([expect.stringContaining(`"line":${line}`)]);
    const recovered = (await records(daemon)).filter(({ kind }) => kind === 'ledger.recovered');
    expect(recovered).toMatchObject([{ broken: true, file: 'ledger-000001.ndjson', line, badSeq: line }]);
    // What was found is evidence, and a launch is on record all the same.
    expect(readFileSync(file, 'utf8')).toBe(edited);
    const after = writeShellProfile(`${daemon.folder}/after.yaml`, 'true');
    expect(await daemon.cli(['run', after])).toMatchObject({ exitCode: 0 });
    expect(await verified(daemon)).toMatchObject({ exitCode: 1, ok: false, firstBad: { seq: line, line } });
  });
});

describe('a daemon that is stopped', () => {
  it('ends its runs, tells who is attached, and leaves nothing', async () => {
    await using daemon = await startDaemon();
    const file = writeShellProfile(
      `${daemon.folder}/p.yaml`,
      'trap "exit 0" TERM; echo ready; while :; do sleep 0.05; done',
    );
    const attached = daemon.spawnCli(['run', file]);
    let said = '';
    for (const stream of [attached.stdout, attached.stderr])
      stream?.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const exit = new Promise((resolve) => attached.once('close', resolve));
    await until('it is ready', () => said.includes('ready'), { deadlineMs: DEADLINE_MS });
    await daemon.stop();
    expect(await exit).toBe(124);
    expect(said).toContain('the daemon was stopped');
    expect(readdirSync(dirname(daemon.socket))).not.toContain('daemon.sock');
    expect(await docker('ps', '--all', '--quiet', '--filter', 'label=ringfence.run')).toBe('');
    expect(await verified(daemon)).toMatchObject({ exitCode: 0, ok: true });
    await daemon.start();
    const kinds = (await records(daemon)).map(({ kind }) => kind).filter((kind) => kind !== 'ledger.checkpoint');
    expect(kinds.slice(-2)).toEqual(['daemon.stopped', 'daemon.started']);
    expect((await records(daemon)).at(-1)).toMatchObject({ gapFrom: null });
  });
});
