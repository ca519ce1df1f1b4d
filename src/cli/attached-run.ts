import type { AttachedRun } from '../api/attach-client.ts';
import type { Client } from '../api/client.ts';
import { messageOf } from '../core/errors.ts';
import { RULE_SIGNAL, type Outcome } from '../core/outcome.ts';
import { agentOutput } from './agent-output.ts';
import type { Context } from './context.ts';
import { exitCodeOf, signalExitCode } from './exit-code.ts';
import { explainEnding } from './outcome.ts';
import { isTty, type Terminal } from './terminal.ts';

// Two Ctrl-C within this time mean "end it", as everybody's fingers know; one means what the agent makes of it.
const AGAIN_MS = 2_000;

/** Ctrl-], three times: leaves a run that has the terminal and does not answer. */
const LEAVE_BYTE = 0x1d;
const LEAVE_COUNT = 3;

/**
 * Signals of an attached run without a terminal of its own:
 *   1st                 → sent on to the agent
 *   2nd within 2 s      → the daemon is asked to stop the run (SIGTERM, then SIGKILL after the grace)
 *   3rd within 2 s      → this command leaves; the daemon goes on stopping the run
 * SIGHUP and SIGQUIT are only ever sent on. What comes before the agent has started ends the launch.
 */
type Interrupts = { count: number; lastMs: number; sentOn: string | null; stoppedBy: string | null };

/** Joins the streams of a run until it is over. Returns the exit code. */
export async function attachedRun(options: {
  readonly context: Context;
  readonly client: Client;
  readonly runId: string;
  readonly tty: boolean;
}): Promise<number> {
  const { context, client, runId, tty } = options;
  const { terminal } = context;
  const left = Promise.withResolvers<string>();
  const interrupts: Interrupts = { count: 0, lastMs: 0, sentOn: null, stoppedBy: null };
  // Listened to before the agent starts: a signal in between is for it, and must not end this process alone.
  const early: string[] = [];
  let take = (name: string): void => void early.push(name);
  const releases = [terminal.onSignal((name) => take(name))];
  const run = await client.attach(runId);
  take = (name) => void takeSignal({ name, interrupts, run, client, runId, context, left: left.resolve });
  early.forEach(take);
  releases.push(
    ...(tty ? [giveTerminal(terminal, run)] : []),
    feedStdin({ terminal, run, tty, leave: () => left.resolve('SIGINT') }),
  );
  try {
    const ending = await Promise.race([showOutput({ context, run, tty }), left.promise]);
    if (typeof ending === 'string')
      return await sayLeft({ context, runId, signal: ending, stopping: interrupts.stoppedBy !== null });
    for (const release of releases.splice(0).toReversed()) release();
    return await conclude({ context, client, outcome: ending, interrupts });
  } finally {
    for (const release of releases.toReversed()) release();
    run.close();
  }
}

async function showOutput(options: {
  readonly context: Context;
  readonly run: AttachedRun;
  readonly tty: boolean;
}): Promise<Outcome> {
  const { context, run, tty } = options;
  const { stdout, stderr } = context.terminal;
  // With --json stdout is the outcome's alone.
  const show = agentOutput({ stdout: context.json ? stderr : stdout, stderr, raw: tty });
  let first = true;
  for await (const chunk of run.output) {
    // The size that was sent with the start may have come before there was a terminal to resize.
    if (first && tty) sendSize(context.terminal, run);
    first = false;
    await show(chunk);
  }
  return await run.outcome;
}

async function conclude(options: {
  readonly context: Context;
  readonly client: Client;
  readonly outcome: Outcome;
  readonly interrupts: Interrupts;
}): Promise<number> {
  const { context, client, outcome, interrupts } = options;
  if (outcome.reason !== 'exited') await context.note(await explainEnding(outcome, client));
  // What ran in the foreground has had stdout for itself; only --json adds to it.
  if (context.json) await context.answer({ json: outcome, text: () => '' });
  if (outcome.reason !== 'stopped') return exitCodeOf(outcome);
  // An agent that had not started could not answer the signal, so the launch was ended in its place.
  const endedBy = interrupts.stoppedBy ?? (outcome.rule === RULE_SIGNAL ? interrupts.sentOn : null);
  return endedBy === null ? exitCodeOf(outcome) : signalExitCode(endedBy);
}

async function sayLeft(options: {
  readonly context: Context;
  readonly runId: string;
  readonly signal: string;
  readonly stopping: boolean;
}): Promise<number> {
  const { context, runId, signal, stopping } = options;
  await context.note(
    stopping
      ? `ringfence: left while ${runId} is being stopped; \`ringfence wait ${runId}\` tells when it is over`
      : `ringfence: left ${runId} running under its limits; \`ringfence stop ${runId}\` ends it`,
  );
  return signalExitCode(signal);
}

async function takeSignal(options: {
  readonly name: string;
  readonly interrupts: Interrupts;
  readonly run: AttachedRun;
  readonly client: Client;
  readonly runId: string;
  readonly context: Context;
  readonly left: (signal: string) => void;
}): Promise<void> {
  const { name, interrupts, run, client, runId, context, left } = options;
  interrupts.sentOn ??= name;
  if (name !== 'SIGINT' && name !== 'SIGTERM') {
    run.signal(name);
    return;
  }
  const now = performance.now();
  interrupts.count = now - interrupts.lastMs <= AGAIN_MS ? interrupts.count + 1 : 1;
  interrupts.lastMs = now;
  if (interrupts.count === 1) {
    run.signal(name);
  } else if (interrupts.count === 2) {
    interrupts.stoppedBy = name;
    await context.note(`ringfence: stopping ${runId}`);
    await client.stop(runId).catch((error: unknown) => context.note(`ringfence: ${messageOf(error)}`));
  } else left(name);
}

/** The terminal becomes the agent's: every key goes to it, Ctrl-C included. Returns how to take it back. */
function giveTerminal(terminal: Terminal, run: AttachedRun): () => void {
  const { stdin, stdout } = terminal;
  const resized = () => sendSize(terminal, run);
  stdin.setRawMode(true);
  stdout.on('resize', resized);
  resized();
  return () => {
    stdout.off('resize', resized);
    stdin.setRawMode(false);
  };
}

function sendSize({ stdout }: Terminal, run: AttachedRun): void {
  // A terminal that does not know its size says 0.
  if (isTty(stdout) && stdout.columns > 0 && stdout.rows > 0)
    run.resize({ columns: stdout.columns, rows: stdout.rows });
}

/** Our stdin to the agent's, at the pace at which it reads. Returns how to stop. */
function feedStdin(options: {
  readonly terminal: Terminal;
  readonly run: AttachedRun;
  readonly tty: boolean;
  readonly leave: () => void;
}): () => void {
  const { terminal, run, tty, leave } = options;
  const { stdin } = terminal;
  let leaveKeys = 0;
  let stopped = false;
  let writing: Promise<void> = Promise.resolve();
  const take = (bytes: Buffer): void => {
    if (tty) {
      leaveKeys = bytes.every((byte) => byte === LEAVE_BYTE) ? leaveKeys + bytes.length : 0;
      if (leaveKeys >= LEAVE_COUNT) return leave();
    }
    stdin.pause();
    // `write` never rejects: a connection that is gone answers false.
    writing = run.write(bytes).then((taken) => {
      if (taken && !stopped) stdin.resume();
    });
  };
  // A paused stream may still say that it has ended; what was read before goes first.
  const end = (): void => void writing.then(() => run.endInput());
  stdin.on('data', take);
  stdin.once('end', end);
  // A stdin that cannot be read (closed, or a terminal that hung up) is one that has ended.
  stdin.once('error', end);
  return () => {
    stopped = true;
    stdin.off('data', take);
    stdin.off('end', end);
    stdin.pause();
  };
}
