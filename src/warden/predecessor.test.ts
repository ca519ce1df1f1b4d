import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { endPredecessor } from './predecessor.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

/** A process with the command line of a warden, stopped as a hanging one is. */
async function stopped(entry: string, directory: string, nodeOptions: readonly string[] = []): Promise<ChildProcess> {
  const folder = mkdtempSync(join(tmpdir(), 'predecessor-'));
  const file = join(folder, entry);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(file, 'console.log("on"); setInterval(() => undefined, 1_000);');
  const child = spawn(process.execPath, [...nodeOptions, file, JSON.stringify({ directory })], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  cleanups.push(() => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  });
  await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  return child;
}

test.each([
  ['of this release', ['--max-semi-space-size=4']],
  ['of a release that gave Node.js no options', []],
])('ends a warden %s of the same directory that stands still', async (_what, nodeOptions) => {
  const child = await stopped('warden/process.js', '/state/warden', nodeOptions);
  const ended = once(child, 'exit');
  expect(endPredecessor({ pid: child.pid ?? null, directory: '/state/warden' })).toBe(true);
  expect(await ended).toEqual([null, 'SIGKILL']);
});

test.each([
  ['the warden of another daemon', 'warden/process.js', '/other/warden'],
  ['a process that got its number', 'other/process.js', '/state/warden'],
])('leaves %s alone', async (_what, entry, directory) => {
  const child = await stopped(entry, directory);
  expect(endPredecessor({ pid: child.pid ?? null, directory: '/state/warden' })).toBe(false);
  expect([child.exitCode, child.signalCode]).toEqual([null, null]);
});

test('nobody, or somebody long gone, is nobody to end', () => {
  const directory = '/state/warden';
  expect(endPredecessor({ pid: null, directory })).toBe(false);
  expect(endPredecessor({ pid: process.pid, directory })).toBe(false);
  expect(endPredecessor({ pid: 2 ** 22 + 1, directory })).toBe(false);
});
