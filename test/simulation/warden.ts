import { fail } from '../../src/core/errors.ts';
import type { Breach, EndTimes, Usage } from '../../src/core/outcome.ts';
import { USAGE_NONE } from '../../src/core/outcome.ts';
import type { Warden, WardenReport, WardenRequest, WatchBounds, WatchPlan } from '../../src/core/ports/warden.ts';
import type { Host } from './host.ts';

const ANSWER_MS_MAX = 5_000;
const ENGINE_ANSWER_MS_MAX = 21_000;
const KILL_AGAIN_MS = 50;
const UNDEAD_MS = 2_000;
const REPORT_MS_MAX = 4;
const LASTING: readonly WardenReport['kind'][] = ['breached', 'emptied', 'undead', 'held'];

type Watch = {
  readonly plan: WatchPlan;
  bounds: WatchBounds;
  phase: 'waiting' | 'alive' | 'dying' | 'undead' | 'over';
  startedAtMs: number | null;
  breach: Breach | null;
  times: EndTimes;
  denials: number;
};

/** The daemon at the other end of the pipe. */
export type Listener = {
  readonly alive: boolean;
  receive(report: WardenReport): void;
  lost(detail: string): void;
};

/** The warden as its daemon and its runs see it: it measures, silences, kills, tells; it stalls and dies on command. */
export class SimulatedWarden implements Warden {
  private readonly host: Host;
  private readonly listener: Listener;
  private readonly watches = new Map<string, Watch>();
  private readonly waiting = new Set<{ readonly reject: (reason: unknown) => void }>();
  private alive = true;
  private stalledUntilMs = 0;
  private saidUntilMs = 0;

  constructor(host: Host, listener: Listener) {
    this.host = host;
    this.listener = listener;
    host.wardens.push(this);
  }

  stall(ms: number): void {
    this.stalledUntilMs = Math.max(this.stalledUntilMs, this.host.agenda.nowMs + ms);
  }

  /** It dies; its daemon hears so. */
  die(): void {
    if (!this.alive) return;
    this.vanish();
    const error = fail('METER_FAILED', { detail: 'the warden is gone' });
    this.host.agenda.after(1, () => {
      if (!this.listener.alive) return;
      for (const { reject } of this.waiting) reject(error);
      this.listener.lost('it ended by SIGKILL');
    });
  }

  vanish(): void {
    this.alive = false;
  }

  watch(plan: WatchPlan): Promise<void> {
    return this.ask(() => {
      const watch: Watch = {
        plan,
        bounds: plan,
        phase: 'waiting',
        startedAtMs: null,
        breach: null,
        times: NO_TIMES,
        denials: 0,
      };
      this.watches.set(plan.runId, watch);
      this.host.holders.set(plan.runId, this);
    });
  }

  change(runId: string, bounds: WatchBounds): Promise<void> {
    return this.ask(() => {
      const watch = this.watches.get(runId);
      if (watch === undefined || watch.phase === 'dying' || watch.phase === 'over')
        throw fail('METER_FAILED', { detail: 'the run is ending', runId });
      watch.bounds = bounds;
    });
  }

  sample(runId: string): Promise<Usage> {
    return this.ask(() => {
      const watch = this.watches.get(runId);
      if (watch === undefined) throw fail('METER_FAILED', { detail: 'no such run', runId });
      return this.usageOf(watch);
    });
  }

  send(request: WardenRequest): void {
    this.soon(() => this.take(request));
  }

  private take(request: WardenRequest): void {
    const watch = 'runId' in request ? this.watches.get(request.runId) : undefined;
    if (watch === undefined) return;
    switch (request.kind) {
      case 'started':
        this.started(watch, request.startedAtBootMs);
        break;
      case 'kill':
        this.condemn(watch);
        break;
      case 'stop':
        this.askToStop(watch, request.graceMs);
        break;
      case 'resume':
        this.report({ kind: 'resumed', runId: request.runId });
        break;
      case 'unwatch':
        this.watches.delete(request.runId);
        if (this.host.holders.get(request.runId) === this) this.host.holders.delete(request.runId);
        break;
      default:
    }
  }

  private started(watch: Watch, startedAtBootMs: number): void {
    const { host } = this;
    const { runId } = watch.plan;
    const began = host.run(runId).startedAtMs ?? host.agenda.nowMs;
    watch.startedAtMs = host.agenda.nowMs - (host.bootTimeMs - startedAtBootMs);
    // The wall clock of a run begins once, whoever watches it; the engine's answer to the start may come late.
    if (watch.startedAtMs > began + ENGINE_ANSWER_MS_MAX || watch.startedAtMs < began - 120_000)
      host.fault(`${runId} started at ${began} and is measured from ${watch.startedAtMs}`);
    if (watch.phase === 'waiting') watch.phase = 'alive';
    if (watch.phase !== 'alive') {
      this.killAgain(watch, host.agenda.nowMs + UNDEAD_MS);
      return;
    }
    if (!host.isAlive(runId)) this.onEmpty(runId);
    const wall = watch.bounds.budgets.find(({ budget }) => budget === 'wall');
    if (wall === undefined || !('limitMs' in wall)) return;
    host.agenda.at(watch.startedAtMs + wall.limitMs, () => {
      const breach = {
        reason: 'budget.wall',
        rule: 'budget.wall',
        measured: wall.limitMs,
        limit: wall.limitMs,
      } as const;
      this.breach(runId, { ...breach, unit: 'ms', action: wall.action, denial: null });
    });
  }

  /** The run has crossed something. Silence, kill, and only then tell. */
  breach(runId: string, breach: Breach): void {
    this.soon(() => {
      const { host } = this;
      const watch = this.watches.get(runId);
      if (watch?.phase !== 'alive' || host.holders.get(runId) !== this || !host.isAlive(runId)) return;
      host.fence.silence(runId);
      watch.breach = breach;
      host.run(runId).breachedBy ??= breach.rule;
      const sinceStart = host.agenda.nowMs - (watch.startedAtMs ?? 0);
      watch.times = { detectedMs: sinceStart, signalledMs: sinceStart, emptyMs: null };
      const usage = this.usageOf(watch);
      const { times } = watch;
      if (breach.action === 'stop') this.askToStop(watch, watch.bounds.graceMs);
      else this.condemn(watch);
      this.report({ kind: 'breached', runId, breach, usage, times, processes: [] });
    });
  }

  deny(runId: string, times: number): void {
    this.soon(() => {
      const watch = this.watches.get(runId);
      if (watch?.phase !== 'alive') return;
      watch.denials += times;
      const denial = {
        kind: 'packet',
        at: new Date(this.host.agenda.nowMs).toISOString(),
        destination: '203.0.113.9',
        port: 22,
        protocol: 'tcp',
        rule: 'egress',
        explanation: '203.0.113.9 is not in egress.allow',
      } as const;
      this.report({ kind: 'denied', runId, denial, suppressed: times - 1 });
    });
  }

  hold(runId: string, breach: Breach): void {
    this.soon(() => {
      const watch = this.watches.get(runId);
      if (watch?.phase === 'alive') this.report({ kind: 'held', runId, breach, usage: this.usageOf(watch) });
    });
  }

  onEmpty(runId: string): void {
    this.soon(() => {
      const watch = this.watches.get(runId);
      // Before anything was started there is nothing to be told of, and it is told once.
      if (watch === undefined || watch.phase === 'waiting' || watch.phase === 'over') return;
      this.over(watch);
    });
  }

  private over(watch: Watch): void {
    watch.phase = 'over';
    const emptyMs = this.host.agenda.nowMs - (watch.startedAtMs ?? this.host.agenda.nowMs);
    const times = { ...watch.times, emptyMs };
    this.report({ kind: 'emptied', runId: watch.plan.runId, usage: this.usageOf(watch), times, breach: watch.breach });
  }

  private condemn(watch: Watch): void {
    const { host } = this;
    const { runId } = watch.plan;
    if (watch.phase === 'dying' || watch.phase === 'over') return;
    watch.phase = 'dying';
    host.fence.silence(runId);
    if (host.isAlive(runId)) this.killAgain(watch, host.agenda.nowMs + UNDEAD_MS);
    else this.over(watch);
  }

  private killAgain(watch: Watch, untilMs: number): void {
    const { host } = this;
    const { runId } = watch.plan;
    const run = host.run(runId);
    if (!this.alive || host.sigkill(run)) return;
    if (host.agenda.nowMs < untilMs) {
      host.agenda.after(KILL_AGAIN_MS, () => this.killAgain(watch, untilMs));
      return;
    }
    watch.phase = 'undead';
    this.report({ kind: 'undead', runId, pids: [run.pid ?? 1] });
  }

  private askToStop(watch: Watch, graceMs: number): void {
    const { host } = this;
    const run = host.run(watch.plan.runId);
    if (!host.isAlive(run.runId)) {
      this.condemn(watch);
      return;
    }
    if (!run.stubborn) host.agenda.after(host.random.below(20), () => host.end(run, 143));
    host.agenda.after(graceMs, () => this.soon(() => this.condemn(watch)));
  }

  private usageOf({ plan, denials }: Watch): Usage {
    const run = this.host.run(plan.runId);
    const wallMs = run.startedAtMs === null ? 0 : (run.goneAtMs ?? this.host.agenda.nowMs) - run.startedAtMs;
    return { ...USAGE_NONE, wallMs, cpuMs: this.host.cpuMs(run), denials };
  }

  /** Work of the loop: when it turns again. Nothing after its death. */
  private soon(work: () => void): void {
    const { agenda, random } = this.host;
    agenda.at(Math.max(agenda.nowMs + random.below(3), this.stalledUntilMs), () => {
      if (this.alive) work();
    });
  }

  /** Reports arrive in order. What is on its way when the daemon dies is lost with it. */
  private report(report: WardenReport): void {
    const { agenda, random } = this.host;
    if (!this.listener.alive) {
      if (LASTING.includes(report.kind)) this.host.afterlife.push(report);
      return;
    }
    this.saidUntilMs = Math.max(this.saidUntilMs, agenda.nowMs + random.below(REPORT_MS_MAX));
    agenda.at(this.saidUntilMs, () => {
      if (this.listener.alive) this.listener.receive(report);
    });
  }

  private ask<T>(work: () => T): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    if (!this.alive) return Promise.reject(fail('METER_FAILED', { detail: 'the warden is gone' }));
    const waiter = { reject };
    this.waiting.add(waiter);
    const answer = (settleIt: () => void): void => {
      this.waiting.delete(waiter);
      if (this.listener.alive) settleIt();
    };
    this.soon(() => {
      try {
        const value = work();
        answer(() => resolve(value));
      } catch (error) {
        answer(() => reject(error));
      }
    });
    this.host.agenda.after(ANSWER_MS_MAX, () =>
      answer(() => reject(fail('METER_FAILED', { detail: `no answer within ${ANSWER_MS_MAX} ms` }))),
    );
    return promise;
  }
}

const NO_TIMES: EndTimes = { detectedMs: null, signalledMs: null, emptyMs: null };
