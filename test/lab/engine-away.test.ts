import { readFileSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { cpus, loadavg } from 'node:os';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import type { LedgerRecord } from '../../src/core/ports/record.ts';
import { useBurner } from '../support/burner.ts';
import { command, docker, lab, mark, packetsTo } from '../support/lab.ts';
import { processesWith, untilDead } from '../support/processes.ts';
import { PYTHON, SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * The engine hangs, its events are lost, somebody else works on its containers, or the rules of the host are changed. The
 * daemon under test speaks to the engine through a socket of ours, which can be cut and can keep events to itself.
 */
const PROXY = `${lab.runtime}/away-${process.pid}.sock`;
const DEADLINE_MS = 60_000;
const TIME_OUT = { timeout: 300_000 };
const LONG = { wall: '10m' };
const ELSEWHERE = '203.0.113.191';
/** What is promised, on a machine that has a processor for everybody who wants one. */
const noticedMsMax = (): number => 1_000 * Math.max(1, (loadavg()[0] ?? 0) / cpus().length);

let proxy: Server;
const open = new Set<Socket>();
let swallowsEvents = false;
let isAway = false;
beforeAll(async () => {
  proxy = createServer((client) => {
    if (isAway) {
      client.destroy();
      return;
    }
    const engine = connect(lab.dockerSocket);
    let aboutEvents = false;
    for (const socket of [client, engine]) {
      open.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        open.delete(socket);
        client.destroy();
        engine.destroy();
      });
    }
    client.on('data', (bytes) => {
      aboutEvents ||= / \/[^ ]*\/events\?/.test(bytes.toString('latin1').split('\r\n')[0] ?? '');
      engine.write(bytes);
    });
    engine.on('data', (bytes) => {
      // What the engine tells again from before may come with the head of its answer.
      const head = bytes.indexOf('\r\n\r\n');
      const isHead = bytes.toString('latin1', 0, 5) === 'HTTP/';
      if (!aboutEvents || !swallowsEvents) client.write(bytes);
      else if (isHead && head !== -1) client.write(bytes.subarray(0, head + 4));
    });
  });
  await new Promise<void>((resolve) => proxy.listen(PROXY, resolve));
});
const world = useSupervised({ config: { engine: `unix://${PROXY}` } });
const burner = useBurner();
afterAll(async () => {
  for (const socket of open) socket.destroy();
  await new Promise((resolve) => proxy.close(resolve));
  rmSync(PROXY, { force: true });
});

const cutEvents = (): void => {
  for (const socket of open) socket.destroy();
};

async function start(
  draft: Partial<Parameters<typeof world.launch>[0]> & { readonly name: string },
): Promise<RunDetail> {
  return await world.start({ command: SHELL('exec sleep 600'), budget: LONG, ...draft });
}

async function firstRecord(
  kind: string,
  since: { readonly seq: number; readonly runId?: string },
): Promise<LedgerRecord> {
  const wanted = (record: LedgerRecord): boolean =>
    record.kind === kind && record.seq > since.seq && (since.runId === undefined || record.runId === since.runId);
  return await until(
    `a record ${kind}`,
    async () =>
      (await world.ringfence('events', '--json'))
        .split('\n')
        .map((line) => JSON.parse(line) as LedgerRecord)
        .find(wanted),
    { deadlineMs: DEADLINE_MS },
  );
}

/** USER_HZ is 100. */
function cpuMsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const [user = 0, system = 0] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13)
    .map(Number);
  return (user + system) * 10;
}

async function lastSeq(): Promise<number> {
  const lines = (await world.ringfence('events', '--json')).split('\n');
  return (JSON.parse(lines.at(-1) ?? '{}') as LedgerRecord).seq;
}

test('an engine that hangs holds up no kill, and a launch is refused in time', TIME_OUT, async () => {
  const engine = Number(readFileSync(`${lab.runtime}/dockerd.pid`, 'latin1'));
  const burning = await start(burner.draft('burns-hung'));
  const byHand = await start({ name: 'by-hand' });
  process.kill(engine, 'SIGSTOP');
  try {
    burner.burn('burns-hung');
    await untilDead(burning);
    await world.ringfence('kill', byHand.runId);
    await untilDead(byHand);
    const profile = world.writeProfile({ name: 'refused', command: SHELL('echo ran'), budget: LONG });
    const { exitCode, stderr, stdout } = await world.daemon.cli(['run', profile], { timeoutMs: 120_000 });
    expect({ exitCode, stdout }).toEqual({ exitCode: 125, stdout: '' });
    expect(stderr).toContain('the engine did not answer');
  } finally {
    process.kill(engine, 'SIGCONT');
  }
  expect((await world.wait(burning.runId)).outcome.reason).toBe('budget.cpu');
  expect((await world.wait(byHand.runId)).outcome.reason).toBe('killed');
  expect((await world.run({ name: 'again', command: SHELL('exit 3'), budget: LONG })).exitCode).toBe(3);
});

test('what could not be removed while the engine was away is removed when it is back', TIME_OUT, async () => {
  const run = await start({ name: 'left-behind' });
  isAway = true;
  try {
    cutEvents();
    await world.ringfence('kill', run.runId);
    await untilDead(run);
    await until(
      'its clean-up has failed',
      async () => {
        const cleaned = (await world.records(run.runId)).find(({ kind }) => kind === 'run.cleaned');
        return ((cleaned?.['failures'] ?? []) as readonly string[]).length > 0;
      },
      { deadlineMs: DEADLINE_MS },
    );
    expect(await leftOf(run.runId)).not.toBe('');
  } finally {
    isAway = false;
  }
  await until('nothing of it is left', async () => (await leftOf(run.runId)) === '', { deadlineMs: DEADLINE_MS });
  expect((await world.wait(run.runId)).outcome.reason).toBe('killed');
});

async function leftOf(runId: string): Promise<string> {
  const filter = ['--quiet', '--filter', `label=ringfence.run=${runId}`];
  return `${await docker('ps', '--all', ...filter)}${await docker('network', 'ls', ...filter)}`.trim();
}

describe('what somebody else does to a container', () => {
  const ACTS: readonly (readonly [string, string, (id: string) => readonly string[]])[] = [
    ['pause', 'pause', (id) => ['pause', id]],
    ['update', 'update', (id) => ['update', '--cpus', '2', id]],
    ['exec', 'exec_start', (id) => ['exec', '--detach', id, 'sleep', '60']],
  ];
  test.each(ACTS)('%s: is noticed within a second, and ends the run', TIME_OUT, async (name, action, act) => {
    const seq = await lastSeq();
    const run = await start({ name: `touched-${name}` });
    const id = run.containerId ?? '';
    const sinceS = Math.floor(Date.now() / 1000) - 1;
    await docker(...act(id)).catch(() => undefined);
    const drift = await firstRecord('drift.detected', { seq, runId: run.runId });
    await untilDead(run);
    const untilS = Math.ceil(Date.now() / 1000) + 1;
    const told = await docker(
      'events',
      '--since',
      String(sinceS),
      '--until',
      String(untilS),
      '--filter',
      `container=${id}`,
      '--format',
      '{{.TimeNano}} {{.Action}}',
    );
    const happened = told.split('\n').find((line) => line.includes(` ${action}`));
    expect(happened).toBeDefined();
    expect(Date.parse(drift.at) - Number(happened?.split(' ')[0]) / 1e6).toBeLessThan(noticedMsMax());
    expect((await world.wait(run.runId)).outcome).toMatchObject({ reason: 'enforcement.lost', rule: 'drift' });
  });

  test('its removal ends the run', TIME_OUT, async () => {
    const run = await start({ name: 'removed' });
    await docker('rm', '--force', run.containerId ?? '');
    await untilDead(run);
    expect(['exited', 'enforcement.lost', 'engine.failed']).toContain((await world.wait(run.runId)).outcome.reason);
  });

  test('is found after events were lost, once the stream is back', TIME_OUT, async () => {
    const run = await start({ name: 'unheard' });
    swallowsEvents = true;
    try {
      cutEvents();
      await docker('pause', run.containerId ?? '');
      cutEvents();
      await untilDead(run);
      expect((await world.wait(run.runId)).outcome).toMatchObject({
        reason: 'enforcement.lost',
        detail: expect.stringContaining('paused'),
      });
    } finally {
      swallowsEvents = false;
      cutEvents();
    }
  });
});

/** Datagrams only: what gets through leaves no connection behind. */
const ATTEMPTS = PYTHON(`
import socket, time
while True:
    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("${ELSEWHERE}", 9999))
    except OSError: pass
    time.sleep(0.002)
`);

/** Empties every chain of ours; then nothing refers to a set. */
const EMPTY = (program: string): string =>
  `for t in raw mangle nat filter security; do for c in $(${program} -t $t -S | sed -n 's/^-N RF-/RF-/p'); do ` +
  `${program} -t $t -F $c; done; done`;

describe('the rules of the host', () => {
  test('changed again and again cost the warden next to nothing', TIME_OUT, async () => {
    const run = await start({ name: 'in-a-storm' });
    const [warden = 0] = processesWith('/warden/process.', world.daemon.state);
    const [cpuMs, atMs] = [cpuMsOf(warden), performance.now()];
    const storm = 'for i in $(seq 60); do iptables -t mangle -N storm; iptables -t mangle -X storm; done';
    expect(await command('sh', ['-c', storm])).toMatchObject({ exitCode: 0, stderr: '' });
    // One that leaves the kernel's word unread turns without end until it is told: three quarters of this time.
    expect((cpuMsOf(warden) - cpuMs) / (performance.now() - atMs)).toBeLessThan(0.3);
    await world.ringfence('kill', run.runId);
    await world.wait(run.runId);
  });

  const STRANGE_RULE = ['PREROUTING', '-j', 'ACCEPT'] as const;
  const CHANGES: readonly (readonly [string, string])[] = [
    ['a table flushed', 'iptables -t mangle -F'],
    ['a rule above ours', `iptables -t mangle -I ${STRANGE_RULE.join(' ')}`],
    // Only what is ours: the engine does not mend what is its own (fence-life.test.ts flushes every table).
    ['every chain of ours flushed, every set destroyed', `${EMPTY('iptables')}; ${EMPTY('ip6tables')}; ipset destroy`],
  ];
  test.each(CHANGES)(
    '%s: is noticed within a second, and put back or the run is ended',
    TIME_OUT,
    async (_, change) => {
      const run = await start({
        name: 'under-rules',
        command: ATTEMPTS,
        budget: { ...LONG, denials: '1000000/1m' },
        on: { 'budget.denials': 'warn' },
        more: { image: 'ringfence/agent-attack:local' },
      });
      const seq = await lastSeq();
      const since = await mark();
      const changed = await command('sh', ['-c', `${change}; date +%s%3N`]);
      const lost = await firstRecord('enforcement.lost', { seq });
      expect(Date.parse(lost.at) - Number(changed.stdout.trim().split('\n').at(-1))).toBeLessThan(noticedMsMax());
      await until(
        'the rules are back, or the run is ended',
        async () => {
          const phase = (JSON.parse(await world.ringfence('ps', '--all', '--json')) as RunDetail[]).find(
            ({ runId }) => runId === run.runId,
          )?.phase;
          const doctor = await command('sh', [
            '-c',
            'iptables -t mangle -S RF-DECIDE 2>/dev/null | wc -l; ipset list -n | grep -c rf-bridge',
          ]);
          const [rules = '0', sets = '0'] = doctor.stdout.trim().split('\n');
          return phase === 'over' || (Number(rules) > 5 && Number(sets) >= 1);
        },
        { deadlineMs: DEADLINE_MS },
      );
      // Routing holds what the tables do not.
      expect(await packetsTo(ELSEWHERE, { since })).toEqual([]);
      await world.daemon.cli(['kill', run.runId]);
      await world.wait(run.runId);
      // Ours went back to the top; what somebody else put there is his.
      await command('iptables', ['-t', 'mangle', '-D', ...STRANGE_RULE]);
    },
  );
});
