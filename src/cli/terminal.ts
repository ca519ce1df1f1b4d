import type { ReadStream, WriteStream } from 'node:tty';

/** What a command knows of the process it runs in. `main.ts` makes the only real one. */
export type Terminal = {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly nowMs: () => number;
  /** SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the listener until it is taken away; without one they end the process. */
  readonly onSignal: (listener: (name: string) => void) => () => void;
  /** SIGUSR2: somebody else is to go on with what this process holds. */
  readonly onHandOver: (listener: () => void) => () => void;
  /** A reader of our output who leaves ends this process, as SIGPIPE would; the daemon outlives its readers. */
  readonly onBrokenPipe: (reaction: 'exit' | 'ignore') => void;
};

/** Colour only for a person at a terminal who has not refused it (no-color.org). */
export function showsColour(terminal: Terminal): boolean {
  return isTty(terminal.stdout) && (terminal.env['NO_COLOR'] ?? '') === '' && terminal.env['TERM'] !== 'dumb';
}

export function isTty(stream: { readonly isTTY?: boolean }): stream is WriteStream | ReadStream {
  return stream.isTTY === true;
}
