import { fail, messageOf } from '../core/errors.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { Breach, Denial, EndTimes, Usage } from '../core/outcome.ts';
import { LAUNCH_MS_MAX } from '../core/ports/warden.ts';
import type { CgroupPaths, GpuTold, NameResolved, ProcessFacts } from '../core/ports/warden.ts';
import type { WatchBounds, WatchPlan } from '../core/ports/warden.ts';
import type { NflogPacket } from '../kernel/nflog.ts';
import { openMeter } from '../meter/meter.ts';
import type { Meter, MeterEvent } from '../meter/meter.ts';
import { killProcesses, pidsOf, processesOf } from '../meter/processes.ts';
import { IDLE_MS } from '../policy/quotas.ts';
import { foreignNetworkBreach, lostMeterBreach } from './breaches.ts';
import { openFirstProcess } from './first-process.ts';
import type { FirstProcess } from './first-process.ts';
import { createGauge, reportEveryMs, tenths } from './gauge.ts';
import type { Gauge } from './gauge.ts';
import { createJudge } from './judge.ts';
import type { Judge, JudgeTime } from './judge.ts';
import { createLadder, impossibleAction } from './ladder.ts';
import type { Ladder } from './ladder.ts';
import type { RunNote } from './note.ts';
import { createRefusals } from './refusals.ts';
import type { Refusals } from './refusals.ts';
import type { RunWorld } from './run-world.ts';
import { sharedMoment } from './shared-moment.ts';

/**
 * One run under the warden's eyes.
 *
 *   waiting ──a process──▶ alive ──breach, stop──▶ stopping ──grace over──▶ dying ──deadline──▶ undead
 *      │                     │ └──breach, kill──────────────────────────────▲  │                  │
 *      │                     └────────────── the last process ends ────────────▼──────────────────▼──▶ over
 *      └── a kill before anything ran: dying, then over at once
 *
 * An alive run may also be slow, or stand still (`ladder.ts`): it is judged all the same, so that a run that nobody
 * resumes ends at its wall time. `over` is reported once, with the last counters. Nothing may run in the cgroup afterwards: whatever appears (a
 * container that was being started while the kill came) is killed without a further report.
 */
type Phase = 'waiting' | 'alive' | 'stopping' | 'dying' | 'undead' | 'over';

/** A killed run whose cgroup is not empty after this is cut off, frozen and reported, not killed again. */
export const EMPTY_MS_MAX = 2_000;
const CHECK_EMPTY_MS = 5;
const KILL_AGAIN_MS = 50;
const HURRY_MS = 100;
const EVIDENCE = { processesMax: 8, msMax: 3 } as const;
const UNDEAD_PIDS_MAX = 64;
const SIGTERM = 15;
const SIGKILL = 9;

export class WatchedRun {
  readonly plan: WatchPlan;
  private readonly world: RunWorld;
  private readonly meter: Meter;
  private readonly gauge: Gauge;
  private readonly ladder: Ladder;
  private readonly refusals: Refusals;
  private readonly judge: Judge;
  private phase: Phase = 'waiting';
  /** While it is of interest. */
  first: FirstProcess | null = null;
  private startedAtMs: number | null = null;
  private startTold = false;
  private breach: Breach | null = null;
  private endRequested = false;
  private times: EndTimes = { detectedMs: null, signalledMs: null, emptyMs: null };
  private silenced = false;
  private hurryUntilMs = Number.NEGATIVE_INFINITY;
  private graceEndsAtMs = Number.POSITIVE_INFINITY;
  private emptyDeadlineMs = Number.POSITIVE_INFINITY;
  private killAgainAtMs = Number.POSITIVE_INFINITY;
  private reportedAtMs = Number.NEGATIVE_INFINITY;
  private reported: Usage = USAGE_NONE;
  /** When `look` wants to be called next, in milliseconds since boot. */
  dueAtMs: number;
  private leafOpen = false;

  /** Throws METER_FAILED when a counter cannot be opened, or the kernel cannot do what a budget asks for. */
  constructor(plan: WatchPlan, world: RunWorld, before: RunNote | null) {
    const { cpusOnline, egressHeldByKernel } = world;
    const { parentPaths } = plan;
    this.plan = plan;
    this.world = world;
    this.mustBePossible(plan);
    this.meter = openMeter(parentPaths);
    this.gauge = createGauge(this.meter, (at) => world.traffic(plan.address, at));
    this.ladder = createLadder({ paths: parentPaths, cpusOnline });
    this.refusals = createRefusals({ before: before?.denialsTotal ?? 0 });
    const { gauge, refusals } = this;
    this.judge = createJudge({ bounds: plan, gauge, refusals, cpusOnline, egressHeldByKernel, before });
    this.dueAtMs = world.now();
  }

  get over(): boolean {
    return this.phase === 'over';
  }

  /** Nothing of it lives: it is over, or never began. */
  get idle(): boolean {
    return this.over || (this.phase === 'waiting' && this.meter.empty());
  }

  /** Killed, or over: nothing that it still does is judged. */
  private get ended(): boolean {
    return this.phase === 'dying' || this.phase === 'undead' || this.phase === 'over';
  }

  get runId(): string {
    return this.plan.runId;
  }

  get note(): RunNote {
    return { ...this.judge.note(), denialsTotal: this.refusals.total };
  }

  get meterEvents(): readonly MeterEvent[] {
    return this.meter.events();
  }

  /** So that the descriptor is quiet until the next event. */
  rearm(event: MeterEvent): void {
    this.meter.rearm(event);
  }

  started(options: { readonly pid: number; readonly leafPaths: CgroupPaths; readonly startedAtBootMs: number }): void {
    this.startedAtMs = options.startedAtBootMs;
    this.startTold = true;
    this.gauge.openLeaf(options.leafPaths);
    this.leafOpen = true;
    this.judge.setCpuMillisMax(this.gauge.cpuMillisMax);
    this.first ??= openFirstProcess(options.pid, this.plan.parentPaths);
    this.world.descriptorsChanged();
    if (this.phase === 'waiting') this.phase = 'alive';
    // A run that was condemned while it was being started has now a process to kill.
    if (this.ended) this.signal({ strays: true });
    this.look();
  }

  /** The descriptor of the first process is readable: it has ended, and stays readable for ever. */
  processEnded(): void {
    this.closeProcess();
    this.look();
  }

  /** The kernel met the memory limit; whether it killed is in the counter some moments later. */
  memoryEvent(): void {
    this.hurryUntilMs = this.world.now() + HURRY_MS;
    this.look();
  }

  /** It was given a second way out. */
  foreignNetwork(): void {
    const now = this.refresh();
    if (this.breach === null && !this.endRequested && !this.over) this.end(foreignNetworkBreach(), now);
    else if (!this.ended) this.condemn();
  }

  /** It has a process, and with it its namespaces. */
  get populated(): boolean {
    return !this.over && !this.meter.empty();
  }

  /** By hand or by the daemon: kills whatever is there, and whatever comes later. */
  kill(): void {
    if (this.phase === 'dying' || this.phase === 'over') return;
    this.endRequested = true;
    this.condemn();
    this.look();
  }

  stop(graceMs: number): void {
    if (this.phase !== 'waiting' && this.phase !== 'alive') return;
    this.endRequested = true;
    this.askToStop(graceMs);
    this.look();
  }

  /**
   * Other bounds from now on; what they are crossed by already is a breach at once. Throws METER_FAILED, and leaves
   * everything as it was, for a run that ends or for what the kernel cannot do.
   */
  change(bounds: WatchBounds): void {
    if (this.ended) throw fail('METER_FAILED', { detail: 'the run is ending', runId: this.runId });
    this.mustBePossible(bounds);
    const { throttled } = this.judge.change(bounds, this.timeOf(this.refresh()));
    if (!throttled) this.ladder.speedUp();
    this.world.report({ kind: 'changed', runId: this.runId });
    this.look();
  }

  /** A person lets a paused run go on. Throws METER_FAILED when it is not paused. */
  resume(): void {
    if (!this.ladder.paused) throw fail('METER_FAILED', { detail: 'the run is not paused', runId: this.runId });
    this.judge.grantMore(this.timeOf(this.refresh()));
    this.ladder.thaw();
    this.world.report({ kind: 'resumed', runId: this.runId });
    this.look();
  }

  /** What the driver told of the devices that it uses. */
  gpu(told: GpuTold): void {
    this.judge.noteGpu(told, this.world.now());
    if (!this.ended) this.look('due');
  }

  sample(): void {
    if (this.phase !== 'over') this.refresh({ whole: true });
    this.reportSample();
  }

  /** A packet of the run that the fence did not let through. */
  packetRefused(packet: NflogPacket, at: string): void {
    const news = this.refusals.ofPacket(packet, { utc: at, nowMs: this.world.now() });
    if (news === null) return;
    if (news.kind === 'refused') this.denied(news.denial, 1);
    else if (!this.ended) this.world.report({ ...news, kind: 'asked', runId: this.runId });
  }

  nameResolved(resolved: NameResolved): void {
    this.refusals.nameResolved(resolved);
  }

  /** `count` refused attempts; the one given stands for all of them. */
  denied(denial: Denial, count: number): void {
    // What a silenced run still sends is refused as if its source were forged: that is our doing, not its.
    if (this.phase === 'over' || (this.ended && denial.kind === 'spoof')) return;
    if (this.phase === 'waiting') this.look();
    this.refusals.note(denial, count);
    if (this.phase === 'alive' || this.phase === 'stopping') {
      // The counters are those of the last look, so its successor must not be put off: or denials would hide a burst.
      const dueAtMs = this.dueAtMs;
      this.decide(this.world.now());
      this.dueAtMs = Math.min(this.dueAtMs, dueAtMs);
    }
    const suppressed = this.refusals.admit(this.world.now(), count);
    if (suppressed !== null) this.world.report({ kind: 'denied', runId: this.runId, denial, suppressed });
  }

  /** Reads, judges and acts. Called when due, and at once when something happened, which is then read whole. */
  look(cause: 'due' | 'event' = 'event'): void {
    const whole = cause === 'event' || this.world.now() < this.hurryUntilMs;
    const now = this.refresh({ whole });
    switch (this.phase) {
      case 'waiting':
        this.lookWaiting(now);
        return;
      case 'alive':
      case 'stopping':
        this.lookAlive(now, whole);
        return;
      case 'dying':
      case 'undead':
        this.lookDying(now);
        return;
      case 'over':
        if (!this.meter.empty()) this.signal({ strays: true });
        this.dueAtMs = now + IDLE_MS;
        return;
      default:
        this.phase satisfies never;
    }
  }

  /** The counters cannot be read any more, so the run cannot be held to anything: it ends. */
  lost(error: unknown): void {
    const now = this.world.now();
    this.dueAtMs = now + KILL_AGAIN_MS;
    if (this.phase === 'over') return;
    if (this.breach === null && !this.endRequested) {
      const message = messageOf(error);
      process.stderr.write(`warden: the meter of run ${this.runId} failed: ${message}\n`);
      this.breach = lostMeterBreach();
      this.times = { ...this.times, detectedMs: this.sinceStart(now) };
      this.condemn();
      this.reportBreach(this.breach, []);
    } else if (this.phase !== 'dying' && this.phase !== 'undead') this.condemn();
    else if (now > this.emptyDeadlineMs) this.reportUndead([]);
  }

  close(): void {
    this.meter.close();
    this.ladder.close();
    this.closeProcess();
  }

  private mustBePossible({ budgets }: WatchBounds): void {
    const detail = impossibleAction(this.plan.parentPaths, budgets);
    if (detail !== null) throw fail('METER_FAILED', { detail, runId: this.runId });
  }

  private lookWaiting(now: number): void {
    const ranAlready = this.gauge.reading.pidsPeak > 0 || this.gauge.reading.cpuMs > 0;
    if (this.gauge.reading.pids === 0 && !ranAlready) {
      this.dueAtMs = now + IDLE_MS;
      return;
    }
    // Until the daemon tells the true start, time counts from the first process that was seen.
    this.startedAtMs ??= now;
    this.phase = 'alive';
    this.lookAlive(now, true);
  }

  private lookAlive(now: number, eventful: boolean): void {
    if (!this.leafOpen && this.gauge.openOnlyLeaf(this.plan.parentPaths)) {
      this.leafOpen = true;
      this.world.descriptorsChanged();
    }
    // Zombies that nobody has collected yet still count as processes; the v2 tree calls itself empty before that, and
    // tells so by an event.
    const quiet = this.gauge.reading.pids === 0 || (eventful && this.meter.populated() === false);
    if (quiet && this.meter.empty()) {
      this.finish();
      return;
    }
    this.decide(now);
    if (this.phase === 'stopping' && now >= this.graceEndsAtMs) this.condemn();
    if (now - this.reportedAtMs >= reportEveryMs(this.reported, this.gauge.usage)) this.reportSample();
  }

  private lookDying(now: number): void {
    // The number of processes of v1 counts zombies that an engine has not collected; the list does not.
    if (this.meter.empty()) {
      this.finish();
      return;
    }
    if (this.phase === 'undead') {
      this.dueAtMs = now + IDLE_MS;
      return;
    }
    this.dueAtMs = now + CHECK_EMPTY_MS;
    if (now >= this.emptyDeadlineMs) this.reportUndead(pidsOf(this.plan.parentPaths).slice(0, UNDEAD_PIDS_MAX));
    else if (now >= this.killAgainAtMs) {
      // A process that was being put into the cgroup when the signal came was missed by it.
      this.killAgainAtMs = now + KILL_AGAIN_MS;
      this.signal({ strays: true });
    }
  }

  /** Judges what is known now and acts on it. Sets when to look next. */
  private decide(now: number): void {
    const judgement = this.judge.judge(this.timeOf(now));
    this.dueAtMs = Math.min(sharedMoment(now, judgement.nextSampleMs), this.graceEndsAtMs);
    if (now < this.hurryUntilMs) this.dueAtMs = Math.min(this.dueAtMs, now + CHECK_EMPTY_MS);
    for (const warning of judgement.warnings) this.world.report({ kind: 'warned', runId: this.runId, ...warning });
    for (const breach of judgement.holds) this.hold(breach, now);
    if (this.phase === 'alive') this.ladder.keep();
    if (this.phase === 'alive' && this.ladder.pending) this.settleHolds(now);
    const { breach } = judgement;
    if (breach !== null && this.breach === null) this.end(breach, now);
    else if (judgement.escalate || (breach?.action === 'kill' && this.phase === 'stopping')) this.condemn();
    for (const cause of judgement.also) this.reportBreach(cause, []);
  }

  /** A run that is asked to end must be able to. */
  private hold(breach: Breach, nowMs: number): void {
    if (this.phase === 'alive') this.ladder.take(breach, { nowMs, cpuMillisMax: this.gauge.cpuMillisMax });
  }

  private settleHolds(now: number): void {
    for (const { breach, held } of this.ladder.settle(now)) {
      if (held) this.world.report({ kind: 'held', runId: this.runId, breach, usage: this.usageNow() });
      else if (this.breach === null) this.end({ ...breach, action: 'kill' }, now);
    }
    if (this.ladder.pending) this.dueAtMs = Math.min(this.dueAtMs, now + CHECK_EMPTY_MS);
  }

  private timeOf(nowMs: number): JudgeTime {
    const lostAtMs = this.world.daemonLostAtMs();
    // The runtime is in the cgroup before the agent is, on a busy host for seconds, and that time is not the agent's: until
    // the true start is told, a wall budget leaves room for a launch.
    return {
      nowMs,
      wallMs: Math.max(0, (this.sinceStart(nowMs) ?? 0) - (this.startTold ? 0 : LAUNCH_MS_MAX)),
      daemonLostForMs: lostAtMs === null ? null : nowMs - lostAtMs,
    };
  }

  /** First the network, then the evidence that dies with the processes (bounded), then the signal, then the report. */
  private end(breach: Breach, now: number): void {
    this.breach = breach;
    this.times = { ...this.times, detectedMs: this.sinceStart(now) };
    if (this.phase === 'over') {
      this.reportBreach(breach, []);
      return;
    }
    if (breach.action !== 'stop') this.silence();
    const processes = processesOf(this.plan.parentPaths, EVIDENCE);
    if (breach.action === 'stop') this.askToStop(this.judge.bounds.graceMs);
    else this.condemn();
    this.reportBreach(breach, processes);
  }

  private askToStop(graceMs: number): void {
    if (this.first === null) {
      // Without a first process to ask there is nobody who could end the others in order.
      this.condemn();
      return;
    }
    const now = this.world.now();
    this.phase = 'stopping';
    this.graceEndsAtMs = now + graceMs;
    this.dueAtMs = Math.min(this.dueAtMs, this.graceEndsAtMs);
    this.first.signal(SIGTERM);
    // A process that stands still cannot end in order.
    this.ladder.thaw();
    this.times = { ...this.times, signalledMs: this.times.signalledMs ?? this.sinceStart(this.world.now()) };
  }

  private condemn(): void {
    this.phase = 'dying';
    this.graceEndsAtMs = Number.POSITIVE_INFINITY;
    this.silence();
    this.signal({ strays: this.meter.populated() !== true });
    const now = this.world.now();
    this.times = { ...this.times, signalledMs: this.times.signalledMs ?? this.sinceStart(now) };
    this.emptyDeadlineMs = now + EMPTY_MS_MAX;
    this.killAgainAtMs = now + KILL_AGAIN_MS;
    this.dueAtMs = now + CHECK_EMPTY_MS;
  }

  private silence(): void {
    if (this.silenced) return;
    this.silenced = true;
    this.world.silence(this.plan);
  }

  /**
   * SIGKILL by every way there is; each alone would do, and none waits. `strays`: also one by one, because an engine may
   * have put the container beside the v2 tree of a hybrid host, and a host may have no `cgroup.kill`.
   */
  private signal(options: { readonly strays: boolean }): void {
    const all = this.meter.killAll();
    this.first?.signal(SIGKILL);
    if (!all || options.strays) killProcesses(this.plan.parentPaths);
    this.meter.letDie();
    this.ladder.thaw();
  }

  private finish(): void {
    const now = this.refresh({ last: true });
    this.phase = 'over';
    this.dueAtMs = now + IDLE_MS;
    this.times = { ...this.times, emptyMs: this.sinceStart(now) };
    // A burst between two looks, or a life shorter than the first of them, is used up all the same.
    if (this.breach === null && !this.endRequested) this.decide(now);
    this.dueAtMs = now + IDLE_MS;
    this.closeProcess();
    const { runId, times, breach } = this;
    this.world.report({ kind: 'emptied', runId, usage: this.gauge.usage, times, breach });
  }

  /** The descriptor of a process that has ended stays readable for ever, so it must leave the poll set. */
  private closeProcess(): void {
    if (this.first === null) return;
    this.first.close();
    this.first = null;
    this.world.descriptorsChanged();
  }

  /** The use of a run that is over stands: what appears in its cgroup later is not its. */
  private refresh(how: { readonly whole?: boolean; readonly last?: boolean } = {}): number {
    const nowMs = this.world.now();
    const denials = this.refusals.total;
    if (this.phase !== 'over') this.gauge.refresh({ ...how, nowMs, denials, wallMs: this.sinceStart(nowMs) ?? 0 });
    return nowMs;
  }

  private reportBreach(breach: Breach, processes: readonly ProcessFacts[]): void {
    const { runId, times } = this;
    this.world.report({ kind: 'breached', runId, breach, usage: this.usageNow(), times, processes });
  }

  private reportSample(): void {
    this.reportedAtMs = this.world.now();
    this.reported = this.usageNow();
    this.world.report({ kind: 'sampled', runId: this.runId, usage: this.reported });
  }

  private reportUndead(pids: readonly number[]): void {
    if (this.phase === 'undead') return;
    this.phase = 'undead';
    this.dueAtMs = this.world.now() + IDLE_MS;
    this.meter.freeze();
    this.world.report({ kind: 'undead', runId: this.runId, pids });
  }

  private usageNow(): Usage {
    return { ...this.gauge.usage, denials: this.refusals.total };
  }

  private sinceStart(now: number): number | null {
    return this.startedAtMs === null ? null : tenths(Math.max(0, now - this.startedAtMs));
  }
}
