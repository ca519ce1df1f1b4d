import { describe, expect, test } from 'vitest';
import { docker, mark, observed, packetsTo } from '../support/lab.ts';
import { PYTHON, remainsOf, SHELL, useSupervised, type ProfileDraft } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * Every bound of this version, crossed by a real agent and kept by its twin just below it. After each test nothing of
 * its runs may be left: no container, network, cgroup, mount, process or rule.
 */
const MIB = 1024 * 1024;
const FACT_MS_MAX = 20_000;
const SITE = '192.0.2.40';

const supervised = useSupervised();

const SPIN = (seconds: number): string => `
import time
end = time.process_time() + ${seconds}
while time.process_time() < end: pass
`;
const BURSTS = `
import time
end = time.monotonic() + 25
while time.monotonic() < end:
    stop = time.monotonic() + 0.05
    while time.monotonic() < stop: pass
    time.sleep(0.05)
`;
const SEVERAL = `
import os, time
for _ in range(3):
    if os.fork() == 0: break
end = time.monotonic() + 25
while time.monotonic() < end: pass
`;
const SURVIVOR = `
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("hidden", flush=True)
        while True: pass
    os._exit(0)
os.wait()
time.sleep(30)
`;
const EAT = (mebibytes: number): string => `
import time
kept = []
for _ in range(${mebibytes}): kept.append(bytearray(b'x' * ${MIB}))
time.sleep(0.2)
`;
const DENIED_DIALS = (count: number): string => `
import socket, time
print("dialling", flush=True)
for number in range(${count}):
    try: socket.create_connection(("203.0.113.66", 1000 + number), timeout=2)
    except OSError: pass
time.sleep(0.3)
`;
const SEND = (bytes: number): string => `
import socket
connection = socket.create_connection(("${SITE}", 9999), timeout=5)
print("sending", flush=True)
sent = 0
connection.settimeout(5)
while sent < ${bytes}: sent += connection.send(b"x" * min(16384, ${bytes} - sent))
connection.shutdown(socket.SHUT_WR)
connection.recv(100)
`;

type Case = Omit<ProfileDraft, 'name'> & { readonly reason: string; readonly rule: string };

/** The reason and rule that end it, and what its twin does to stay below. */
const CROSSINGS: Readonly<Record<string, Case & { readonly twin: readonly string[] }>> = {
  'budget-wall': {
    command: SHELL('sleep 30'),
    budget: { wall: '5s' },
    twin: SHELL('sleep 0.2'),
    reason: 'budget.wall',
    rule: 'budget.wall',
  },
  'budget-cpu': {
    command: PYTHON(SPIN(20)),
    budget: { cpu: '700ms' },
    twin: PYTHON(SPIN(0.3)),
    reason: 'budget.cpu',
    rule: 'budget.cpu',
  },
  'budget-cpu-several': {
    command: PYTHON(SEVERAL),
    limits: { cpu: 2 },
    budget: { cpu: '700ms' },
    twin: PYTHON(SPIN(0.3)),
    reason: 'budget.cpu',
    rule: 'budget.cpu',
  },
  'budget-cpu-bursts': {
    command: PYTHON(BURSTS),
    budget: { cpu: '500ms' },
    twin: PYTHON(SPIN(0.1)),
    reason: 'budget.cpu',
    rule: 'budget.cpu',
  },
  'budget-cpu-survivor': {
    command: PYTHON(SURVIVOR),
    budget: { cpu: '700ms' },
    twin: PYTHON(SPIN(0.1)),
    reason: 'budget.cpu',
    rule: 'budget.cpu',
  },
  'budget-denials': {
    command: PYTHON(DENIED_DIALS(20)),
    budget: { denials: '3/1m' },
    twin: PYTHON(DENIED_DIALS(3)),
    reason: 'budget.denials',
    rule: 'budget.denials',
  },
  'limits-memory': {
    command: PYTHON(EAT(200)),
    limits: { memory: '64MiB' },
    twin: PYTHON(EAT(20)),
    reason: 'oom',
    rule: 'limits.memory',
  },
  'limits-memory-child': {
    command: SHELL(`python3 -c "x = bytearray(b'x' * ${200 * MIB})"; sleep 5`),
    limits: { memory: '64MiB' },
    twin: SHELL(`python3 -c "x = bytearray(b'x' * ${20 * MIB})"`),
    reason: 'oom',
    rule: 'limits.memory',
  },
};

describe('a bound that is crossed ends the run, with one incident; just below it a run finishes', () => {
  test.each(Object.entries(CROSSINGS))('%s', async (name, { twin, reason, rule, ...draft }) => {
    const { exitCode, outcome } = await supervised.run({ name, ...draft });
    expect({ exitCode, reason: outcome.reason, rule: outcome.rule }).toEqual({ exitCode: 124, reason, rule });
    const incidents = (await supervised.incidentsOf(name)).filter(({ runId }) => runId === outcome.runId);
    expect(incidents).toMatchObject([{ id: outcome.incidentId, runId: outcome.runId, reason, rule }]);
    const { evidence, action } = await supervised.incident(outcome.incidentId ?? '');
    expect(action.survivors).toBe(0);
    expect(evidence.breach.measured).toBeGreaterThanOrEqual(evidence.breach.limit);

    const harmless = await supervised.run({ name: `${name}-twin`, ...draft, command: twin });
    expect(harmless).toMatchObject({ exitCode: 0, outcome: { reason: 'exited', exitCode: 0, incidentId: null } });
  });
});

test('an outcome has every key of the contract', async () => {
  const crossed = await supervised.run({ name: 'keys', command: SHELL('sleep 20'), budget: { wall: '3s' } });
  const finished = await supervised.run({ name: 'keys-twin', command: SHELL('exit 7') });
  const keys = `runId profile profileDigest imageDigest reason rule detail exitCode signal startedAt endedAt usage limits
    rungs detectedAt killedAt latencyMs incidentId`;
  const wanted = keys.split(/\s+/).toSorted();
  expect([crossed, finished].map(({ outcome }) => Object.keys(outcome).toSorted())).toEqual([wanted, wanted]);
  expect(finished).toMatchObject({ exitCode: 7, outcome: { reason: 'exited', exitCode: 7, latencyMs: null } });
  expect(crossed.outcome).toMatchObject({
    detectedAt: expect.any(String),
    killedAt: expect.any(String),
    latencyMs: expect.any(Number),
    imageDigest: expect.stringMatching(/^sha256:/),
    rungs: { 'limits.memory': 'kernel', 'budget.wall': 'watchdog', egress: 'kernel' },
  });
});

test('bytes beyond the budget are cut off by the kernel, and the run is killed', async () => {
  const draft = { budget: { egress: '256KiB' }, egress: { allow: [`${SITE}/32:9999`] } };
  const since = await mark();
  const { exitCode, outcome, output } = await supervised.run({
    name: 'egress',
    command: PYTHON(SEND(4 * MIB)),
    ...draft,
  });
  expect(output).toContain('sending');
  expect({ exitCode, reason: outcome.reason, rule: outcome.rule }).toEqual({
    exitCode: 124,
    reason: 'budget.egress',
    rule: 'budget.egress',
  });
  // At the attacked side, headers included: never more than the budget, and it was used.
  const packets = await packetsTo(SITE, { since });
  const bytes = packets.reduce((sum, packet) => sum + packet.bytes - 14, 0);
  expect({ within: bytes <= 256 * 1024, used: bytes > 128 * 1024, bytes }).toMatchObject({ within: true, used: true });
  expect(await supervised.incidentsOf('egress')).toHaveLength(1);

  const before = await mark();
  const twin = await supervised.run({ name: 'egress-twin', command: PYTHON(SEND(200 * 1024)), ...draft });
  expect(twin).toMatchObject({ exitCode: 0, outcome: { reason: 'exited' } });
  const closed = await until(
    'the sink has seen the end',
    async () => (await observed({ since: before })).find((seen) => seen.event === 'close'),
    { deadlineMs: FACT_MS_MAX },
  );
  expect(closed.bytes).toBe(200 * 1024);
});

describe('what the kernel refuses does not end an agent that copes with it', () => {
  test('a fork bomb stays below limits.pids', async () => {
    const bomb = `
import os, time
refused = 0
for _ in range(200):
    try:
        if os.fork() == 0: time.sleep(10); os._exit(0)
    except OSError: refused += 1
print("refused", refused, flush=True)
`;
    const { exitCode, outcome, output } = await supervised.run({
      name: 'pids',
      command: PYTHON(bomb),
      limits: { pids: 16 },
    });
    expect(output).toMatch(/^refused 18\d$/m);
    expect({ exitCode, reason: outcome.reason }).toEqual({ exitCode: 0, reason: 'exited' });
    expect(outcome.usage.pidsPeak).toBeLessThanOrEqual(16);
    expect(outcome.usage.pidsRefusals).toBeGreaterThan(0);
  });

  test('an agent that fails because of limits.pids is told so', async () => {
    const draft = { limits: { pids: 16 } };
    const forks = (count: number): readonly string[] =>
      PYTHON(
        `import os, time\nfor _ in range(${count}):\n  if os.fork() == 0: time.sleep(0.5); os._exit(0)\ntime.sleep(0.2)`,
      );
    const { exitCode, outcome } = await supervised.run({ name: 'pids-fail', command: forks(50), ...draft });
    expect({ exitCode, reason: outcome.reason, rule: outcome.rule }).toEqual({
      exitCode: 124,
      reason: 'limit.pids',
      rule: 'limits.pids',
    });
    const twin = await supervised.run({ name: 'pids-twin', command: forks(8), ...draft });
    expect(twin).toMatchObject({ exitCode: 0, outcome: { reason: 'exited', usage: { pidsRefusals: 0 } } });
  });

  test('a full disk is an error for the agent and nothing for the host', async () => {
    const fill = `cd /tmp; dd if=/dev/zero of=big bs=64k count=1000; stat -c 'size %s' big; touch /x /etc/x /var/x; exit 0`;
    const { output, outcome } = await supervised.run({
      name: 'disk',
      command: SHELL(fill),
      limits: { disk: '8MiB', memory: '128MiB' },
    });
    expect(output).toContain('No space left on device');
    expect(Number(/size (\d+)$/m.exec(output)?.[1])).toBeLessThanOrEqual(8 * MIB);
    expect(output.match(/Read-only file system/g)).toHaveLength(3);
    expect(outcome.reason).toBe('exited');
    const twin = await supervised.run({
      name: 'disk-twin',
      command: SHELL('dd if=/dev/zero of=/tmp/big bs=64k count=80'),
      limits: { disk: '8MiB' },
    });
    expect(twin.exitCode).toBe(0);
  });

  test('descriptors end at limits.files', async () => {
    const open = (count: number): readonly string[] =>
      PYTHON(`files = [open('/dev/null') for _ in range(${count})]\nprint('opened', flush=True)`);
    const draft = { limits: { files: 64 } };
    const { exitCode, output } = await supervised.run({ name: 'files', command: open(100), ...draft });
    expect({ exitCode, refused: output.includes('Too many open files') }).toEqual({ exitCode: 1, refused: true });
    const twin = await supervised.run({ name: 'files-twin', command: open(50), ...draft });
    expect(twin).toMatchObject({ exitCode: 0, output: expect.stringContaining('opened') });
  });
});

test('an agent into which somebody else puts a process is ended', async () => {
  const run = await supervised.launch({ name: 'joined', command: SHELL('sleep 20') });
  const { containerId } = await supervised.running(run.runId);
  await docker('exec', containerId ?? '', 'sleep', '20').catch(() => undefined);
  const { outcome } = await supervised.wait(run.runId);
  expect(outcome).toMatchObject({ reason: 'enforcement.lost', rule: 'drift' });
  expect(await supervised.incidentsOf('joined')).toMatchObject([{ id: outcome.incidentId }]);
});

test('an agent that ignores SIGTERM dies when its grace is over; one that heeds it ends in order', async () => {
  const on = { 'budget.wall': 'stop', grace: '700ms' };
  const loop = 'while :; do sleep 0.05; done';
  const ignorer = await supervised.run({
    name: 'ignorer',
    command: SHELL(`trap '' TERM; ${loop}`),
    budget: { wall: '4s' },
    on,
  });
  expect(ignorer).toMatchObject({ exitCode: 124, outcome: { reason: 'budget.wall', signal: 'SIGKILL' } });
  expect(ignorer.outcome.latencyMs).toBeGreaterThanOrEqual(690);

  const heeding = await supervised.run({
    name: 'heeding',
    command: SHELL(`trap 'echo goodbye; exit 0' TERM; ${loop}`),
    budget: { wall: '4s' },
    on,
  });
  expect(heeding).toMatchObject({ exitCode: 124, outcome: { reason: 'budget.wall', exitCode: 0, signal: 'SIGTERM' } });
  const { action } = await supervised.incident(heeding.outcome.incidentId ?? '');
  expect(action).toMatchObject({ asked: 'stop', signal: 'SIGTERM', survivors: 0 });
  expect(heeding.output).toContain('goodbye');
  expect(heeding.outcome.latencyMs).toBeLessThan(690);
});

test('two breaches at once make one incident', async () => {
  const { outcome } = await supervised.run({
    name: 'two-at-once',
    command: PYTHON(DENIED_DIALS(1) + SPIN(20)),
    budget: { wall: '20s', cpu: '700ms', denials: '0' },
    on: { 'budget.denials': 'stop', grace: '3s' },
  });
  expect(outcome.reason).toBe('egress.forbidden');
  expect(await supervised.incidentsOf('two-at-once')).toMatchObject([{ id: outcome.incidentId }]);
  const opened = (await supervised.records(outcome.runId)).filter((record) => record.kind === 'incident.opened');
  expect(opened).toHaveLength(1);
});

test('by hand: stop asks and waits, kill does not', async () => {
  const loop = (onTerm: string): readonly string[] => SHELL(`trap '${onTerm}' TERM; while :; do sleep 0.05; done`);
  const [stopped, asked] = await Promise.all([
    supervised.run({ name: 'by-hand-stop', command: loop('echo goodbye; exit 3') }),
    supervised.running('by-hand-stop').then(async (run) => {
      await supervised.ringfence('stop', run.runId);
      return run;
    }),
  ]);
  expect(stopped).toMatchObject({ exitCode: 124, output: expect.stringContaining('goodbye') });
  expect(stopped.outcome).toMatchObject({ reason: 'stopped', exitCode: 3, signal: 'SIGTERM', incidentId: null });
  expect(await remainsOf(asked)).toEqual([]);

  const forced = await supervised.start({ name: 'by-hand-kill', command: loop('') });
  await supervised.ringfence('kill', forced.runId);
  const killed = await supervised.wait(forced.runId);
  expect(killed).toMatchObject({ exitCode: 124, outcome: { reason: 'killed', signal: 'SIGKILL', incidentId: null } });
});

test('a budget that is nearly used up is recorded as a warning, once', async () => {
  const draft = { budget: { cpu: '1s' }, more: { warnAt: ['50%'] } };
  const { outcome } = await supervised.run({
    name: 'warned',
    command: PYTHON(`${SPIN(0.8)}\ntime.sleep(1)`),
    ...draft,
  });
  const warnings = (await supervised.records(outcome.runId)).filter((record) => record.kind === 'budget.warned');
  expect(warnings).toMatchObject([{ rule: 'budget.cpu', fraction: 0.5, limit: 1000 }]);
  expect(outcome.reason).toBe('exited');
  const twin = await supervised.run({ name: 'unwarned', command: PYTHON(SPIN(0.1)), ...draft });
  const none = (await supervised.records(twin.outcome.runId)).filter((record) => record.kind === 'budget.warned');
  expect(none).toEqual([]);
});
