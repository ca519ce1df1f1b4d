import { assertNever } from '../core/assert.ts';
import { messageOf, RingfenceError } from '../core/errors.ts';
import { LAUNCH_MS_MAX } from '../core/ports/warden.ts';
import type { WardenReport, WardenRequest, WatchPlan } from '../core/ports/warden.ts';
import type { Ipset } from '../kernel/ipset.ts';
import { bootTimeMs, createPollSet, deviceName } from '../kernel/libc.ts';
import { POLLIN, POLLOUT, POLLPRI } from '../kernel/libc.ts';
import type { PollSetEntry } from '../kernel/libc.ts';
import type { Links } from '../kernel/links.ts';
import type { Nflog, NflogPacket } from '../kernel/nflog.ts';
import type { RuleNews } from '../kernel/rule-news.ts';
import type { MeterEvent } from '../meter/meter.ts';
import type { RunTraffic, Traffic } from '../meter/traffic.ts';
import { FEED } from './afterlife.ts';
import type { Afterlife } from './afterlife.ts';
import { createForeignLinks } from './foreign-links.ts';
import type { ForeignLinks } from './foreign-links.ts';
import { ownerOfPacket, parseGateLine } from './denials.ts';
import { createEarlyRefusals } from './early.ts';
import type { Owner } from './early.ts';
import { createLineReader } from './lines.ts';
import { createLatenessTally } from './lateness.ts';
import { createOutbox } from './outbox.ts';
import { WatchedRun } from './run.ts';
import type { RunWorld } from './run-world.ts';

/**
 * The warden's loop: one thread, one epoll(7), no promise and no timer. It wakes for a request, a refused packet, a
 * change in a run's cgroup, or the moment at which a run must be looked at again; whatever it does then is done before
 * it waits again, in an order that puts what decides before what reports.
 */
export type WardenLoop = {
  readonly requestsFd: number;
  readonly deniedNamesFd: number | null;
  readonly killRung: 'cgroup.kill' | 'pidfd';
  readonly feed: Nflog | null;
  /** Null where there is no fence that another network would lead around. */
  readonly links: Links | null;
  /** Null where there is no fence whose rules could be changed. */
  readonly ruleNews: RuleNews | null;
  readonly ipset: Ipset | null;
  readonly silenceSet: string | null;
  readonly traffic: Traffic | null;
  readonly egressHeldByKernel: boolean;
  readonly cpusOnline: number;
  readonly afterlife: Afterlife;
  readonly turningEveryMs: number | null;
};

const REQUEST_BYTES_MAX = 256 * 1024;
const DENIAL_BYTES_MAX = 8 * 1024;
const FEED_READS_MAX = 4;
const WAIT_MS_MAX = 1_000;
const AFTERLIFE_CHECK_MS = 200;
/** How long it stays, without a run, for a disk that takes nothing. */
const UNSAVED_MS_MAX = 600_000;
/** Rules are changed in bursts, and the daemon reads all of them back at each word. */
const RULES_TOLD_EVERY_MS = 100;
/** What the next daemon must hear of the time without one. */
const LASTING: readonly WardenReport['kind'][] = ['breached', 'emptied', 'undead', 'held'];
const NO_TRAFFIC: RunTraffic = { egressBytes: 0, ingressBytes: 0, connections: 0 };

/** Returns when the daemon is gone and no run is left to hold. */
export function runWardenLoop(options: WardenLoop): void {
  new Loop(options).run();
}

type Listener = { readonly entry: PollSetEntry; onReady(): void };

class Loop {
  private readonly options: WardenLoop;
  private readonly outbox;
  private readonly requests;
  private readonly deniedNames;
  private readonly world: RunWorld;
  private readonly runs = new Map<string, WatchedRun>();
  private readonly byAddress = new Map<string, WatchedRun>();
  private readonly byBridge = new Map<string, WatchedRun>();
  private readonly pollSet = createPollSet();
  private listeners: Listener[] = [];
  private pollSetStale = true;
  private pollsForRoom = false;
  private readonly abandoned = new Set<WatchedRun>();
  private readonly early = createEarlyRefusals<(run: WatchedRun) => void>(bootTimeMs());
  private readonly noted = new WeakMap<WatchedRun, string>();
  private feed: Nflog | null;
  private readonly foreignLinks: ForeignLinks | null;
  private deniedNamesOpen: boolean;
  /** Why the runs that are still watched were ended. */
  private readonly breached = new Map<string, WardenReport>();
  private daemonLostAtMs: number | null = null;
  private afterlifeCheckAtMs = 0;
  private lastRunAtMs = Number.NEGATIVE_INFINITY;
  private readonly lateness = createLatenessTally();
  private turningAtMs = 0;
  private rulesChanged = false;
  private rulesToldAtMs = 0;

  constructor(options: WardenLoop) {
    this.options = options;
    this.feed = options.feed;
    this.foreignLinks =
      options.links === null
        ? null
        : createForeignLinks({
            links: options.links,
            isOfRun: (bridge) => this.byBridge.get(bridge)?.over === false,
            isOfLivingRun: (bridge) => this.byBridge.get(bridge)?.populated === true,
            complain,
          });
    this.deniedNamesOpen = options.deniedNamesFd !== null;
    this.outbox = createOutbox(options.requestsFd);
    this.requests = createLineReader({ fd: options.requestsFd, lineBytesMax: REQUEST_BYTES_MAX });
    this.deniedNames = createLineReader({ fd: options.deniedNamesFd ?? -1, lineBytesMax: DENIAL_BYTES_MAX });
    this.world = {
      now: bootTimeMs,
      report: (report) => this.report(report),
      silence: (plan) => this.silence(plan),
      traffic: (address, at) => options.traffic?.of(address, at) ?? NO_TRAFFIC,
      descriptorsChanged: () => {
        this.pollSetStale = true;
      },
      daemonLostAtMs: () => this.daemonLostAtMs,
      cpusOnline: options.cpusOnline,
      egressHeldByKernel: options.egressHeldByKernel,
    };
  }

  run(): void {
    this.report({ kind: 'ready', killRung: this.options.killRung, feed: this.feed !== null });
    while (this.daemonLostAtMs === null || this.runs.size > 0 || this.hasToTell()) {
      this.flush();
      const dueAtMs = this.nextDueMs();
      this.refreshPollSet();
      const before = bootTimeMs();
      const planMs = Math.min(dueAtMs, before + WAIT_MS_MAX);
      const ready = this.pollSet.wait(planMs - before);
      const now = bootTimeMs();
      // Whatever kept it, before the wait or in it.
      this.noteLateness(now - planMs, now);
      // In the order of the set: another road out, requests, the feeds, then the runs, so that a refusal is counted
      // before an ending.
      for (const place of ready) this.listeners[place]?.onReady();
      for (const run of this.runs.values()) if (run.dueAtMs <= now) this.guard(run, () => run.look('due'));
      for (const run of this.abandoned) if (run.over) this.forget(run);
      if (this.daemonLostAtMs !== null) this.afterDaemon(now, now - this.daemonLostAtMs);
      this.tellRules(now);
      this.noteTurn(now);
    }
    this.feed?.close();
    this.options.ruleNews?.close();
    this.foreignLinks?.close();
    this.options.afterlife.release(FEED);
  }

  private nextDueMs(): number {
    let dueAtMs = this.daemonLostAtMs === null ? Number.POSITIVE_INFINITY : this.afterlifeCheckAtMs;
    for (const run of this.runs.values()) dueAtMs = Math.min(dueAtMs, run.dueAtMs);
    return this.rulesChanged ? Math.min(dueAtMs, this.rulesToldAtMs + RULES_TOLD_EVERY_MS) : dueAtMs;
  }

  private refreshPollSet(): void {
    if (this.outbox.waiting() !== this.pollsForRoom) this.pollSetStale = true;
    if (!this.pollSetStale) return;
    this.pollSetStale = false;
    this.pollsForRoom = this.outbox.waiting();
    const listeners: Listener[] = [];
    const listen = (fd: number, events: number, owner: object, onReady: () => void): void => {
      listeners.push({ entry: { fd, events, owner }, onReady });
    };
    const { requestsFd, deniedNamesFd, ruleNews } = this.options;
    const { foreignLinks } = this;
    if (foreignLinks !== null) listen(foreignLinks.fd, POLLIN, foreignLinks, () => foreignLinks.read(this.onForeign));
    if (this.daemonLostAtMs === null) {
      listen(requestsFd, this.pollsForRoom ? POLLIN | POLLOUT : POLLIN, this.requests, () => this.onRequests());
    }
    if (ruleNews !== null && this.daemonLostAtMs === null) {
      listen(ruleNews.fd, POLLIN, ruleNews, () => {
        // Read also while an earlier word of it waits to be told: what is not read keeps the loop turning.
        if (ruleNews.changed()) this.rulesChanged = true;
      });
    }
    if (this.feed !== null) listen(this.feed.fd, POLLIN, this.feed, () => this.onFeed());
    if (deniedNamesFd !== null && this.deniedNamesOpen)
      listen(deniedNamesFd, POLLIN, this.deniedNames, () => this.onDeniedNames());
    for (const run of this.runs.values()) {
      for (const event of run.meterEvents) {
        listen(event.fd, event.on === 'priority' ? POLLPRI : POLLIN, event, () => this.onMeterEvent(run, event));
      }
      const { first } = run;
      if (first !== null) {
        listen(first.fd, POLLIN, first, () => {
          if (run.first === first) this.guard(run, () => run.processEnded());
        });
      }
    }
    this.listeners = listeners;
    this.pollSet.fill(listeners.map(({ entry }) => entry));
  }

  private onMeterEvent(run: WatchedRun, event: MeterEvent): void {
    // An earlier descriptor of the same turn may have ended the watch, and its numbers may mean other files by now.
    if (this.runs.get(run.runId) !== run) return;
    this.guard(run, () => {
      run.rearm(event);
      if (event.about === 'memory') run.memoryEvent();
      else run.look();
    });
  }

  private onRequests(): void {
    let state: 'open' | 'ended';
    try {
      state = this.requests.read((line) => this.serve(JSON.parse(line) as WardenRequest));
    } catch (error) {
      complain('the daemon’s socket failed', error);
      state = 'ended';
    }
    if (state === 'ended') this.loseDaemon();
  }

  private serve(request: WardenRequest): void {
    if (request.kind === 'watch') {
      this.watch(request.watch);
      return;
    }
    const run = this.runs.get(request.runId);
    if (run === undefined) {
      // `unwatch` of a run that was never watched is how a failed launch cleans up; the driver lists a process for a while
      // after its run is over.
      if (request.kind === 'unwatch' || request.kind === 'gpu') return;
      this.refuse(request, `there is no watched run for ${request.kind}`);
      return;
    }
    this.guard(run, () => this.serveRun(run, request));
  }

  private serveRun(run: WatchedRun, request: Exclude<WardenRequest, { kind: 'watch' }>): void {
    switch (request.kind) {
      case 'started':
        return run.started(request);
      case 'kill':
        return run.kill();
      case 'stop':
        return run.stop(request.graceMs);
      case 'sample':
        return run.sample();
      case 'gpu':
        return run.gpu(request);
      case 'unwatch':
        return this.unwatch(run);
      case 'change':
        return this.attempt(request, () => run.change(request.bounds));
      case 'resume':
        return this.attempt(request, () => run.resume());
      default:
        return assertNever(request);
    }
  }

  /** What was refused under the old bounds is heard first, so that it is not taken for a crossing of the new ones. */
  private attempt(request: Extract<WardenRequest, { kind: 'change' | 'resume' }>, work: () => void): void {
    this.onFeed();
    try {
      work();
    } catch (error) {
      if (!(error instanceof RingfenceError) || error.code !== 'METER_FAILED') throw error;
      this.refuse(request, messageOf(error));
    }
  }

  private watch(plan: WatchPlan): void {
    const { runId } = plan;
    const refuse = (message: string): void => this.refuse({ kind: 'watch', runId }, message);
    if (this.runs.has(runId)) return refuse('the run is already watched');
    try {
      const { afterlife } = this.options;
      const run = new WatchedRun(plan, this.world, afterlife.noteOf(runId));
      this.runs.set(runId, run);
      this.byAddress.set(plan.address, run);
      this.byBridge.set(plan.bridge, run);
      afterlife.hold(runId);
      this.pollSetStale = true;
    } catch (error) {
      const run = this.runs.get(runId);
      if (run !== undefined) this.forget(run);
      return refuse(messageOf(error));
    }
    this.report({ kind: 'watching', runId });
    this.foreignLinks?.lookAgain(this.onForeign);
    const run = this.runs.get(runId);
    for (const refusal of this.early.take(plan)) if (run !== undefined) this.guard(run, () => refusal(run));
  }

  /** A run with living processes stays watched whatever the daemon says: nothing else would hold it. */
  private unwatch(run: WatchedRun): void {
    run.look();
    if (run.idle) this.forget(run);
    else {
      this.abandoned.add(run);
      this.refuse({ kind: 'unwatch', runId: run.runId }, 'processes of the run are still alive');
    }
  }

  private forget(run: WatchedRun): void {
    run.close();
    this.pollSetStale = true;
    this.runs.delete(run.runId);
    this.abandoned.delete(run);
    this.breached.delete(run.runId);
    if (this.byAddress.get(run.plan.address) === run) this.byAddress.delete(run.plan.address);
    if (this.byBridge.get(run.plan.bridge) === run) this.byBridge.delete(run.plan.bridge);
    this.options.afterlife.release(run.runId);
  }

  private readonly onForeign = (bridge: string): void => {
    const run = this.byBridge.get(bridge);
    if (run !== undefined) this.guard(run, () => run.foreignNetwork());
  };

  private onFeed(): void {
    for (let count = 0; count < FEED_READS_MAX && this.feed !== null; count += 1) {
      const packets = this.feed.read();
      if (packets.length === 0) return;
      const at = new Date().toISOString();
      for (const packet of packets) {
        const owner = ownerOf(packet);
        const run = this.runOf(owner);
        if (run !== undefined) this.guard(run, () => run.packetRefused(packet, at));
        else this.early.keep(owner, (later) => later.packetRefused(packet, at), bootTimeMs());
      }
    }
  }

  private runOf({ bridge, address }: Owner): WatchedRun | undefined {
    const byBridge = bridge === null ? undefined : this.byBridge.get(bridge);
    return byBridge ?? this.byAddress.get(address);
  }

  private onDeniedNames(): void {
    const { deniedNamesFd } = this.options;
    if (deniedNamesFd === null) return;
    let state: 'open' | 'ended';
    try {
      state = this.deniedNames.read((line) => {
        const said = parseGateLine(line);
        if (said === null) return;
        const run = this.byAddress.get(said.address);
        if (said.kind === 'resolved') {
          run?.nameResolved(said);
          return;
        }
        const refusal = (of: WatchedRun): void => of.denied(said.denial, 1 + said.suppressed);
        if (run !== undefined) this.guard(run, () => refusal(run));
        else this.early.keep({ bridge: null, address: said.address }, refusal, bootTimeMs());
      });
    } catch (error) {
      complain('the socket of the DNS gate failed', error);
      state = 'ended';
    }
    if (state === 'open') return;
    this.deniedNamesOpen = false;
    this.pollSetStale = true;
  }

  /** One run's trouble must never become another's: what it throws ends that run, and the loop goes on. */
  private guard(run: WatchedRun, work: () => void): void {
    try {
      work();
    } catch (error) {
      try {
        run.lost(error);
      } catch (second) {
        complain(`run ${run.runId} can neither be read nor ended`, second);
      }
    }
  }

  private silence(plan: WatchPlan): void {
    const { ipset, silenceSet } = this.options;
    if (ipset === null || silenceSet === null) return;
    const [network = '', prefixLength = '32'] = plan.subnet.split('/');
    try {
      const entry = { kind: 'net,iface', network, prefixLength: Number(prefixLength), device: plan.bridge } as const;
      ipset.remove(silenceSet, entry);
    } catch (error) {
      // The kill that follows ends its traffic too; an error here must not stop that.
      complain(`run ${plan.runId} could not be silenced before its kill`, error);
    }
  }

  private refuse(request: { readonly kind: WardenRequest['kind']; readonly runId: string }, message: string): void {
    this.report({ kind: 'refused', runId: request.runId, request: request.kind, message });
  }

  private report(report: WardenReport): void {
    if (report.kind === 'breached' && this.runs.has(report.runId) && !this.breached.has(report.runId))
      this.breached.set(report.runId, report);
    if (this.daemonLostAtMs === null) this.outbox.push(report);
    else this.keep(report);
  }

  private keep(report: WardenReport): void {
    if (LASTING.includes(report.kind)) this.options.afterlife.record(report, new Date().toISOString());
  }

  private flush(): void {
    if (this.daemonLostAtMs === null && this.outbox.waiting() && this.outbox.flush() === 'closed') this.loseDaemon();
  }

  private loseDaemon(): void {
    if (this.daemonLostAtMs !== null) return;
    this.daemonLostAtMs = bootTimeMs();
    this.lastRunAtMs = this.daemonLostAtMs;
    this.pollSetStale = true;
    const unsent = this.outbox.drain();
    for (const report of unsent) this.keep(report);
    // What was sent may never have been read. Of a run that was not let go, the next daemon hears it once more.
    for (const report of this.breached.values()) if (!unsent.includes(report)) this.keep(report);
    this.noteRuns();
  }

  /** For the warden of the next daemon: after each change, so that one that is ended has left what it knew. */
  private noteRuns(): void {
    for (const run of this.runs.values()) {
      const { note } = run;
      const text = JSON.stringify(note);
      if (this.noted.get(run) === text) continue;
      if (this.options.afterlife.note(run.runId, note)) this.noted.set(run, text);
    }
  }

  /** Holds what is its own until the next daemon's warden takes it, or it is over. */
  private afterDaemon(now: number, lostForMs: number): void {
    // A container whose start was on its way to the engine when the daemon died has begun by then, or never will.
    const launchesOver = lostForMs >= LAUNCH_MS_MAX;
    for (const run of this.runs.values()) if (run.over || (launchesOver && run.idle)) this.forget(run);
    if (now < this.afterlifeCheckAtMs) return;
    this.afterlifeCheckAtMs = now + AFTERLIFE_CHECK_MS;
    const { afterlife } = this.options;
    if (this.feed !== null && afterlife.takenByOther(FEED)) {
      this.feed.close();
      this.feed = null;
      this.pollSetStale = true;
    }
    this.noteRuns();
    afterlife.save();
    if (this.runs.size > 0) this.lastRunAtMs = now;
    for (const run of this.runs.values()) if (afterlife.takenByOther(run.runId)) this.forget(run);
  }

  /** What the disk did not take is worth staying for a while: nobody else knows it. */
  private hasToTell(): boolean {
    return bootTimeMs() - this.lastRunAtMs < UNSAVED_MS_MAX && !this.options.afterlife.save();
  }

  /** Who reads the rules back is the daemon; without one nobody could put them back. */
  private tellRules(now: number): void {
    if (!this.rulesChanged || now - this.rulesToldAtMs < RULES_TOLD_EVERY_MS) return;
    this.rulesChanged = false;
    this.rulesToldAtMs = now;
    this.report({ kind: 'rules-changed' });
  }

  /** The watchdog is fed from here: a turn that does not end says nothing. */
  private noteTurn(now: number): void {
    const { turningEveryMs } = this.options;
    if (turningEveryMs === null || now - this.turningAtMs < turningEveryMs) return;
    this.turningAtMs = now;
    this.report({ kind: 'turning' });
  }

  /** Woken before its time by something else it was not late for anything. */
  private noteLateness(lateMs: number, now: number): void {
    if (this.runs.size > 0 && lateMs >= 0) this.lateness.note(lateMs);
    const told = this.lateness.take(now);
    if (told !== null) this.report({ kind: 'late', ...told });
  }
}

function ownerOf(packet: NflogPacket): Owner {
  const { device, address } = ownerOfPacket(packet);
  return { bridge: device === null ? null : deviceName(device), address };
}

function complain(what: string, error: unknown): void {
  process.stderr.write(`warden: ${what}: ${messageOf(error)}\n`);
}
