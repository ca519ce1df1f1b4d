import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll } from 'vitest';
import { command, lab } from './lab.ts';
import { until } from './until.ts';

const ENDED_MS_MAX = 60_000;
const ANSWERS_MS_MAX = 60_000;
const CONTAINERD_MS_MAX = 5_000;
/** Its containerd has fifteen seconds to begin, which a busy machine may not give it. */
const STARTS_MAX = 3;
const HOOK_MS_MAX = 240_000;

/** The lab's engine, to be ended and started again. It is as it was before when the file is over. */
export type EngineProcess = {
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
  /** `liveRestore`: containers outlive it from then on. */
  start(options?: { readonly liveRestore: boolean }): Promise<void>;
};

export function useEngineProcess(): EngineProcess {
  let pid = 0;
  let words: readonly string[] = [];
  let env: NodeJS.ProcessEnv = {};
  /** Its log and its namespaces, which would be gone with it. */
  let kept: readonly number[] = [];
  let isAsBefore = true;

  beforeAll(() => {
    pid = readNumber(`${lab.runtime}/dockerd.pid`) ?? 0;
    words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
    const lines = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
    const pairs = lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)] as const);
    env = Object.fromEntries(pairs.filter(([name]) => name !== ''));
    kept = [['fd/1', 'a'] as const, ['ns/mnt', 'r'] as const, ['ns/net', 'r'] as const].map(([file, flags]) =>
      openSync(`/proc/${pid}/${file}`, flags),
    );
  });
  afterAll(async () => {
    if (!isAsBefore) {
      await end('SIGTERM');
      await start();
    }
    for (const fd of kept) closeSync(fd);
  }, HOOK_MS_MAX);

  async function end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    isAsBefore = false;
    const running = readNumber(`${lab.runtime}/dockerd.pid`);
    if (running === null || !existsSync(`/proc/${running}`)) return;
    const containerd = readNumber(`${lab.runtime}/exec/containerd/containerd.pid`);
    process.kill(running, signal);
    await until('the engine ends', () => !existsSync(`/proc/${running}`), { deadlineMs: ENDED_MS_MAX });
    // The next engine would take one that is about to die for one to work with.
    const isGone = (): boolean => containerd === null || !existsSync(`/proc/${containerd}`);
    await until('its containerd ends', isGone, { deadlineMs: CONTAINERD_MS_MAX }).catch(() => undefined);
  }

  async function start({ liveRestore } = { liveRestore: false }): Promise<void> {
    for (let attempt = 1; attempt < STARTS_MAX; attempt += 1) if (await startOnce(liveRestore)) return;
    if (!(await startOnce(liveRestore))) throw new Error('the engine does not start again');
  }

  async function startOnce(liveRestore: boolean): Promise<boolean> {
    const [log, mounts, network] = kept;
    const enter = ['--mount=/proc/self/fd/3', '--net=/proc/self/fd/4', '--wd=/'];
    const child = spawn('nsenter', [...enter, ...words, ...(liveRestore ? ['--live-restore'] : [])], {
      stdio: ['ignore', log, log, mounts, network],
      detached: true,
      env,
    });
    child.unref();
    writeFileSync(`${lab.runtime}/engine.pid`, String(child.pid));
    const answers = await until(
      'the engine answers',
      async () => (child.exitCode !== null ? 'no' : (await isUp()) ? 'yes' : null),
      { deadlineMs: ANSWERS_MS_MAX },
    );
    if (answers === 'no') return false;
    isAsBefore = !liveRestore;
    return true;
  }

  return { end, start };
}

async function isUp(): Promise<boolean> {
  return (await command('docker', ['--host', `unix://${lab.dockerSocket}`, 'info'])).exitCode === 0;
}

function readNumber(file: string): number | null {
  return existsSync(file) ? Number(readFileSync(file, 'latin1')) : null;
}
