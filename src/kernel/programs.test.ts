import { readFileSync } from 'node:fs';
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

test('a starter that dies is replaced, and whoever waited is told that nothing is known', async () => {
  const before = await starterOf();
  const waiting = runProgram('sleep', ['5'], BOUNDS);
  process.kill(before, 'SIGKILL');
  expect(await waiting).toMatchObject({ exitCode: null, timedOut: true });
  const after = await starterOf();
  expect(after).not.toBe(before);
  // An order to end that reaches the whole group is not for it.
  process.kill(after, 'SIGTERM');
  expect(await starterOf()).toBe(after);
});
