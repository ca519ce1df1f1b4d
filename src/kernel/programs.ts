import { fork, type ChildProcess } from 'node:child_process';
import { ownProgram } from './own-program.ts';

/**
 * Programs of the host, started by a process of their own. A fork stops the process that calls it for as long as its
 * memory takes to be mapped once more: for the daemon, on a virtual machine, up to a fifth of a second each, and it
 * reads its rules back every second.
 */
export type ProgramOrder = {
  readonly id: number;
  readonly program: string;
  readonly args: readonly string[];
  /** Null for an empty standard input. */
  readonly input: string | null;
  readonly path: string;
  readonly msMax: number;
  readonly charsMax: number;
};
export type ProgramAnswer = ProgramResult & { readonly id: number };
/** `exitCode` is null when it could not be started, was ended by a signal or did not end in time. */
export type ProgramResult = {
  readonly exitCode: number | null;
  readonly timedOut: boolean;
  readonly stdout: string;
  readonly stderr: string;
};

const ENTRY = ownProgram('./programs-process', import.meta.url);
/**
 * A machine that has to start more than this at once starts all of them late; the others wait here, where their time does
 * not run yet.
 */
const AT_ONCE_MAX = 8;
/** Beyond the program's own time: who starts programs and does not answer by then stands still, and is replaced. */
const SLACK_MS = 10_000;

type Resolve = (result: ProgramResult) => void;
type Waiting = { readonly resolve: Resolve; readonly deadline: NodeJS.Timeout };

let starter: ChildProcess | null = null;
let lastId = 0;
const waiting = new Map<number, Waiting>();
const queue: { readonly order: ProgramOrder; readonly resolve: Resolve }[] = [];

/** Runs a program to its end. Rejects never: what went wrong is in the result. */
export function runProgram(
  program: string,
  args: readonly string[],
  options: { readonly msMax: number; readonly charsMax: number; readonly input?: string | undefined },
): Promise<ProgramResult> {
  const { msMax, charsMax, input = null } = options;
  lastId += 1;
  const order = { id: lastId, program, args, input, path: process.env['PATH'] ?? '', msMax, charsMax };
  return new Promise((resolve) => {
    queue.push({ order, resolve });
    sendNext();
  });
}

function sendNext(): void {
  while (waiting.size < AT_ONCE_MAX) {
    const next = queue.shift();
    if (next === undefined) return;
    const { order, resolve } = next;
    const child = (starter ??= start());
    // Only while somebody waits for it does it keep this process alive.
    if (waiting.size === 0) child.ref();
    waiting.set(order.id, { resolve, deadline: setTimeout(() => giveUp(child), order.msMax + SLACK_MS) });
    child.send(order, (error) => {
      if (error !== null) giveUp(child);
    });
  }
}

function start(): ChildProcess {
  const env = { PATH: process.env['PATH'] };
  const child = fork(ENTRY, [], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], execArgv: [], env });
  child.on('message', ({ id, ...result }: ProgramAnswer) => settle(child, id, result));
  child.on('error', () => giveUp(child));
  child.on('exit', () => giveUp(child));
  child.channel?.unref();
  child.unref();
  return child;
}

function settle(child: ChildProcess, id: number, result: ProgramResult): void {
  const entry = waiting.get(id);
  if (entry === undefined) return;
  waiting.delete(id);
  clearTimeout(entry.deadline);
  if (waiting.size === 0) child.unref();
  entry.resolve(result);
  sendNext();
}

/** Whoever waits is told that nothing is known of his program; the next order goes to another process. */
function giveUp(child: ChildProcess): void {
  if (starter !== child) return;
  starter = null;
  child.kill('SIGKILL');
  const stderr = 'the process that starts programs ended or stood still';
  // Each place that becomes free is taken by an order for the next one, which is not meant.
  const lost = [...waiting.keys()];
  for (const id of lost) settle(child, id, { exitCode: null, timedOut: true, stdout: '', stderr });
}
