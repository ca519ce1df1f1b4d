import type { Readable } from 'node:stream';

/** What a fake container's program can do: read, write, be signalled (SIGKILL never reaches it), and end with a code. */
export type FakeProcess = {
  readonly args: readonly string[];
  readonly stdin: Readable;
  readonly signalled: Promise<string>;
  readonly write: (stream: 'stdout' | 'stderr', text: string) => void;
};

export type FakeProgram = (process: FakeProcess) => Promise<number>;

const EXIT_NOT_FOUND = 127;
const EXIT_BY_SIGTERM = 143;

/** `exit CODE`, `print OUT ERR`, `wait`, and `copy` (standard input to standard output) are always there. */
const BUILT_IN: Readonly<Record<string, FakeProgram>> = {
  exit: ({ args }) => Promise.resolve(Number(args[0] ?? 0)),
  print: ({ args, write }) => {
    write('stdout', args[0] ?? '');
    write('stderr', args[1] ?? '');
    return Promise.resolve(0);
  },
  wait: async ({ signalled }) => {
    await signalled;
    return EXIT_BY_SIGTERM;
  },
  copy: async ({ stdin, write }) => {
    for await (const bytes of stdin) write('stdout', String(bytes));
    return 0;
  },
};

export async function runProgram(program: FakeProgram | undefined, process: FakeProcess): Promise<number> {
  return program === undefined ? EXIT_NOT_FOUND : await program(process).catch(() => 1);
}

export function builtIn(name: string): FakeProgram | undefined {
  return BUILT_IN[name];
}
