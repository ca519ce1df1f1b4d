import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import { command } from '../support/lab.ts';
import { useBurner } from '../support/burner.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * The supervisor lacks what it works with: a state directory that may be written, descriptors, or the time to run (a full
 * disk: disk-full.test.ts). Each time the agents stay bounded and are ended for what they cross, and what cannot be
 * recorded or held does not start, with the reason.
 */
const world = useSupervised({ stateBytes: 24 * 2 ** 20 });
const burner = useBurner();
const DEADLINE_MS = 60_000;
const TIME_OUT = { timeout: 300_000 };
const LONG = { wall: '10m' };

async function pidOf(run: RunDetail): Promise<number> {
  const procs = run.cgroups.find((path) => path.includes('/pids/')) ?? run.cgroups[0] ?? '';
  const { stdout } = await command('find', [procs, '-name', 'cgroup.procs', '-exec', 'cat', '{}', '+']);
  return Number(stdout.trim().split('\n')[0]);
}

async function start(
  draft: Parameters<typeof world.launch>[0],
): Promise<{ readonly runId: string; readonly pid: number }> {
  const { runId } = await world.launch(draft);
  return { runId, pid: await pidOf(await world.running(runId)) };
}

const untilDead = (pid: number): Promise<unknown> =>
  until(`process ${pid} of the agent is ended`, () => !existsSync(`/proc/${pid}`), { deadlineMs: DEADLINE_MS });

async function refused(): Promise<string> {
  const profile = world.writeProfile({ name: 'refused', command: SHELL('echo ran'), budget: LONG });
  const { exitCode, stderr, stdout } = await world.daemon.cli(['run', profile], { timeoutMs: DEADLINE_MS });
  expect(stdout).not.toContain('ran');
  expect([125, 126]).toContain(exitCode);
  return stderr;
}

async function launchesAgain(): Promise<void> {
  const { outcome, output } = await world.run({ name: 'again', command: SHELL('echo ran'), budget: LONG });
  expect({ reason: outcome.reason, output }).toEqual({ reason: 'exited', output: expect.stringContaining('ran') });
}

function childOf(program: string): number {
  const isIt = (pid: string): boolean => {
    try {
      return (
        readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(`/${program}/process.`) &&
        [world.daemon.pid, gateOfDaemon(program)].includes(parentOf(pid))
      );
    } catch {
      return false;
    }
  };
  const found = readdirSync('/proc').find((entry) => /^\d+$/.test(entry) && isIt(entry));
  expect(found).toBeDefined();
  return Number(found);
}

/** The checker is the gate's child. */
const gateOfDaemon = (program: string): number => (program === 'checker' ? childOf('gate') : 0);

function parentOf(pid: string): number {
  return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
}

describe('a state directory', () => {
  test(
    'that is read-only at the start: the daemon says so, and takes over what runs when it is not',
    TIME_OUT,
    async () => {
      const { runId, pid } = await start({ name: 'goes-on', command: SHELL('exec sleep 600'), budget: LONG });
      await world.daemon.crash();
      const remount = async (mode: 'ro' | 'rw'): Promise<void> =>
        void (await until(
          `it is mounted ${mode}`,
          // The warden may just be writing.
          async () => (await command('mount', ['-o', `remount,${mode}`, world.daemon.state])).exitCode === 0,
          { deadlineMs: DEADLINE_MS },
        ));
      await remount('ro');
      await expect(world.daemon.start()).rejects.toThrow('the daemon ended');
      expect(world.daemon.log()).toMatch(/read-only|EROFS/);
      expect(existsSync(`/proc/${pid}`)).toBe(true);
      await remount('rw');
      await world.daemon.start();
      await world.running(runId);
      await world.ringfence('kill', runId);
      expect((await world.wait(runId)).outcome.reason).toBe('killed');
    },
  );
});

describe('without file descriptors', () => {
  const openOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;
  const bound = async (pid: number, files: number): Promise<string> => {
    const now = /^Max open files\s+(\d+)\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'latin1'));
    expect((await command('prlimit', [`--pid=${pid}`, `--nofile=${files}:${now?.[2] ?? ''}`])).exitCode).toBe(0);
    return now?.[1] ?? '1024';
  };

  test.each(['daemon', 'warden'] as const)(
    'of the %s a run is ended at its budget, and none starts',
    TIME_OUT,
    async (who) => {
      const burning = await start(burner.draft(`burns-${who}`));
      const pid = who === 'daemon' ? world.daemon.pid : childOf('warden');
      // The connection of the caller is one; what a launch needs is more.
      const before = await bound(pid, openOf(pid) + (who === 'daemon' ? 1 : 0));
      expect(await refused()).not.toBe('');
      burner.burn(`burns-${who}`);
      await untilDead(burning.pid);
      await bound(pid, Number(before));
      expect((await world.wait(burning.runId)).outcome).toMatchObject({ reason: 'budget.cpu' });
      await launchesAgain();
    },
  );
});

describe('stopped by a signal', () => {
  test('the daemon holds up no kill', TIME_OUT, async () => {
    const burning = await start(burner.draft('burns-stopped'));
    const { pid } = world.daemon;
    process.kill(pid, 'SIGSTOP');
    burner.burn('burns-stopped');
    await untilDead(burning.pid);
    process.kill(pid, 'SIGCONT');
    expect((await world.wait(burning.runId)).outcome).toMatchObject({ reason: 'budget.cpu' });
    await launchesAgain();
  });

  test.each(['gate', 'checker'] as const)(
    'the %s opens nothing, and opens again when it goes on',
    TIME_OUT,
    async (who) => {
      const ask =
        'curl -s -o /dev/null -m 3 --cacert /agent/lab-ca.crt https://docs.example.test/ && echo open || echo shut';
      const { runId } = await world.launch({
        name: 'asks',
        command: SHELL(`while :; do ${ask}; sleep 0.2; done`),
        egress: { allow: ['docs.example.test'] },
        budget: { ...LONG, denials: '1000000/1m' },
        on: { 'budget.denials': 'warn' },
        more: { image: 'ringfence/agent-attack:local' },
      });
      await world.running(runId);
      const said = async (): Promise<string[]> => (await world.ringfence('logs', runId)).trim().split('\n');
      const untilSaid = (word: string): Promise<unknown> =>
        until(`the agent finds it ${word}`, async () => (await said()).slice(-2).every((each) => each === word), {
          deadlineMs: DEADLINE_MS,
        });
      await untilSaid('open');
      const pid = childOf(who);
      process.kill(pid, 'SIGSTOP');
      await untilSaid('shut');
      process.kill(pid, 'SIGCONT');
      await untilSaid('open');
      await world.ringfence('kill', runId);
      await world.wait(runId);
    },
  );

  // The last of the file: a daemon without a warden starts nothing more.
  test('the warden is missed and ended, its runs with it', TIME_OUT, async () => {
    const held = await start({ name: 'held', command: SHELL('exec sleep 600'), budget: LONG });
    process.kill(childOf('warden'), 'SIGSTOP');
    await untilDead(held.pid);
    expect((await world.wait(held.runId)).outcome).toMatchObject({ reason: 'enforcement.lost', rule: 'warden' });
    expect(await refused()).toContain('the warden is gone');
    await world.daemon.crash();
    await world.daemon.start();
    await launchesAgain();
  });
});
