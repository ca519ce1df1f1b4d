import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { ownProgram } from '../kernel/own-program.ts';
import type { Log } from '../core/ports/log.ts';
import type { ProcessFacts, Warden, WardenReport, WatchPlan } from '../core/ports/warden.ts';
import type { LookReport, LookRequest, ProcessKey } from './command-lines-look.ts';

/**
 * What the processes of a run were called with, read ahead: when one of them breaks a bound it is dead before anybody
 * could ask, and what kills must not wait for memory that the agent can keep busy. The reading is done by a process
 * that may hang; then it is killed, the process that it hung on is never read again, and a run that does so several
 * times is read no more. Nothing waits for any of this.
 *
 *   off ──a run is watched──▶ looking ──every 250 ms, and when it was refused something──▶ looking
 *    ▲                          │ └──no answer in time──▶ killed ──a moment later──▶ looking
 *    └────── no run is left ────┘
 */
export type CommandLinesPace = {
  readonly everyMs: number;
  /** A look that takes longer hangs on a process. */
  readonly lookMsMax: number;
  /** The first look waits for the program to start as well, which takes a busy host seconds. */
  readonly firstLookMsMax: number;
  readonly restartMs: number;
};

export type CommandLinesOptions = {
  readonly log: Log;
  readonly nowIso: () => string;
  readonly pace?: CommandLinesPace;
  /** What reads. */
  readonly program?: string;
};

const PROGRAM = ownProgram('./command-lines-process', import.meta.url);
const PACE: CommandLinesPace = { everyMs: 250, lookMsMax: 1_000, firstLookMsMax: 30_000, restartMs: 1_000 };
/** What comes before a breach asks for a look out of turn, but not one after the other. */
const SOON_MS_MIN = 50;
const SOON: ReadonlySet<WardenReport['kind']> = new Set(['denied', 'asked', 'warned', 'held']);
/** Of one run: the latest. */
const KEPT_MAX = 256;
const HANGS_MAX = 3;
const RUNS_MAX = 10_000;
/** Killed and still there: each holds a process of the host, and a fault of the kernel must not make more and more of them. */
const ABANDONED_MAX = 8;

type Kept = { readonly startTicks: number; readonly argv: readonly string[]; readonly at: string };
type LookedAt = {
  readonly plan: Pick<WatchPlan, 'runId' | 'parentPaths'>;
  readonly kept: Map<number, Kept>;
  readonly hung: ProcessKey[];
};

export class CommandLines {
  private readonly runs = new Map<string, LookedAt>();
  private readonly log: Log;
  private readonly pace: CommandLinesPace;
  private readonly nowIso: () => string;
  private readonly program: string;
  private readonly timer: NodeJS.Timeout;
  private child: ChildProcess | null = null;
  private deadline: NodeJS.Timeout | null = null;
  private reading: (ProcessKey & { readonly runId: string }) | null = null;
  private restartAtMs = 0;
  private lookedAtMs = 0;
  private abandoned = 0;
  /** The reader that runs has said something. */
  private answered = false;
  private closed = false;

  constructor(options: CommandLinesOptions) {
    this.log = options.log;
    this.nowIso = options.nowIso;
    this.program = options.program ?? PROGRAM;
    this.pace = options.pace ?? PACE;
    this.timer = setInterval(() => this.look(), this.pace.everyMs).unref();
  }

  /** The same warden; what it watches is looked at from then on. */
  over<Client extends Pick<Warden, 'watch'>>(warden: Client): Client {
    return {
      ...warden,
      watch: async (plan) => {
        await warden.watch(plan);
        if (this.runs.size < RUNS_MAX) this.runs.set(plan.runId, { plan, kept: new Map(), hung: [] });
      },
    };
  }

  /** The same report, with what is known of its processes; after the last one of a run nothing is kept of it. */
  fillReport(report: WardenReport): WardenReport {
    if (report.kind === 'emptied') this.runs.delete(report.runId);
    if (SOON.has(report.kind) && performance.now() - this.lookedAtMs >= SOON_MS_MIN) this.look();
    if (report.kind !== 'breached') return report;
    return { ...report, processes: report.processes.map((process) => this.fill(report.runId, process)) };
  }

  close(): void {
    this.closed = true;
    clearInterval(this.timer);
    this.runs.clear();
    this.end();
  }

  private fill(runId: string, process: ProcessFacts): ProcessFacts {
    const run = this.runs.get(runId);
    if (run === undefined) return process;
    const { pid, startTicks } = process;
    const kept = run.kept.get(pid);
    if (kept !== undefined && kept.startTicks === startTicks) {
      return { ...process, argv: kept.argv, argvSource: { kind: 'read', at: kept.at } };
    }
    const hung = run.hung.some((each) => each.pid === pid && each.startTicks === startTicks);
    const why = hung ? WHY.hung : run.hung.length >= HANGS_MAX ? WHY.givenUp : WHY.young;
    return { ...process, argvSource: { kind: 'unread', why } };
  }

  private look(): void {
    const runs = [...this.runs.values()].filter(({ hung }) => hung.length < HANGS_MAX);
    if (runs.length === 0) {
      if (this.deadline === null) this.end();
      return;
    }
    if (this.deadline !== null || performance.now() < this.restartAtMs || this.abandoned >= ABANDONED_MAX) return;
    const child = (this.child ??= this.start());
    const request: LookRequest = {
      runs: runs.map(({ plan, hung }) => ({ runId: plan.runId, paths: plan.parentPaths, skip: hung })),
    };
    this.reading = null;
    this.lookedAtMs = performance.now();
    this.deadline = setTimeout(() => this.hang(), this.answered ? this.pace.lookMsMax : this.pace.firstLookMsMax);
    child.stdin?.write(`${JSON.stringify(request)}\n`);
  }

  private start(): ChildProcess {
    this.answered = false;
    const child = spawn(process.execPath, [this.program], { stdio: ['pipe', 'pipe', 'inherit'] });
    // Nothing here is worth keeping the daemon for.
    child.unref();
    const lost = once((detail: string) => this.lost(child, detail));
    child.once('error', (error) => lost(error.message));
    child.once('exit', (code, signal) => lost(signal ?? `code ${code}`));
    child.stdin?.on('error', () => undefined);
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      if (child === this.child) this.take(JSON.parse(line) as LookReport);
    });
    return child;
  }

  private take(report: LookReport): void {
    switch (report.kind) {
      case 'reading':
        this.reading = report;
        this.started();
        return;
      case 'read':
        this.keep(report);
        return;
      case 'looked':
        this.answered = true;
        this.settle();
        return;
      default:
        report satisfies never;
    }
  }

  /** It runs: from here on it is the processes that keep it. */
  private started(): void {
    if (this.answered || this.deadline === null) return;
    this.answered = true;
    clearTimeout(this.deadline);
    this.deadline = setTimeout(() => this.hang(), this.pace.lookMsMax);
  }

  private keep({ runId, pid, startTicks, argv }: Extract<LookReport, { kind: 'read' }>): void {
    const kept = this.runs.get(runId)?.kept;
    if (kept === undefined) return;
    kept.delete(pid);
    kept.set(pid, { startTicks, argv, at: this.nowIso() });
    const oldest = kept.keys().next().value;
    if (kept.size > KEPT_MAX && oldest !== undefined) kept.delete(oldest);
  }

  private settle(): void {
    if (this.deadline !== null) clearTimeout(this.deadline);
    this.deadline = null;
    this.reading = null;
  }

  /** Whatever the reader hangs on is never read again. */
  private hang(): void {
    const { reading } = this;
    this.settle();
    const run = reading === null ? undefined : this.runs.get(reading.runId);
    if (reading !== null) run?.hung.push({ pid: reading.pid, startTicks: reading.startTicks });
    this.log.warn({ runId: reading?.runId, pid: reading?.pid }, 'a process keeps its command line from being read');
    this.end();
    this.restartAtMs = performance.now() + this.pace.restartMs;
  }

  private end(): void {
    const { child } = this;
    if (child === null) return;
    this.child = null;
    this.abandoned += 1;
    child.kill('SIGKILL');
  }

  private lost(child: ChildProcess, detail: string): void {
    if (child !== this.child) {
      this.abandoned -= 1;
      return;
    }
    this.child = null;
    this.settle();
    if (this.closed) return;
    this.restartAtMs = performance.now() + this.pace.restartMs;
    this.log.warn({ detail }, 'the process that reads command lines ended');
  }
}

/** A program that cannot be started has an error and no end, another one only an end. */
function once(work: (detail: string) => void): (detail: string) => void {
  let done = false;
  return (detail) => {
    if (!done) work(detail);
    done = true;
  };
}

const WHY = {
  young: 'no look at the run found it in time',
  hung: 'it kept its memory busy when it was looked at',
  givenUp: 'processes of this run kept their memory busy, so none of them is read any more',
} as const;
