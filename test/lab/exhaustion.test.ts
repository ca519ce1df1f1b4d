import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { PYTHON, SHELL, useSupervised, type ProfileDraft } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * What an agent could take from the host or from its neighbours without writing a byte to a disk, each with its twin
 * just below the bound; and how what the kernel refused is told apart afterwards.
 */
const supervised = useSupervised();
const MIB = 2 ** 20;

const exited = { exitCode: 0, outcome: { reason: 'exited', exitCode: 0, incidentId: null } };
const ended = (reason: string, rule: string) => ({ exitCode: 124, outcome: { reason, rule } });

async function both(
  draft: Omit<ProfileDraft, 'command'>,
  commands: { hostile: readonly string[]; twin: readonly string[] },
) {
  return await Promise.all([
    supervised.run({ ...draft, command: commands.hostile }),
    supervised.run({ ...draft, name: `${draft.name}-twin`, command: commands.twin }),
  ]);
}

test('threads count as processes', async () => {
  const start = (count: number): readonly string[] =>
    PYTHON(`
import threading, time
for _ in range(${count}): threading.Thread(target=time.sleep, args=(0.5,)).start()
print('started', flush=True)
`);
  const [hostile, twin] = await both(
    { name: 'threads', limits: { pids: 16 } },
    { hostile: start(40), twin: start(10) },
  );
  expect(hostile).toMatchObject(ended('limit.pids', 'limits.pids'));
  expect(hostile.outcome.usage.pidsPeak).toBeLessThanOrEqual(16);
  expect(twin).toMatchObject({ ...exited, outcome: { usage: { pidsRefusals: 0 } } });
});

test('sockets count as files', async () => {
  const open = (count: number): readonly string[] =>
    PYTHON(`
import socket, sys
kept = []
try:
    for _ in range(${count}): kept.append(socket.socket())
except OSError as error: sys.exit(f'opened {len(kept)}: {error.strerror}')
print(f'opened {len(kept)}', flush=True)
`);
  const [hostile, twin] = await both(
    { name: 'sockets', limits: { files: 64 } },
    { hostile: open(200), twin: open(50) },
  );
  expect(hostile.exitCode).toBe(1);
  expect(Number(/^opened (\d+): Too many open files$/m.exec(hostile.output)?.[1])).toBeLessThan(64);
  expect(twin).toMatchObject({ ...exited, output: expect.stringContaining('opened 50') });
});

describe('what lies in the buffers of sockets', () => {
  const draft = { limits: { memory: '48MiB', files: 512 } };

  test('counts as memory where it never leaves the agent', async () => {
    const fill = (pairs: number): readonly string[] =>
      PYTHON(`
import socket
kept = []
for _ in range(${pairs}):
    pair = socket.socketpair()
    kept.append(pair)
    pair[0].setblocking(False)
    try:
        while True: pair[0].send(b'x' * 4096)
    except BlockingIOError: pass
`);
    const [hostile, twin] = await both({ name: 'pairs', ...draft }, { hostile: fill(240), twin: fill(20) });
    expect(hostile).toMatchObject(ended('oom', 'limits.memory'));
    expect(twin).toMatchObject(exited);
  });

  test('of TCP is no more than limits.memory either, and a little of it passes', async () => {
    const fill = (connections: number): readonly string[] =>
      PYTHON(`
import socket, time
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(512)
kept, total, deadline = [], 0, time.monotonic() + 8
for _ in range(${connections}):
    if time.monotonic() > deadline: break
    dialled = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    kept += [dialled, accepted]
    dialled.setblocking(False)
    try:
        while time.monotonic() < deadline: total += dialled.send(b'x' * 65536)
    except BlockingIOError: pass
print('held', total, flush=True)
`);
    const [hostile, twin] = await both({ name: 'tcp-buffers', ...draft }, { hostile: fill(150), twin: fill(2) });
    // A kernel that counts it as memory may end the agent for it; one that counts it apart lets it wait.
    if (hostile.outcome.reason === 'exited') {
      const held = Number(/^held (\d+)$/m.exec(hostile.output)?.[1]);
      expect({ held, within: held <= 64 * MIB, used: held > 16 * MIB }).toMatchObject({ within: true, used: true });
    } else expect(hostile).toMatchObject(ended('oom', 'limits.memory'));
    expect(twin).toMatchObject(exited);
    expect(Number(/^held (\d+)$/m.exec(twin.output)?.[1])).toBeGreaterThan(MIB);
  });
});

test('inotify instances of one user are out of reach for agents with another', async () => {
  const instances = Number(readFileSync('/proc/sys/fs/inotify/max_user_instances', 'latin1'));
  const take = (count: number, seconds: number): readonly string[] =>
    PYTHON(`
import ctypes, time
libc = ctypes.CDLL(None)
kept = [libc.inotify_init() for _ in range(${count})]
print('got', sum(1 for fd in kept if fd >= 0), flush=True)
time.sleep(${seconds})
`);
  const limits = { files: instances + 64 };
  const got = (text: string): number => Number(/^got (\d+)$/m.exec(text)?.[1] ?? -1);
  const { runId } = await supervised.launch({
    name: 'inotify',
    command: take(instances + 10, 200),
    limits,
    budget: { wall: '5m' },
  });
  const taken = await until(
    'it has taken what it gets',
    async () => {
      const count = got(await supervised.ringfence('logs', runId));
      return count >= 0 ? { count } : null;
    },
    { deadlineMs: 30_000 },
  );
  const [same, other] = await Promise.all([
    supervised.run({ name: 'inotify-same', command: take(10, 0), limits }),
    supervised.run({ name: 'inotify-other', command: take(10, 0), limits, more: { user: 10002 } }),
  ]);
  await supervised.ringfence('kill', runId);
  await supervised.wait(runId);
  expect(taken.count).toBeLessThanOrEqual(instances);
  // Linux counts them for a user, whichever container the user is in: what docs/profile.md says of `user`.
  expect([got(same.output), got(other.output)]).toEqual([0, 10]);
});

describe('a process that the kernel ended for memory', () => {
  const eat = `python3 -c "x = bytearray(b'x' * ${200 * MIB})"`;
  const limits = { memory: '64MiB' };

  test('ends the run as oom although the first process goes on to exit with 0', async () => {
    const run = await supervised.run({ name: 'oom-then-0', command: SHELL(`${eat}; exit 0`), limits });
    expect(run).toMatchObject(ended('oom', 'limits.memory'));
    expect(run.outcome.usage.oomKills).toBeGreaterThanOrEqual(1);
  });

  test('is told of, and nothing more, where the profile says that one process may go', async () => {
    const draft = { limits: { ...limits, onOom: 'process' } };
    const [well, badly] = await Promise.all([
      supervised.run({ name: 'oom-process-0', command: SHELL(`${eat}; exit 0`), ...draft }),
      supervised.run({ name: 'oom-process-3', command: SHELL(`${eat}; exit 3`), ...draft }),
    ]);
    expect(well).toMatchObject(exited);
    expect(badly).toMatchObject({ exitCode: 3, outcome: { reason: 'exited', exitCode: 3 } });
    for (const { outcome } of [well, badly]) {
      expect(outcome.detail).toContain('the kernel ended 1 of its processes for memory');
      expect(outcome.usage.oomKills).toBe(1);
    }
  });

  test('is oom where it is the first process itself', async () => {
    const draft = { limits: { ...limits, onOom: 'process' } };
    const run = await supervised.run({ name: 'oom-first', command: SHELL(`exec ${eat}`), ...draft });
    expect(run).toMatchObject(ended('oom', 'limits.memory'));
  });
});

test('an agent whose own first process could not fork is told so, and not what it was killed by', async () => {
  const fork = SHELL('sleep 0.5 & sleep 0.5 & sleep 0.5 & sleep 0.5 & wait; exit 0');
  const [refused, twin] = await Promise.all([
    supervised.run({ name: 'first-forks', command: fork, limits: { pids: 4 } }),
    supervised.run({ name: 'first-forks-twin', command: fork, limits: { pids: 8 } }),
  ]);
  expect(refused).toMatchObject(ended('limit.pids', 'limits.pids'));
  expect(refused.outcome.usage).toMatchObject({ oomKills: 0, diskFull: [] });
  expect(twin).toMatchObject(exited);
});
