import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import { useBurner } from '../support/burner.ts';
import { useShells } from '../support/agent-shell.ts';
import { DOCS } from '../support/attack-road.ts';
import { childOf, isAlive, isProcess, processesWith, untilDead } from '../support/processes.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** The processes of the supervisor lack what they work with: descriptors, time, a disk that takes what they write. */
const world = useSupervised({ stateBytes: 32 * 2 ** 20 });
const openShell = useShells(world);
const burner = useBurner();
const DEADLINE_MS = 60_000;
const TIME_OUT = { timeout: 240_000 };
/** Several readings of the base rules, one a second. */
const READINGS_MS = 5_000;

const quiet = (name: string) => ({ name, command: SHELL('exec sleep 600'), budget: { wall: '10m' } });
const warden = (): number => processesWith('/warden/process.', world.daemon.state)[0] ?? 0;

async function endByHand(...runs: readonly RunDetail[]): Promise<void> {
  for (const { runId } of runs) {
    await world.ringfence('kill', runId);
    expect((await world.wait(runId)).outcome.reason).toBe('killed');
  }
}

/** Allows a process no descriptor above those that it has; gives back what undoes it. */
function bindDescriptors(pid: number): () => void {
  const before = /^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'latin1'))?.[1] ?? '';
  const used = new Set(readdirSync(`/proc/${pid}/fd`));
  let free = 0;
  while (used.has(String(free))) free += 1;
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${free}:`]);
  return () => execFileSync('prlimit', ['--pid', String(pid), `--nofile=${before}:`]);
}

/** Clients that take every descriptor which the daemon still has, and each that it gets back. */
function occupy(path: string): () => void {
  const sockets = new Set<Socket>();
  let over = false;
  const one = (): void => {
    if (over) return;
    const socket = connect(path);
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => {
      sockets.delete(socket);
      setTimeout(one, 20);
    });
  };
  for (let index = 0; index < CLIENTS; index += 1) one();
  return () => {
    over = true;
    for (const socket of sockets) socket.destroy();
  };
}
const CLIENTS = 20;

describe('without descriptors', () => {
  test('the daemon tells nothing and starts nothing, and every run is held as before', TIME_OUT, async () => {
    const [kept, burning] = [await world.start(quiet('kept')), await world.start(burner.draft('burning-daemon'))];
    const profile = world.writeProfile(quiet('late'));
    const unbind = bindDescriptors(world.daemon.pid);
    const leave = occupy(world.daemon.socket);
    try {
      await until('nobody is answered', async () => (await world.daemon.cli(['ps'])).exitCode !== 0, {
        deadlineMs: DEADLINE_MS,
      });
      const refused = await world.daemon.cli(['run', '--detach', profile]);
      expect(refused).toMatchObject({ stdout: '', exitCode: 125 });
      burner.burn('burning-daemon');
      await untilDead(burning);
      await delay(READINGS_MS);
      expect(isAlive(kept)).toBe(true);
    } finally {
      unbind();
      leave();
    }
    expect((await world.wait(burning.runId)).outcome).toMatchObject({ reason: 'budget.cpu', rule: 'budget.cpu' });
    expect(await world.incidentsOf('burning-daemon')).toHaveLength(1);
    expect(world.daemon.log()).not.toContain('not in force');
    expect((await world.run({ name: 'after', command: SHELL('exit 3') })).exitCode).toBe(3);
    await endByHand(kept);
  });

  test('the warden takes no run more, and holds those that it has', TIME_OUT, async () => {
    const [kept, burning] = [await world.start(quiet('kept')), await world.start(burner.draft('burning-warden'))];
    const unbind = bindDescriptors(warden());
    try {
      const refused = await world.daemon.cli(['run', world.writeProfile(quiet('late'))]);
      expect(refused.exitCode).toBe(126);
      expect(refused.stderr).toMatch(/EMFILE/);
      burner.burn('burning-warden');
      expect((await world.wait(burning.runId)).outcome).toMatchObject({ reason: 'budget.cpu' });
      expect(isAlive(kept)).toBe(true);
    } finally {
      unbind();
    }
    expect((await world.run({ name: 'after', command: SHELL('exit 3') })).exitCode).toBe(3);
    await endByHand(kept);
  });
});

describe('standing still', () => {
  test('the daemon keeps no budget from its kill, and tells of it afterwards', TIME_OUT, async () => {
    const burning = await world.start(burner.draft('burning-stopped'));
    const { pid } = world.daemon;
    process.kill(pid, 'SIGSTOP');
    try {
      burner.burn('burning-stopped');
      await untilDead(burning);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    expect((await world.wait(burning.runId)).outcome).toMatchObject({ reason: 'budget.cpu' });
    expect(await world.incidentsOf('burning-stopped')).toHaveLength(1);
  });

  test('the warden is missed, and what it held is ended', TIME_OUT, async () => {
    const held = await world.start(quiet('held'));
    process.kill(warden(), 'SIGSTOP');
    expect((await world.wait(held.runId)).outcome).toMatchObject({ reason: 'enforcement.lost' });
    await world.daemon.stop();
    await world.daemon.start();
  });

  test.each([['gate'], ['checker'], ['both']])(
    'the %s opens nothing, is missed and started again',
    TIME_OUT,
    async (which) => {
      const shell = await openShell({
        name: 'reading',
        budget: { wall: '10m' },
        egress: { allow: [`${DOCS.name}:443`] },
        more: { image: IMAGE },
      });
      const reads = async (): Promise<boolean> => (await shell.type(READ)).includes('a page');
      expect(await reads()).toBe(true);
      const gate = childOf(world.daemon.pid, 'gate/process');
      const checker = childOf(gate, 'checker/process');
      const stopped = { gate: [gate], checker: [checker], both: [gate, checker] }[which] ?? [];
      for (const pid of stopped) process.kill(pid, 'SIGSTOP');
      expect(await reads()).toBe(false);
      await until('both are gone', () => ![gate, checker].some((pid) => isProcess(pid, '/process.')), {
        deadlineMs: DEADLINE_MS,
      });
      await until('the next ones let it read', reads, { deadlineMs: DEADLINE_MS });
    },
  );
});
const IMAGE = 'ringfence/agent-attack:local';
const READ = `curl -sSm 2 -o /dev/null --cacert /agent/lab-ca.crt https://${DOCS.name}/ && echo a page`;

test(
  'on a disk that takes nothing a daemon does not start, and a kill of that time is told by the next',
  TIME_OUT,
  async () => {
    const held = await world.start({ ...quiet('held'), budget: { wall: '40s' } });
    await world.daemon.crash();
    execFileSync('mount', ['-o', 'remount,ro', world.daemon.state]);
    try {
      await expect(world.daemon.start()).rejects.toThrow('the daemon ended');
      expect(world.daemon.log()).toMatch(/EROFS|read-only/);
      await untilDead(held);
    } finally {
      execFileSync('mount', ['-o', 'remount,rw', world.daemon.state]);
    }
    await world.daemon.start();
    expect((await world.wait(held.runId)).outcome).toMatchObject({ reason: 'budget.wall' });
  },
);
