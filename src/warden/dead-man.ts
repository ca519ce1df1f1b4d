import { spawn, type ChildProcess } from 'node:child_process';
import { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { ownProgram } from '../kernel/own-program.ts';
import { assert } from '../core/assert.ts';
import { fail, messageOf } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import type { CgroupPaths, Warden, WardenRequest, WatchBounds, WatchPlan } from '../core/ports/warden.ts';

/** What the dead-man is told, one JSON value a line; a `guard` is answered by the run id on a line. */
export type DeadManRequest =
  | {
      readonly kind: 'guard';
      readonly runId: string;
      readonly parentPaths: CgroupPaths;
      readonly afterMs: number;
    }
  | { readonly kind: 'release'; readonly runId: string };

export const DEAD_MAN_FD = 3;
const ANSWER_MS_MAX = 10_000;
const START_AGAIN_MS = 1_000;
/** It keeps a map of a few runs. */
const HEAP_MIB_MAX = 32;

export type DeadManOptions = {
  /** The warden's, where it says who holds which run. */
  readonly directory: string;
  readonly wardenPid: number;
  readonly log: Log;
};

/**
 * The daemon's half of the dead-man, which ends runs with `supervisor.lost: kill` when daemon and warden are both gone.
 * Its process is started with the first such run, in a session of its own, and again when it dies. Such a run is watched
 * only after the dead-man has said that it guards it.
 */
export class DeadMan {
  private readonly options: DeadManOptions;
  private readonly plans = new Map<string, WatchPlan>();
  private readonly waiting = new Map<string, PromiseWithResolvers<void>>();
  private child: { readonly process: ChildProcess; readonly pipe: Socket } | null = null;
  private closed = false;

  constructor(options: DeadManOptions) {
    this.options = options;
  }

  /** Null until the first run that needs it. */
  get pid(): number | null {
    return this.child?.process.pid ?? null;
  }

  /** The same warden; what it watches is guarded first where the profile asks for it. */
  over<Client extends Warden>(warden: Client): Client {
    return {
      ...warden,
      watch: async (plan) => {
        await this.guard(plan);
        await warden.watch(plan);
      },
      change: async (runId, bounds) => {
        await this.change(runId, bounds);
        await warden.change(runId, bounds);
      },
      send: (request: WardenRequest) => {
        warden.send(request);
        if (request.kind === 'unwatch') this.release(request.runId);
      },
    };
  }

  /** It lives on when it guards a run and the daemon goes: that is what it is there for. */
  close(): void {
    this.closed = true;
    this.child?.pipe.destroy();
    this.child?.process.unref();
    this.child = null;
  }

  private async guard(plan: WatchPlan): Promise<void> {
    const { runId, parentPaths, killWithoutDaemonAfterMs: afterMs } = plan;
    this.plans.set(runId, plan);
    if (afterMs === null) return;
    const answered = this.waiting.get(runId) ?? Promise.withResolvers<void>();
    this.waiting.set(runId, answered);
    const late = setTimeout(
      () => answered.reject(fail('METER_FAILED', { detail: 'the dead-man does not answer', runId })),
      ANSWER_MS_MAX,
    );
    try {
      this.tell({ kind: 'guard', runId, parentPaths, afterMs });
      await answered.promise;
    } finally {
      clearTimeout(late);
      this.waiting.delete(runId);
    }
  }

  private async change(runId: string, bounds: WatchBounds): Promise<void> {
    const plan = this.plans.get(runId);
    if (plan === undefined || plan.killWithoutDaemonAfterMs === bounds.killWithoutDaemonAfterMs) return;
    if (bounds.killWithoutDaemonAfterMs === null) this.tell({ kind: 'release', runId });
    await this.guard({ ...plan, ...bounds });
  }

  private release(runId: string): void {
    const plan = this.plans.get(runId);
    this.plans.delete(runId);
    const guarded = plan !== undefined && plan.killWithoutDaemonAfterMs !== null;
    if (guarded && this.child !== null) this.tell({ kind: 'release', runId });
  }

  private tell(request: DeadManRequest): void {
    this.child ??= this.start();
    this.child.pipe.write(`${JSON.stringify(request)}\n`);
  }

  private start(): { readonly process: ChildProcess; readonly pipe: Socket } {
    const entry = ownProgram('./dead-man-process', import.meta.url);
    const { directory, wardenPid } = this.options;
    const child = spawn(
      process.execPath,
      [`--max-old-space-size=${HEAP_MIB_MAX}`, entry, directory, String(wardenPid)],
      // A Ctrl-C for the daemon is not for it.
      { stdio: ['ignore', 'ignore', 'inherit', 'pipe'], detached: true },
    );
    const pipe = child.stdio[DEAD_MAN_FD];
    assert(pipe instanceof Socket, 'a descriptor of a child is a socket');
    pipe.on('error', () => undefined);
    createInterface({ input: pipe })
      .on('line', (runId) => this.waiting.get(runId)?.resolve())
      .on('error', () => undefined);
    child.once('error', (error) => this.lost(messageOf(error)));
    child.once('exit', (code, signal) => this.lost(signal ?? `code ${code}`));
    return { process: child, pipe };
  }

  private lost(detail: string): void {
    if (this.closed) return;
    this.child = null;
    const guarded = [...this.plans.values()].filter((plan) => plan.killWithoutDaemonAfterMs !== null);
    this.options.log.error({ detail, runs: guarded.length }, 'the dead-man ended and is started again');
    // Not in a hurry, where it cannot be started at all.
    void delay(START_AGAIN_MS, undefined, { ref: false }).then(async () => {
      if (this.closed) return;
      for (const plan of guarded) {
        if (this.plans.has(plan.runId)) await this.guard(plan).catch(() => undefined);
      }
    });
  }
}
