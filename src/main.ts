#!/usr/bin/env node
import { runProgram } from './cli/program.ts';
import type { Terminal } from './cli/terminal.ts';
import { VERSION } from './core/version.ts';

/** The only file that touches the arguments, the signals and the exit code of the process. */

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
/** 128 + SIGPIPE, as for any program whose reader has left. */
const EXIT_READER_LEFT = 141;

function openTerminal(): Terminal {
  let brokenPipe: 'exit' | 'ignore' = 'exit';
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (brokenPipe === 'exit') process.exit(error.code === 'EPIPE' ? EXIT_READER_LEFT : 1);
    });
  }
  return {
    // Only a command that reads stdin opens it.
    get stdin() {
      return process.stdin;
    },
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    cwd: process.cwd(),
    nowMs: () => Date.now(),
    onSignal: (listener) => {
      for (const name of SIGNALS) process.on(name, listener);
      return () => {
        for (const name of SIGNALS) process.off(name, listener);
      };
    },
    onHandOver: (listener) => {
      process.on('SIGUSR2', listener);
      return () => {
        process.off('SIGUSR2', listener);
      };
    },
    onBrokenPipe: (reaction) => {
      brokenPipe = reaction;
    },
  };
}

const exitCode = await runProgram({
  words: process.argv.slice(2),
  terminal: openTerminal(),
  version: VERSION,
});
// A reader of stdin, or a connection that lingers, must not hold up the end; pipes and files are written by now.
process.exit(exitCode);
