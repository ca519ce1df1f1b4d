import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import type { ExecSink } from '../../core/ports/alert.ts';
import type { Delivery } from '../deliverer.ts';
import { alertOf, withDirectory } from '../testing.ts';
import { openExec } from './exec.ts';

const never = new AbortController().signal;

function sinkOf(script: string, more: readonly string[] = [], timeoutMs = 10_000): ExecSink {
  // A test's own program, in the shell's language; the sink itself never uses a shell.
  return { type: 'exec', command: ['/bin/sh', '-c', script, 'program', ...more], timeoutMs };
}

async function run(script: string, more: readonly string[] = [], body?: string): Promise<Delivery> {
  return await openExec(sinkOf(script, more)).send(alertOf('a1', body === undefined ? {} : { body }), never);
}

describe('a command', () => {
  test('gets the body on its standard input and few words in its environment', async () => {
    await withDirectory(async (directory) => {
      const out = join(directory, 'out');
      const body = '{"data":"$(id) `id` ; é\\n"}';
      process.env['SECRET_OF_THE_DAEMON'] = 'hunter2';
      try {
        expect(await run('cat > "$1"; env > "$1.env"; pwd > "$1.pwd"', [out], body)).toEqual({
          kind: 'delivered',
          status: 0,
        });
      } finally {
        delete process.env['SECRET_OF_THE_DAEMON'];
      }
      expect(readFileSync(out, 'utf8')).toBe(body);
      expect(readFileSync(`${out}.pwd`, 'utf8')).toBe('/\n');
      const names = readFileSync(`${out}.env`, 'utf8')
        .trim()
        .split('\n')
        .map((line) => line.slice(0, line.indexOf('=')));
      const own = ['RINGFENCE_ALERT_ID', 'RINGFENCE_KEY', 'RINGFENCE_SEVERITY', 'RINGFENCE_TYPE'];
      const ofTheShell = ['OLDPWD', 'PWD', 'SHLVL', '_'];
      expect(names.filter((name) => !ofTheShell.includes(name)).toSorted()).toEqual(['LANG', 'PATH', ...own]);
    });
  });

  test('that does not want the body counts by its exit code', async () => {
    expect(await run('exec 0<&-; exit 0', [], 'x'.repeat(1024 * 1024))).toEqual({ kind: 'delivered', status: 0 });
  });

  test('that fails is tried again, with what it said, in one harmless line', async () => {
    expect(await run("printf 'no \\033[31mroute\\nto host' >&2; exit 3")).toEqual({
      kind: 'failed',
      message: 'exit code 3: no \\u{1b}[31mroute\\u{a}to host',
      retryAfterMs: null,
    });
    expect(await run('kill -TERM $$')).toMatchObject({ message: 'ended by SIGTERM' });
    const flood = await run('head -c 10000000 /dev/zero | tr "\\0" x >&2; exit 1');
    expect(flood.kind === 'failed' ? flood.message.length : 0).toBeLessThan(300);
  });

  test('has a deadline, and takes along what it started', async () => {
    await withDirectory(async (directory) => {
      const pidFile = join(directory, 'pid');
      const sink = sinkOf('sleep 600 & echo $! > "$1.new"; mv "$1.new" "$1"; wait', [pidFile], 1_000);
      const sending = openExec(sink).send(alertOf('a1'), never);
      await vi.waitFor(() => expect(existsSync(pidFile)).toBe(true), { timeout: 5_000 });
      expect(await sending).toMatchObject({ kind: 'failed', message: 'no end within 1 s' });
      const pid = Number(readFileSync(pidFile, 'utf8'));
      await vi.waitFor(() => expect(isAlive(pid)).toBe(false), { timeout: 5_000 });
    });
  });

  test('is over when it exits, whoever still holds its pipes', async () => {
    await withDirectory(async (directory) => {
      const pidFile = join(directory, 'pid');
      const delivery = await run('setsid sleep 600 & echo $! > "$1"', [pidFile]);
      process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGKILL');
      expect(delivery).toEqual({ kind: 'delivered', status: 0 });
    });
  });

  test('ends when the daemon stops', async () => {
    const controller = new AbortController();
    const sending = openExec(sinkOf('sleep 600')).send(alertOf('a1'), controller.signal);
    controller.abort();
    expect(await sending).toMatchObject({ kind: 'failed', message: 'the daemon stops' });
  });

  test('that cannot be started is a failed attempt; a relative path is no command', async () => {
    const missing: ExecSink = { type: 'exec', command: ['/nonexistent/program'], timeoutMs: 1_000 };
    expect(await openExec(missing).send(alertOf('a1'), never)).toMatchObject({
      kind: 'failed',
      message: expect.stringMatching(/ENOENT/),
    });
    expect(() => openExec({ ...missing, command: ['program'] })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
  });
});

/** A process that has ended and only waits to be counted is not alive. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
