import { chownSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectClient } from '../../src/api/client.ts';
import { ioVersion } from '../../src/daemon/io-devices.ts';
import type { Outcome } from '../../src/core/outcome.ts';
import { docker } from '../support/lab.ts';
import { PYTHON, SHELL, useSupervised, type FinishedRun, type ProfileDraft } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * Every resource of a host that an agent could use up: a hostile agent for each, and its twin just under the bound that
 * must finish. What an agent says of itself counts only where the kernel or the host says the same.
 */
const MIB = 2 ** 20;
const SITE = '192.0.2.40';
const WAIT_MS_MAX = 20_000;

// Registered first, so that it comes last: volumes stay mounted until the daemon has ended.
let folder = '';
afterAll(() => {
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(folder);
  rmSync(folder, { recursive: true });
});
const supervised = useSupervised();
beforeAll(() => {
  // Not among the folders in which every mount that is left counts as forgotten.
  folder = mkdtempSync('/var/tmp/ringfence-resources-');
});

function workspace(name: string): string {
  const path = `${folder}/${name}`;
  mkdirSync(path, { recursive: true });
  chownSync(path, 10001, 10001);
  return path;
}

/** Launches it in the background; without a process of the command line for each, many at once stay quick. */
async function launch(draft: ProfileDraft): Promise<string> {
  const profilePath = supervised.writeProfile(draft);
  const profileText = readFileSync(profilePath, 'utf8');
  const rest = { command: null, labels: {}, attach: false, tty: false, stdin: false };
  return (await client().launch({ profilePath, profileText, ...rest })).runId;
}
const client = () => connectClient({ socketPath: supervised.daemon.socket });
const ends = async (draft: ProfileDraft): Promise<Outcome> => await client().wait(await launch(draft));

const exited = { exitCode: 0, outcome: { reason: 'exited', incidentId: null } };
const ended = (reason: string, rule: string) => ({ exitCode: 124, outcome: { reason, rule } });

describe('a mount with a size', () => {
  const sized = (name: string, command: readonly string[]): ProfileDraft => ({
    name,
    command,
    limits: { memory: '64MiB' },
    more: { mounts: [{ host: `${folder}/${name}`, path: '/w', mode: 'rw', size: '24MiB' }] },
  });
  const runs = async (drafts: readonly ProfileDraft[]): Promise<readonly FinishedRun[]> =>
    await Promise.all(drafts.map((draft) => supervised.run(draft)));
  const fill = (bytes: number, then: string): readonly string[] =>
    PYTHON(`
import os, time, sys
file = os.open('/w/file', os.O_CREAT | os.O_WRONLY, 0o644)
${then === 'deleted' ? "os.unlink('/w/file')" : then === 'sparse' ? 'os.ftruncate(file, 1 << 40)' : ''}
written, failure = 0, ''
try:
    while written < ${bytes}: written += os.write(file, b'x' * min(65536, ${bytes} - written))
except OSError as error: failure = error.strerror
print('wrote', written, failure, flush=True)
if failure: time.sleep(2); sys.exit(3)
`);

  test('is full for a big file, a deleted one, a sparse one and many small ones, and not for their twins', async () => {
    for (const name of ['big', 'deleted', 'sparse', 'many', 'twin', 'cached']) workspace(name);
    const many = `exec 2>/dev/null; n=0; while echo > /w/f$n && [ $n -lt 9999 ]; do n=$((n+1)); done; echo "wrote $n"; [ $n = 9999 ] || exit 3`;
    const [big, deleted, sparse, small, twin, cached] = await runs([
      sized('big', fill(64 * MIB, '')),
      sized('deleted', fill(64 * MIB, 'deleted')),
      sized('sparse', fill(64 * MIB, 'sparse')),
      sized('many', SHELL(many)),
      sized('twin', fill(20 * MIB, '')),
      // Far more through the page cache than limits.memory: what the kernel can write back is no reason to end anybody.
      sized(
        'cached',
        SHELL('for n in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/w/f bs=1M count=18 || exit 1; done 2>&1'),
      ),
    ]);
    for (const run of [big, deleted, sparse]) {
      expect(run).toMatchObject(ended('limit.disk', 'mounts[0].size'));
      const [, written, failure] = /^wrote (\d+) (.*)$/m.exec(run?.output ?? '') ?? [];
      expect({ failure, within: Number(written) <= 24 * MIB, used: Number(written) > 16 * MIB }).toEqual({
        failure: 'No space left on device',
        within: true,
        used: true,
      });
    }
    expect(small).toMatchObject(ended('limit.disk', 'mounts[0].size'));
    expect(small?.output).toMatch(/^wrote (?:30\d\d|[12]?\d{1,3})$/m);
    expect(twin).toMatchObject({ ...exited, outcome: { rungs: { 'mounts[0].size': 'kernel' } } });
    expect(twin?.outcome.usage.mountBytes['mounts[0].size']).toBeGreaterThan(20 * MIB);
    expect(cached).toMatchObject(exited);
    // The host: what was written is in the folder, and no more than the size was ever taken.
    expect(statSync(`${folder}/twin/file`).size).toBe(20 * MIB);
    expect(statSync(`${folder}/big/file`).size).toBeLessThanOrEqual(24 * MIB);
    const images = `${supervised.daemon.state}/volumes`;
    const sizes = readdirSync(images).filter((name) => name.endsWith('.img'));
    expect(sizes.map((name) => statSync(`${images}/${name}`).size)).toEqual(sizes.map(() => 24 * MIB));
    const { evidence, cure } = await supervised.incident(big?.outcome.incidentId ?? '');
    expect({ breach: evidence.breach, cure }).toMatchObject({
      breach: { reason: 'limit.disk', limit: 24 * MIB },
      cure: expect.stringContaining('raise `mounts[0].size` from 24MiB'),
    });
  });

  test('outlives its run and its daemon, and is refused where something would be hidden', async () => {
    workspace('kept');
    expect(await supervised.run(sized('kept', SHELL('echo once > /w/note')))).toMatchObject(exited);
    await supervised.daemon.stop();
    expect(readdirSync(`${folder}/kept`)).toEqual([]);
    await supervised.daemon.start();
    expect(readFileSync(`${folder}/kept/note`, 'utf8')).toBe('once\n');
    const again = await supervised.run(sized('kept', SHELL('cat /w/note; df -P /w | tail -n 1')));
    expect(again).toMatchObject({ ...exited, output: expect.stringMatching(/^once\n\/dev\/loop/) });
    writeFileSync(`${workspace('hiding')}/mine`, 'mine');
    const { exitCode, stderr } = await supervised.daemon.cli([
      'run',
      supervised.writeProfile(sized('hiding', SHELL('true'))),
    ]);
    expect({ exitCode, stderr }).toEqual({
      exitCode: 126,
      stderr: expect.stringContaining('which would hide what is in it, such as mine'),
    });
    expect(stderr).toMatch(/\.yaml:\d+:\d+ mounts\[0\]\.size: /);
  });
});

test('scratch, shared memory and their tables are full at limits.disk, and the twin fits', async () => {
  const fill = `cd /tmp; dd if=/dev/zero of=big bs=64k count=1000 2>/dev/null
    dd if=/dev/zero of=/dev/shm/big bs=64k count=1000 2>/dev/null
    stat -c '%n %s' /tmp/big /dev/shm/big; sleep 5; exit 3`;
  const many = `cd /tmp; exec 2>/dev/null; n=0; while echo > f$n && [ $n -lt 9999 ]; do n=$((n+1)); done; echo "made $n"; sleep 5; [ $n = 9999 ] || exit 3`;
  const draft = { limits: { disk: '16MiB', memory: '64MiB' } };
  // Over long before its launch has been read back.
  const hasty = await supervised.run({
    name: 'scratch-hasty',
    command: SHELL('dd if=/dev/zero of=/tmp/big bs=1M count=64 2>/dev/null || exit 3'),
    ...draft,
  });
  expect(hasty).toMatchObject(ended('limit.disk', 'limits.disk'));
  const [full, inodes, twin] = await Promise.all([
    supervised.run({ name: 'scratch', command: SHELL(fill), ...draft }),
    supervised.run({ name: 'scratch-many', command: SHELL(many), ...draft }),
    supervised.run({
      name: 'scratch-twin',
      command: SHELL('dd if=/dev/zero of=/tmp/f bs=1M count=11; sleep 4'),
      ...draft,
    }),
  ]);
  expect(full).toMatchObject(ended('limit.disk', 'limits.disk'));
  expect(full.output).toMatch(/^\/tmp\/big \d+\n\/dev\/shm\/big \d+$/m);
  const sizes = [...full.output.matchAll(/^\S+ (\d+)$/gm)].map(([, size]) => Number(size));
  expect({ places: sizes.length, together: sizes.reduce((sum, size) => sum + size, 0) <= 16 * MIB }).toEqual({
    places: 2,
    together: true,
  });
  expect(inodes).toMatchObject(ended('limit.disk', 'limits.disk'));
  expect(Number(/^made (\d+)$/m.exec(inodes.output)?.[1])).toBeLessThan(2048);
  expect(twin).toMatchObject(exited);
  expect(twin.outcome.usage.diskBytes).toBeGreaterThanOrEqual(11 * MIB);
});

test('a flood of output stays a file of a bounded size on the host', async () => {
  const flood = PYTHON(`
import time
for _ in range(3600): print('x' * 16000)
print('done', flush=True)
time.sleep(20)
`);
  const { runId, containerId } = await supervised.start({ name: 'log-flood', command: flood });
  const path = await docker('inspect', '--format', '{{.LogPath}}', containerId ?? '');
  const logs = (): number =>
    readdirSync(dirname(path))
      .filter((name) => name.includes('json.log'))
      .reduce((sum, name) => sum + statSync(`${dirname(path)}/${name}`).size, 0);
  let most = 0;
  await until(
    'all of it was written',
    async () => {
      most = Math.max(most, logs());
      return (await docker('logs', '--tail', '1', containerId ?? '')).endsWith('done');
    },
    { deadlineMs: WAIT_MS_MAX },
  );
  await supervised.ringfence('kill', runId);
  // Two files of 16 MiB, and one line that may go over the end of each.
  expect({ used: most > 8 * MIB, within: most <= 33 * MIB, most }).toMatchObject({ used: true, within: true });
  expect((await supervised.wait(runId)).outcome.reason).toBe('killed');
  // What fits is all there.
  const twin = await supervised.run({
    name: 'log-flood-twin',
    command: PYTHON("for _ in range(60): print('x' * 16000)"),
  });
  expect(twin).toMatchObject(exited);
  expect(twin.output.match(/x{16000}/g)).toHaveLength(60);
});

describe('limits.io', () => {
  const reader = (name: string, mode: 'ro' | 'rw', more: Readonly<Record<string, unknown>> = {}): ProfileDraft => ({
    name,
    command: SHELL('dd if=/data/file of=/dev/null bs=256k iflag=direct && echo read'),
    limits: { io: '2MiB/s' },
    more: { mounts: [{ host: workspace('data'), path: '/data', mode }], ...more },
  });

  test('slows reads from a disk down', async () => {
    writeFileSync(`${workspace('data')}/file`, Buffer.alloc(6 * MIB, 1), { mode: 0o644 });
    const [slow, fast] = await Promise.all([
      supervised.run(reader('io', 'ro')),
      supervised.run({ ...reader('io-twin', 'ro'), limits: {} }),
    ]);
    expect(slow).toMatchObject({ ...exited, outcome: { rungs: { 'limits.io': 'kernel' } } });
    expect(fast.outcome.rungs).not.toHaveProperty('limits.io');
    // 6 MiB at 2 MiB/s; the kernel grants the first slice at once.
    expect(slow.outcome.usage.wallMs).toBeGreaterThan(2_000);
    expect(slow.outcome.usage.wallMs).toBeGreaterThan(fast.outcome.usage.wallMs + 1_000);
  });

  test('is refused where writes would pass it by, unless that is accepted', async () => {
    writeFileSync(`${workspace('data')}/file`, Buffer.alloc(MIB, 1), { mode: 0o644 });
    const path = supervised.writeProfile(reader('io-rw', 'rw'));
    const { exitCode, stderr } = await supervised.daemon.cli(['run', path]);
    const accepted = await supervised.run(reader('io-accepted', 'rw', { accept: ['limits.io'] }));
    expect(accepted.exitCode).toBe(0);
    // With cgroup v2 the kernel knows whose data a flusher writes back.
    if (ioVersion() === 2) {
      expect({ exitCode, rung: accepted.outcome.rungs['limits.io'] }).toEqual({ exitCode: 0, rung: 'kernel' });
    } else {
      expect({ exitCode, rung: accepted.outcome.rungs['limits.io'] }).toEqual({ exitCode: 126, rung: 'none' });
      expect(stderr).toMatch(/\.yaml:\d+:\d+ limits\.io: cannot be held on this host: cgroup v1 does not hold what is/);
      expect(stderr).toContain('accept: [limits.io]');
    }
  });
});

test('the network: connections, bytes in, and the rate of both directions', async () => {
  const dial = (count: number): readonly string[] =>
    PYTHON(`
import socket, time
for _ in range(${count}):
    try: socket.create_connection(("${SITE}", 9999), timeout=2).close()
    except OSError: pass
time.sleep(1)
`);
  const get = (bytes: number): readonly string[] =>
    PYTHON(`
import urllib.request
print(len(urllib.request.urlopen('http://${SITE}/big?bytes=${bytes}', timeout=20).read()), flush=True)
`);
  const send = (bytes: number): readonly string[] =>
    PYTHON(`
import socket
connection = socket.create_connection(("${SITE}", 9999), timeout=20)
connection.sendall(b'x' * ${bytes})
connection.shutdown(socket.SHUT_WR)
connection.recv(10)
`);
  const open = { egress: { allow: [`${SITE}/32:80,9999`] } };
  const slow = { limits: { bandwidth: '4Mbit/s' } };
  const few = { budget: { connections: 5 } };
  const little = { budget: { ingress: '256KiB' } };
  const [flood, calm, cut, small, down, up, free] = await Promise.all([
    ends({ name: 'dials', command: dial(20), ...open, ...few }),
    ends({ name: 'dials-twin', command: dial(4), ...open, ...few }),
    ends({ name: 'gets', command: get(4 * MIB), ...open, ...little }),
    ends({ name: 'gets-twin', command: get(150_000), ...open, ...little }),
    ends({ name: 'down', command: get(2_000_000), ...open, ...slow }),
    ends({ name: 'up', command: send(2_000_000), ...open, ...slow }),
    ends({ name: 'free', command: get(2_000_000), ...open }),
  ]);
  expect(flood).toMatchObject({ reason: 'budget.connections', rule: 'budget.connections' });
  expect(cut).toMatchObject({ reason: 'budget.ingress', rule: 'budget.ingress' });
  // Never more than the budget came through, whatever was on its way.
  expect(cut.usage.ingressBytes).toBeLessThanOrEqual(256 * 1024);
  const harmless = [calm, small, down, up, free].map(({ reason, exitCode }) => [reason, exitCode]);
  expect(harmless).toEqual(harmless.map(() => ['exited', 0]));
  // 16 Mbit at 4 Mbit/s, each way.
  for (const { usage } of [down, up]) expect(usage.wallMs).toBeGreaterThan(2_500);
  expect(down.rungs['limits.bandwidth']).toBe('kernel');
});

test('an agent that forks as fast as it can during its kill is dead, and nothing of it survives', async () => {
  const race = PYTHON(`
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
first = os.getpid()
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError:
        if os.getpid() != first and os.getpid() % 7 == 0: os._exit(0)
`);
  const { outcome } = await supervised.run({
    name: 'fork-race',
    command: race,
    limits: { pids: 64, memory: '256MiB' },
    budget: { wall: '2s' },
  });
  expect(outcome.reason).toBe('budget.wall');
  expect(outcome.usage.pidsPeak).toBe(64);
  const { action } = await supervised.incident(outcome.incidentId ?? '');
  expect(action.survivors).toBe(0);
  const twin = await supervised.run({
    name: 'fork-race-twin',
    command: PYTHON(`
import os
for _ in range(60):
    if os.fork() == 0: os.setsid(); os._exit(0)
for _ in range(60): os.wait()
`),
    limits: { pids: 64, memory: '256MiB' },
  });
  expect(twin).toMatchObject({ ...exited, outcome: { usage: { pidsRefusals: 0 } } });
});

test('ten agents at their limits starve neither the daemon nor each other', async () => {
  const eater = PYTHON(`
import time
kept = []
for _ in range(40): kept.append(bytearray(b'x' * ${MIB}))
end = time.monotonic() + 30
while time.monotonic() < end: pass
`);
  const bomb = PYTHON(`
import os, time
for _ in range(400):
    try:
        if os.fork() == 0:
            while True: pass
    except OSError: time.sleep(0.01)
time.sleep(30)
`);
  const filler = SHELL('while :; do dd if=/dev/zero of=/tmp/f bs=64k count=400; rm -f /tmp/f; done >/dev/null 2>&1');
  const talker = SHELL(
    'while :; do echo x > /dev/tcp/203.0.113.66/1 || nc -n -w 1 203.0.113.66 1; done >/dev/null 2>&1',
  );
  const writer = PYTHON("while True: print('x' * 16000)");
  const draft = { limits: { cpu: 1, memory: '64MiB', pids: 32 }, budget: { wall: '4s' } };
  const hostile = [eater, bomb, filler, talker, writer].flatMap((command, index) => [
    { name: `starve-${index}a`, command, ...draft },
    { name: `starve-${index}b`, command, ...draft },
  ]);
  const runIds = await Promise.all(hostile.map(launch));
  const answers: number[] = [];
  const neighbour = ends({ name: 'neighbour', command: PYTHON('print(sum(range(100000)))') });
  for (let count = 0; count < 20; count += 1) {
    const asked = performance.now();
    await client().list({ all: false });
    answers.push(performance.now() - asked);
  }
  const outcomes = await Promise.all(runIds.map(async (runId) => await client().wait(runId)));
  expect(await neighbour).toMatchObject({ reason: 'exited', exitCode: 0 });
  expect(outcomes.map(({ reason }) => reason)).toEqual(outcomes.map(() => 'budget.wall'));
  expect(answers.toSorted((left, right) => left - right)[10]).toBeLessThan(1_000);
});
