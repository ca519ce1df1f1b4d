import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { CgroupPaths, ProcessFacts, WardenReport, WatchPlan } from '../core/ports/warden.ts';
import { until } from '../../test/support/until.ts';
import { argvOf } from './command-lines-look.ts';
import { CommandLines, type CommandLinesOptions } from './command-lines.ts';

const AT = '2026-10-05T08:00:00.000Z';
const PACE = { everyMs: 10, lookMsMax: 5_000, firstLookMsMax: 60_000, restartMs: 10 };
const FACT_MS_MAX = 20_000;
const releases: (() => void)[] = [];
afterEach(() => {
  for (const release of releases.splice(0).toReversed()) release();
});

/** A folder that lists processes as a cgroup does. */
function groupOf(pids: readonly number[]): CgroupPaths {
  const folder = mkdtempSync(join(tmpdir(), 'ringfence-argv-'));
  releases.push(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'cgroup.procs'), pids.map((pid) => `${pid}\n`).join(''));
  return { cpu: folder, cpuacct: folder, memory: folder, pids: folder, freezer: null, unified: null };
}

function started(argv0: string, ...args: readonly string[]): ChildProcess {
  const child = spawn('sleep', ['60', ...args], { argv0, stdio: 'ignore' });
  releases.push(() => child.kill('SIGKILL'));
  return child;
}

async function watching(
  pids: readonly number[],
  options: Partial<CommandLinesOptions> = {},
): Promise<{ readonly lines: CommandLines; readonly warned: string[] }> {
  const warned: string[] = [];
  const warn = (_facts: object, message: string): void => void warned.push(message);
  const log = { debug() {}, info() {}, warn, error() {} };
  const lines = new CommandLines({ log, nowIso: () => AT, pace: PACE, ...options });
  releases.push(() => lines.close());
  const warden = lines.over({ watch: async (_plan: WatchPlan) => undefined });
  await warden.watch({ runId: 'r1', parentPaths: groupOf(pids) } as WatchPlan);
  return { lines, warned };
}

function factsOf(pid: number, startTicks: number): ProcessFacts {
  return { pid, startTicks, executable: '/bin/sleep', argv: [], argvSource: null, parents: [], cpuMs: 1 };
}

function ticksOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
}

function told(lines: CommandLines, process: ProcessFacts): Pick<ProcessFacts, 'argv' | 'argvSource'> | null {
  const breached = { kind: 'breached', runId: 'r1', processes: [process] } as unknown as WardenReport;
  const filled = lines.fillReport(breached);
  if (filled.kind !== 'breached' || filled.processes[0] === undefined) return null;
  const { argv, argvSource } = filled.processes[0];
  return { argv, argvSource };
}

describe('command lines', () => {
  test('are known of a process that is already dead', async () => {
    const child = started('miner', '1', '2');
    const pid = child.pid ?? 0;
    const facts = factsOf(pid, ticksOf(pid));
    const { lines } = await watching([pid]);
    await until('it was read', () => told(lines, facts)?.argv.length !== 0, { deadlineMs: FACT_MS_MAX });
    child.kill('SIGKILL');
    expect(told(lines, facts)).toEqual({ argv: ['miner', '60', '1', '2'], argvSource: { kind: 'read', at: AT } });
    // A later process of the same number is another one.
    expect(told(lines, { ...facts, startTicks: facts.startTicks + 1 })).toEqual({
      argv: [],
      argvSource: { kind: 'unread', why: 'no look at the run found it in time' },
    });
    lines.fillReport({ kind: 'emptied', runId: 'r1' } as unknown as WardenReport);
    expect(told(lines, facts)).toEqual({ argv: [], argvSource: null });
  });

  test('whoever keeps the reader waiting is read no more, the others are, and at last nobody', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ringfence-argv-'));
    releases.push(() => rmSync(folder, { recursive: true }));
    const program = join(folder, 'hangs.mjs');
    // Reads 1, 2 and 3 in turn, and never comes back from the first of them that it may read.
    writeFileSync(
      program,
      `import { createInterface } from 'node:readline';
      const say = (report) => process.stdout.write(JSON.stringify(report) + '\\n');
      createInterface({ input: process.stdin }).on('line', (line) => {
        const { skip } = JSON.parse(line).runs[0];
        say({ kind: 'read', runId: 'r1', pid: 9, startTicks: 9, argv: ['well'] });
        const pid = [1, 2, 3].find((each) => !skip.some((one) => one.pid === each));
        if (pid === undefined) return say({ kind: 'looked' });
        say({ kind: 'reading', runId: 'r1', pid, startTicks: pid });
      });`,
    );
    const { lines, warned } = await watching([1, 2, 3], { program, pace: { ...PACE, lookMsMax: 1_500 } });
    await until('it gave up', () => warned.length === 3, { deadlineMs: 60_000 });
    const busy = { kind: 'unread', why: 'it kept its memory busy when it was looked at' };
    const none = {
      kind: 'unread',
      why: 'processes of this run kept their memory busy, so none of them is read any more',
    };
    expect([1, 2, 3, 4].map((pid) => told(lines, factsOf(pid, pid))?.argvSource)).toEqual([busy, busy, busy, none]);
    expect(told(lines, factsOf(9, 9))?.argv).toEqual(['well']);
    expect(new Set(warned)).toEqual(new Set(['a process keeps its command line from being read']));
  });

  test('a reader that dies is started again', async () => {
    const child = started('again');
    const pid = child.pid ?? 0;
    const folder = mkdtempSync(join(tmpdir(), 'ringfence-argv-'));
    releases.push(() => rmSync(folder, { recursive: true }));
    const program = join(folder, 'dies-once.mjs');
    const real = join(import.meta.dirname, 'command-lines-process.ts');
    const mark = JSON.stringify(join(folder, 'died'));
    writeFileSync(
      program,
      `import { existsSync, writeFileSync } from 'node:fs';
      if (!existsSync(${mark})) { writeFileSync(${mark}, ''); process.exit(3); }
      await import(${JSON.stringify(real)});`,
    );
    const { lines, warned } = await watching([pid], { program });
    const facts = factsOf(pid, ticksOf(pid));
    await until('it was read', () => told(lines, facts)?.argv.length !== 0, { deadlineMs: FACT_MS_MAX });
    expect(warned).toEqual(['the process that reads command lines ended']);
  });
});

describe('argvOf', () => {
  const cases: readonly (readonly [string, Buffer, readonly string[]])[] = [
    ['nothing', Buffer.alloc(0), []],
    ['a call', Buffer.from('curl\0-s\0'), ['curl', '-s']],
    ['a title that was written over it', Buffer.from('nginx: worker'), ['nginx: worker']],
    ['an escape and an end of line', Buffer.from('x\0\u001b]0;owned\u0007\n\0'), ['x', '\\u{1b}]0;owned\\u{7}\\u{a}']],
    ['what is no UTF-8', Buffer.from([0x78, 0, 0xff, 0xfe, 0]), ['x', '\\u{fffd}\\u{fffd}']],
    ['an empty argument', Buffer.from('x\0\0y\0'), ['x', '', 'y']],
  ];
  test.each(cases)('shows %s', (_, bytes, argv) => {
    expect(argvOf(bytes)).toEqual(argv);
  });

  test('shows the beginning of many and of long ones, and that there was more', () => {
    const many = argvOf(Buffer.from('a\0'.repeat(100)));
    expect({ words: many.length, last: many.at(-1) }).toEqual({ words: 33, last: '…' });
    const long = argvOf(Buffer.alloc(4_096, 'a'));
    expect(long).toEqual([`${'a'.repeat(256)}… (4096 characters)`, '…']);
  });
});
