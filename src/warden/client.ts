import { spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { ownProgram } from '../kernel/own-program.ts';
import { assert } from '../core/assert.ts';
import { fail } from '../core/errors.ts';
import type { Usage } from '../core/outcome.ts';
import type { Warden, WardenReport, WardenRequest, WatchBounds, WatchPlan } from '../core/ports/warden.ts';
import { whenLate } from '../core/lateness.ts';
import { listenForTurning, SILENT_SECONDS_MAX, TURNING_MS } from '../core/turning.ts';
import type { WardenConfig } from './config.ts';
import { DENIED_NAMES_FD, REQUESTS_FD } from './config.ts';

/**
 * The daemon's half of the warden: starts its process, and turns its lines into calls. The process is in a session of
 * its own, because a Ctrl-C meant for the daemon must not take away what holds the agents.
 */
export type WardenClient = Warden & {
  readonly pid: number;
  /** What it found on this host; the first thing it says. */
  readonly ready: Extract<WardenReport, { kind: 'ready' }>;
  /** The daemon's end of the warden's descriptor 4: to be given to the DNS gate as its own, and kept open here. */
  readonly feedSocket: Socket;
  /** Closes the connection: the warden ends when it holds no run, and otherwise goes on without a daemon. */
  stop(): Promise<void>;
};

export type WardenOptions = WardenConfig & {
  /** The warden's loop turns, and this process had time to hear so. */
  readonly onTurning: () => void;
  /** Every other report but `ready`, in order. Must not throw. */
  readonly onReport: (report: WardenReport) => void;
  /** The process ended although `stop` was not called: nobody holds the runs now. */
  readonly onLost: (detail: string) => void;
};

const READY_MS_MAX = 10_000;
const ANSWER_MS_MAX = 5_000;
const STOP_MS_MAX = 2_000;
const LINE_BYTES_MAX = 1024 * 1024;
/**
 * Half of what the warden's heap takes for young objects. V8 gives such memory back between two turns of its own loop,
 * and the warden has one loop, which never ends: what it once took it keeps.
 */
const YOUNG_MIB_MAX = 4;

type Waiter<T> = { resolve(value: T): void; reject(error: Error): void };

export async function startWarden(options: WardenOptions): Promise<WardenClient> {
  const { onReport, onTurning, onLost, ...given } = options;
  const config: WardenConfig = { ...given, turningEveryMs: Math.min(given.turningEveryMs ?? TURNING_MS, TURNING_MS) };
  const entry = ownProgram('./process', import.meta.url);
  const child = spawn(process.execPath, [`--max-semi-space-size=${YOUNG_MIB_MAX}`, entry, JSON.stringify(config)], {
    stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'],
    detached: true,
  });
  const pipe = child.stdio[REQUESTS_FD];
  const feedSocket = child.stdio[DENIED_NAMES_FD];
  assert(pipe instanceof Socket && feedSocket instanceof Socket, 'descriptors of a child are sockets');
  feedSocket.on('error', ignoreBroken);

  const ready = Promise.withResolvers<Extract<WardenReport, { kind: 'ready' }>>();
  const ended = Promise.withResolvers<string>();
  const watching = new Map<string, Waiter<void>>();
  const changing = new Map<string, Waiter<void>>();
  const sampling = new Map<string, Waiter<Usage>[]>();
  let stopping = false;
  let gone: string | null = null;

  const lose = (detail: string): void => {
    if (gone !== null) return;
    gone = detail;
    const error = fail('METER_FAILED', { detail: `the warden is gone: ${detail}` });
    ready.reject(error);
    for (const waiter of [...watching.values(), ...changing.values()]) waiter.reject(error);
    for (const waiter of [...sampling.values()].flat()) waiter.reject(error);
    ended.resolve(detail);
    if (!stopping) onLost(detail);
  };
  const listener = listenForTurning(() => {
    if (gone !== null || stopping) return;
    process.stderr.write(`the warden stood still for ${SILENT_SECONDS_MAX} s and is ended\n`);
    child.kill('SIGKILL');
  });
  pipe.on('data', () => listener.heard());
  child.once('exit', () => listener.stop());
  child.once('exit', (code, signal) => lose(signal === null ? `it exited with code ${code}` : `it ended by ${signal}`));
  child.once('error', (error) => lose(error.message));
  pipe.on('error', ignoreBroken);
  pipe.on(
    'data',
    lineSplitter((line) => onLine(line)),
  );

  const onLine = (line: string): void => {
    const report = JSON.parse(line) as WardenReport;
    switch (report.kind) {
      case 'ready':
        return ready.resolve(report);
      case 'turning':
        return onTurning();
      case 'watching':
        return watching.get(report.runId)?.resolve();
      case 'changed':
        changing.get(report.runId)?.resolve();
        break;
      case 'sampled':
        for (const waiter of taken(sampling, report.runId)) waiter.resolve(report.usage);
        break;
      case 'refused':
        if (refuse(report)) return;
        break;
      default:
        break;
    }
    onReport(report);
  };

  /** True when somebody waited for the answer, and has it now. */
  const refuse = (report: Extract<WardenReport, { kind: 'refused' }>): boolean => {
    const { runId, request, message } = report;
    const asked = request === 'watch' ? watching.get(runId) : request === 'change' ? changing.get(runId) : undefined;
    const waiters = request === 'sample' ? taken(sampling, runId) : [asked].filter((waiter) => waiter !== undefined);
    for (const waiter of waiters) waiter.reject(fail('METER_FAILED', { detail: message, runId }));
    return asked !== undefined;
  };

  const send = (request: WardenRequest): void => {
    if (gone === null) pipe.write(`${JSON.stringify(request)}\n`);
  };

  const answer = <T>(runId: string, register: (waiter: Waiter<T>) => void, drop: () => void): Promise<T> => {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    if (gone !== null) reject(fail('METER_FAILED', { detail: `the warden is gone: ${gone}`, runId }));
    const detail = `the warden did not answer within ${ANSWER_MS_MAX} ms`;
    const late = whenLate(ANSWER_MS_MAX, () => reject(fail('METER_FAILED', { detail, runId })));
    register({ resolve, reject });
    return promise.finally(() => {
      late.cancel();
      drop();
    });
  };

  const watch = (plan: WatchPlan): Promise<void> => {
    const { runId } = plan;
    assert(!watching.has(runId), 'a run is watched once');
    const watched = answer<void>(
      runId,
      (waiter) => watching.set(runId, waiter),
      () => watching.delete(runId),
    );
    send({ kind: 'watch', watch: plan });
    return watched;
  };

  const change = (runId: string, bounds: WatchBounds): Promise<void> => {
    if (changing.has(runId)) {
      return Promise.reject(fail('METER_FAILED', { detail: 'another change of the run is under way', runId }));
    }
    const changed = answer<void>(
      runId,
      (waiter) => changing.set(runId, waiter),
      () => changing.delete(runId),
    );
    send({ kind: 'change', runId, bounds });
    return changed;
  };

  const sample = (runId: string): Promise<Usage> => {
    let own: Waiter<Usage> | null = null;
    const sampled = answer<Usage>(
      runId,
      (waiter) => {
        own = waiter;
        sampling.set(runId, [...(sampling.get(runId) ?? []), waiter]);
      },
      () => {
        const others = (sampling.get(runId) ?? []).filter((waiter) => waiter !== own);
        if (others.length === 0) sampling.delete(runId);
        else sampling.set(runId, others);
      },
    );
    send({ kind: 'sample', runId });
    return sampled;
  };

  const stop = async (): Promise<void> => {
    stopping = true;
    pipe.end();
    feedSocket.destroy();
    const timer = setTimeout(() => ended.resolve('it still holds runs'), STOP_MS_MAX);
    await ended.promise;
    clearTimeout(timer);
    pipe.destroy();
    // What still holds runs outlives the daemon on purpose.
    child.unref();
  };

  const timer = setTimeout(() => {
    ready.reject(fail('METER_FAILED', { detail: `the warden was not ready within ${READY_MS_MAX} ms` }));
    child.kill('SIGKILL');
  }, READY_MS_MAX);
  try {
    const facts = await ready.promise;
    assert(child.pid !== undefined, 'a process that spoke has a number');
    return { pid: child.pid, ready: facts, feedSocket, send, watch, change, sample, stop };
  } catch (error) {
    stopping = true;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function taken(waiters: Map<string, Waiter<Usage>[]>, runId: string): readonly Waiter<Usage>[] {
  const list = waiters.get(runId) ?? [];
  waiters.delete(runId);
  return list;
}

/** The end of the process is told by its exit; a write that fails just before says nothing more. */
function ignoreBroken(): void {}

/** Lines out of chunks, one after the other; a line without end is our own bug, and ends the process that wrote it. */
function lineSplitter(onLine: (line: string) => void): (chunk: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0);
  return (chunk) => {
    let data: Buffer = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    for (let newline = data.indexOf(10); newline !== -1; newline = data.indexOf(10)) {
      onLine(data.toString('utf8', 0, newline));
      data = data.subarray(newline + 1);
    }
    assert(data.length <= LINE_BYTES_MAX, 'a report of the warden is shorter than a megabyte');
    rest = data;
  };
}
