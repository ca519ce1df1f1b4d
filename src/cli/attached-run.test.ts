import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

import { startApi, until, type ApiFixture } from '../../test/support/api-fixture.ts';
import type { FakeAgent } from '../../test/support/fake-service.ts';

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url));
const SCRIPT = '/usr/bin/script';
const DEADLINE_MS = 15_000;

type Program = {
  readonly child: ChildProcess;
  readonly output: () => { readonly stdout: string; readonly stderr: string };
  readonly exit: Promise<{ readonly code: number | null; readonly signal: string | null }>;
};

async function prepare(api: ApiFixture, agent: FakeAgent): Promise<string> {
  await mkdir(join(api.directory, 'profiles'));
  const file = join(api.directory, 'profiles', 'agent.yaml');
  await writeFile(file, 'name: agent\n');
  api.service.agents.set(file, agent);
  return file;
}

function start(api: ApiFixture, words: readonly string[], options: { readonly tty?: boolean } = {}): Program {
  const command = [process.execPath, MAIN, ...words];
  const env = { PATH: process.env['PATH'], TERM: 'xterm', RINGFENCE_SOCKET: api.socketPath, SHELL: '/bin/sh' };
  // script(1) gives the program a terminal of its own; with --return it exits as the program did.
  const child =
    options.tty === true
      ? spawn(SCRIPT, ['--quiet', '--return', '--command', command.join(' '), '/dev/null'], { env })
      : spawn(process.execPath, [MAIN, ...words], { env });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  const deadline = setTimeout(() => child.kill('SIGKILL'), DEADLINE_MS);
  const exit = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once('close', (code, signal) => {
      clearTimeout(deadline);
      resolve({ code, signal });
    });
  });
  return { child, output: () => output, exit };
}

/** Says what arrives, ends at SIGTERM or SIGKILL. */
const stubborn: FakeAgent = async ({ print, nextSignal }) => {
  print('ready\n');
  while (true) {
    const signal = await nextSignal();
    print(`got ${signal}\n`);
    if (signal === 'SIGTERM' || signal === 'SIGKILL') return { reason: 'stopped', signal, exitCode: null };
  }
};

describe('an attached run', () => {
  it('sends the first signal on, and ends as the agent does', async () => {
    await using api = await startApi();
    const file = await prepare(api, async ({ print, nextSignal }) => {
      print('ready\n');
      return { reason: 'exited', exitCode: (await nextSignal()) === 'SIGINT' ? 42 : 1 };
    });
    const program = start(api, ['run', file]);
    await until(() => program.output().stdout.includes('ready'), 'the agent is ready', DEADLINE_MS);
    program.child.kill('SIGINT');
    expect(await program.exit).toEqual({ code: 42, signal: null });
    expect(program.output()).toEqual({ stdout: 'ready\n', stderr: '' });
  });

  it('says it was interrupted when the launch was ended in place of the agent', async () => {
    await using api = await startApi();
    const file = await prepare(api, async ({ print, nextSignal }) => {
      print('ready\n');
      await nextSignal();
      return { reason: 'stopped', rule: 'signal', exitCode: null };
    });
    const program = start(api, ['run', file]);
    await until(() => program.output().stdout.includes('ready'), 'the run is attached', DEADLINE_MS);
    program.child.kill('SIGTERM');
    expect(await program.exit).toEqual({ code: 143, signal: null });
    expect(program.output().stderr).toContain('ended by stopped (signal)');
  });

  it('stops the run at the second interrupt, and says it was interrupted', async () => {
    await using api = await startApi();
    const program = start(api, ['run', await prepare(api, stubborn)]);
    await until(() => program.output().stdout.includes('ready'), 'the agent is ready', DEADLINE_MS);
    program.child.kill('SIGINT');
    await until(() => program.output().stdout.includes('got SIGINT'), 'the agent got the first', DEADLINE_MS);
    program.child.kill('SIGINT');
    expect(await program.exit).toEqual({ code: 130, signal: null });
    expect(api.service.calls.map(({ call }) => call)).toContain('stop');
    expect(program.output().stdout).toBe('ready\ngot SIGINT\ngot SIGTERM\n');
    expect(program.output().stderr).toContain('ringfence: stopping r000000000001');
  });

  it('leaves at the third, while the daemon goes on stopping', async () => {
    await using api = await startApi();
    api.service.stop = async () => undefined;
    const program = start(api, ['run', await prepare(api, stubborn)]);
    await until(() => program.output().stdout.includes('ready'), 'the agent is ready', DEADLINE_MS);
    program.child.kill('SIGINT');
    await until(() => program.output().stdout.includes('got SIGINT'), 'the agent got the first', DEADLINE_MS);
    program.child.kill('SIGINT');
    await until(() => program.output().stderr.includes('stopping'), 'the stop was asked for', DEADLINE_MS);
    program.child.kill('SIGINT');
    expect(await program.exit).toEqual({ code: 130, signal: null });
    expect(program.output().stderr).toContain('left while r000000000001 is being stopped');
    expect((await api.client.inspect('r000000000001')).phase).toBe('running');
    await api.client.kill('r000000000001');
  });

  it('takes an agent’s pace on stdin, and carries every byte', async () => {
    await using api = await startApi();
    const file = await prepare(api, async ({ stdin, print }) => {
      let bytes = 0;
      for await (const chunk of stdin) bytes += chunk.length;
      print(`${bytes}\n`);
      return {};
    });
    const program = start(api, ['run', file]);
    program.child.stdin?.end(Buffer.alloc(3_000_000));
    expect(await program.exit).toMatchObject({ code: 0 });
    expect(program.output().stdout).toBe('3000000\n');
  });

  it('says so when the daemon stops under it', async () => {
    await using api = await startApi();
    const program = start(api, ['run', await prepare(api, stubborn)]);
    await until(() => program.output().stdout.includes('ready'), 'the agent is ready', DEADLINE_MS);
    await api.server.close();
    expect(await program.exit).toMatchObject({ code: 125 });
    expect(program.output().stderr).toContain('the daemon is stopping');
  });

  it('ends quietly when the reader of its output leaves', async () => {
    await using api = await startApi();
    const program = start(api, [
      'run',
      await prepare(api, async ({ print, nextSignal }) => {
        print('ready\n');
        while ((await nextSignal()) !== 'SIGKILL') print('more\n'.repeat(100_000));
        return {};
      }),
    ]);
    await until(() => program.output().stdout.includes('ready'), 'the agent is ready', DEADLINE_MS);
    program.child.stdout?.destroy();
    program.child.kill('SIGINT');
    expect(await program.exit).toMatchObject({ code: 141 });
    expect(program.output().stderr).toBe('');
    await until(() => api.service.calls.some(({ call }) => call === 'detach'), 'the service was told');
  });
});

describe('an attached run at a terminal', () => {
  it('gives it to the agent: keys, sizes and raw bytes', async () => {
    await using api = await startApi();
    const file = await prepare(api, async ({ request, stdin, print, sizes }) => {
      print(`\u001b[1mready\u001b[0m tty=${request.tty}\r\n`);
      for await (const bytes of stdin) {
        print(`key ${[...bytes].join(',')}\r\n`);
        if (bytes.includes(0x71)) break;
      }
      print(`sizes ${sizes.length > 0}\r\n`);
      return { exitCode: 5 };
    });
    const program = start(api, ['run', file], { tty: true });
    await until(() => program.output().stdout.includes('ready'), 'the agent is ready', DEADLINE_MS);
    program.child.stdin?.write('\u0003');
    // Ctrl-C is a key like any other: it reaches the agent and ends nothing here.
    await until(() => program.output().stdout.includes('key 3'), 'the agent got the key', DEADLINE_MS);
    program.child.stdin?.write('q');
    expect(await program.exit).toMatchObject({ code: 5 });
    expect(program.output().stdout).toContain('\u001b[1mready\u001b[0m tty=true');
  });

  it('is left with Ctrl-] three times', async () => {
    await using api = await startApi();
    const file = await prepare(api, stubborn);
    const program = start(api, ['run', file], { tty: true });
    await until(() => program.output().stdout.includes('ready'), 'the agent is ready', DEADLINE_MS);
    program.child.stdin?.write('\u001d\u001d\u001d');
    expect(await program.exit).toMatchObject({ code: 130 });
    expect(program.output().stdout).toContain('left r000000000001 running under its limits');
    await api.client.kill('r000000000001');
  });

  it('shows what an agent without the terminal wrote as text only', async () => {
    await using api = await startApi();
    const file = await prepare(api, async ({ print }) => {
      print('\u001b]0;owned\u0007 \u202etxt\r\nnext\tline\n');
      return {};
    });
    const program = start(api, ['run', file, '--json'], { tty: true });
    expect(await program.exit).toMatchObject({ code: 0 });
    expect(program.output().stdout).toContain('\\u{1b}]0;owned\\u{7} \\u{202e}txt\r\nnext\tline\r\n');
    expect(program.output().stdout).not.toContain('\u001b]');
  });
});
