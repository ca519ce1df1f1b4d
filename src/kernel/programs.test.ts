import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { runProgram } from './programs.ts';

const BOUNDS = { msMax: 10_000, charsMax: 1_000 };
const starterOf = async (): Promise<number> => Number((await runProgram('sh', ['-c', 'echo $PPID'], BOUNDS)).stdout);

test('gives back what a program said and how it ended, of several at once', async () => {
  const results = await Promise.all([
    runProgram('sh', ['-c', 'cat; echo no >&2; exit 3'], { ...BOUNDS, input: 'lines\nof input' }),
    runProgram('sh', ['-c', 'sleep 0.2; echo later'], BOUNDS),
    runProgram('cat', [], BOUNDS),
  ]);
  expect(results).toEqual([
    { exitCode: 3, timedOut: false, stdout: 'lines\nof input', stderr: 'no' },
    { exitCode: 0, timedOut: false, stdout: 'later', stderr: '' },
    { exitCode: 0, timedOut: false, stdout: '', stderr: '' },
  ]);
});

test('is no child of whoever asks', async () => {
  expect(await starterOf()).not.toBe(process.pid);
  expect(readFileSync(`/proc/${await starterOf()}/cmdline`, 'latin1')).toContain('programs-process');
});

test.each([
  ['is not there', ['ringfence-no-such-program'], { exitCode: null, timedOut: false }],
  ['is ended by a signal', ['sh', '-c', 'kill -KILL $$'], { exitCode: null, timedOut: false }],
  ['does not end', ['sleep', '30'], { exitCode: null, timedOut: true }],
] as const)('tells of a program that %s', async (_, [program, ...args], expected) => {
  expect(await runProgram(program, args, { ...BOUNDS, msMax: 500 })).toMatchObject(expected);
});

test('takes no more output than asked for', async () => {
  const { stdout } = await runProgram('sh', ['-c', 'yes | head -c 100000'], BOUNDS);
  expect(stdout.length).toBeLessThanOrEqual(BOUNDS.charsMax);
});

test('no more than eight are at work at once, and the time of the others does not run', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'programs-'));
  const script = `touch "$0/$$"; sleep 0.4; ls "$0" | wc -l; rm "$0/$$"`;
  const bounds = { ...BOUNDS, msMax: 2_000 };
  const results = await Promise.all(Array.from({ length: 60 }, () => runProgram('sh', ['-c', script, folder], bounds)));
  rmSync(folder, { recursive: true });
  expect(results.filter(({ exitCode }) => exitCode !== 0)).toEqual([]);
  const atWork = Math.max(...results.map(({ stdout }) => Number(stdout)));
  expect({ some: atWork > 1, bounded: atWork <= 8 }).toEqual({ some: true, bounded: true });
});

test('a starter that dies is replaced, and whoever waited is told that nothing is known', async () => {
  const before = await starterOf();
  const waiting = Array.from({ length: 8 }, () => runProgram('sleep', ['5'], BOUNDS));
  const behind = runProgram('echo', ['next'], BOUNDS);
  process.kill(before, 'SIGKILL');
  for (const each of await Promise.all(waiting)) expect(each).toMatchObject({ exitCode: null, timedOut: true });
  expect(await behind).toMatchObject({ exitCode: 0, stdout: 'next' });
  const after = await starterOf();
  expect(after).not.toBe(before);
  // An order to end that reaches the whole group is not for it.
  process.kill(after, 'SIGTERM');
  expect(await starterOf()).toBe(after);
});
