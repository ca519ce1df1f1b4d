import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { openNotifier } from './notify.ts';

const noLog = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

/** Node.js has no datagram sockets of this kind, so another program receives. */
async function receiver(name: string, count: number): Promise<{ readonly messages: Promise<string[]> }> {
  const program = [
    'import socket, sys, json',
    's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
    's.settimeout(10)',
    "n = sys.argv[1]; s.bind('\\0' + n[1:] if n[0] == '@' else n)",
    "print('bound', flush=True)",
    'for _ in range(int(sys.argv[2])): print(json.dumps(s.recv(4096).decode()), flush=True)',
  ].join('\n');
  const child = spawn('python3', ['-c', program, name, String(count)], { stdio: ['ignore', 'pipe', 'inherit'] });
  cleanups.push(() => child.kill('SIGKILL'));
  const bound = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<string[]>();
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString('utf8');
    if (text.startsWith('bound\n')) bound.resolve();
  });
  child.once('close', () => {
    bound.reject(new Error('the receiver is gone'));
    ended.resolve(
      text
        .trim()
        .split('\n')
        .slice(1)
        .map((line) => JSON.parse(line) as string),
    );
  });
  await bound.promise;
  return { messages: ended.promise };
}

test.each(['path', 'abstract'])('tells systemd at its socket, by %s', async (kind) => {
  const folder = mkdtempSync(join(tmpdir(), 'notify-'));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  const socketPath = kind === 'path' ? join(folder, 'socket') : `@ringfence-test-${process.pid}`;
  const { messages } = await receiver(socketPath, 4);
  const notifier = openNotifier({ NOTIFY_SOCKET: socketPath }, noLog);
  notifier.ready('3 runs\nREADY=0');
  notifier.reloading();
  notifier.feedWatchdog();
  notifier.stopping();
  const [ready, reloading, fed, stopping] = await messages;
  expect(ready).toBe('READY=1\nSTATUS=3 runs READY=0');
  expect(reloading).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d+$/);
  expect(fed).toBe('WATCHDOG=1');
  expect(stopping).toBe('STOPPING=1\nSTATUS=stopping');
});

test('is silent outside a unit, and survives a socket that is gone', () => {
  expect(() => openNotifier({}, noLog).ready('')).not.toThrow();
  const warned: unknown[] = [];
  const log = { ...noLog, warn: (...words: unknown[]) => void warned.push(words) };
  openNotifier({ NOTIFY_SOCKET: '/nowhere/socket' }, log).ready('');
  expect(warned).toHaveLength(1);
});

test('finds the watchdog that is meant for this process', () => {
  const pid = String(process.pid);
  const variables = { NOTIFY_SOCKET: '/run/x', WATCHDOG_USEC: '15000000', WATCHDOG_PID: pid };
  const watchdogIn = (environment: Record<string, string>) => openNotifier({ ...environment }, noLog).watchdogEveryMs;
  expect(watchdogIn(variables)).toBe(5_000);
  expect(watchdogIn({ ...variables, WATCHDOG_PID: `${pid}1` })).toBeNull();
  expect(watchdogIn({ ...variables, WATCHDOG_USEC: '0' })).toBeNull();
  expect(watchdogIn({ WATCHDOG_USEC: '15000000' })).toBeNull();
});

test('what the daemon starts cannot speak for it', () => {
  const environment = { NOTIFY_SOCKET: '/run/x', WATCHDOG_USEC: '1', WATCHDOG_PID: '7', PATH: '/bin' };
  openNotifier(environment, noLog);
  expect(environment).toEqual({ PATH: '/bin' });
});
