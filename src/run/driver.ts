import { assert, assertNever } from '../core/assert.ts';
import { fail, messageOf } from '../core/errors.ts';
import type { Outcome } from '../core/outcome.ts';
import type { Attachment, ContainerPlan } from '../core/ports/engine.ts';
import type { FenceLease } from '../core/ports/fence.ts';
import type { RecordDraft } from '../core/ports/record.ts';
import type { CgroupPaths, WardenReport } from '../core/ports/warden.ts';
import type { Spec } from '../profile/spec.ts';
import { failureOf, leafPathsOrNull, now } from './effects.ts';
import { isRequest } from './events.ts';
import type { ChangeRefusal, DeadlineName, RunEffect, RunEvent, Stamp } from './events.ts';
import type { RunPorts } from './ports.ts';
import type { Preparation, RunState } from './state.ts';
import { adjusted, grantedOnceMore, UNADJUSTED, type Adjustment } from './adjust.ts';
import { containerIdOf } from './state.ts';
import { lastBytes } from './last-bytes.ts';
import { startTime } from './start-time.ts';
import { step } from './step.ts';
import { Teardown } from './teardown.ts';

/** A run that needs more than this has gone wrong: samples and denials are dropped, anything else ends the run. */
const QUEUE_EVENTS_MAX = 1_024;
/** After a forced kill, how often and how long the emptiness of the cgroup is looked at. */
const FORCE_KILL_TRIES_MAX = 40;
const FORCE_KILL_TRY_MS = 50;
const NO_TIMES = { detectedMs: null, signalledMs: null, emptyMs: null };

/** An event without its stamp: the driver stamps what it is given. */
export type Happening = RunEvent extends infer Event
  ? Event extends RunEvent
    ? Omit<Event, keyof Stamp>
    : never
  : never;

export type DriverOptions = {
  readonly state: RunState;
  readonly incidentId: string;
  /** An earlier daemon opened the incident of this run and could not write down the end. */
  readonly incidentOpened?: boolean;
  readonly ports: RunPorts;
  /** Asked for by the caller: the terminal or pipes are attached before the first instruction. */
  readonly attach: { readonly tty: boolean; readonly stdin: boolean } | null;
};

/**
 * Owns one run: takes events one at a time, asks `step` what follows, and performs the effects. Nothing else changes
 * the state of a run. Effects that fail become events.
 */
export class Driver {
  private current: RunState;
  private readonly incidentId: string;
  private readonly incidentOpened: boolean;
  private readonly ports: RunPorts;
  private readonly attachTo: DriverOptions['attach'];
  private readonly queue: RunEvent[] = [];
  private draining = false;
  private readonly teardown = new Teardown();
  private readonly timers = new Map<DeadlineName, NodeJS.Timeout>();
  private lease: FenceLease | null = null;
  private parentPaths: CgroupPaths | null = null;
  private containerPlan: ContainerPlan | null = null;
  private fenceFindings: Promise<readonly string[]> = Promise.resolve(['they were never read back']);
  private adjustment: Adjustment = UNADJUSTED;
  private opening: Promise<void> | null = null;
  private changing: PromiseWithResolvers<void> | null = null;
  private readonly settled = Promise.withResolvers<Outcome>();
  private readonly attached = Promise.withResolvers<Attachment | null>();
  private readonly startedOrOver = Promise.withResolvers<boolean>();

  constructor(options: DriverOptions) {
    this.current = options.state;
    this.incidentId = options.incidentId;
    this.incidentOpened = options.incidentOpened === true;
    this.ports = options.ports;
    this.attachTo = options.attach;
  }

  get state(): RunState {
    return this.current;
  }

  get network(): FenceLease | null {
    return this.lease;
  }

  get cgroupPaths(): CgroupPaths | null {
    return this.parentPaths;
  }

  /** Resolves when the run is over and nothing of it is left. */
  get outcome(): Promise<Outcome> {
    return this.settled.promise;
  }

  /** The agent's terminal or pipes once the container exists; null when the run ends before that. */
  get attachment(): Promise<Attachment | null> {
    return this.attached.promise;
  }

  /** True once the engine has started the container; false when the run ends before that. */
  get started(): Promise<boolean> {
    return this.startedOrOver.promise;
  }

  /**
   * Holds the run to another profile, which the record then says. Resolves when fence and warden have taken it over;
   * rejects when nothing was changed, or when the run ended over it. One at a time.
   */
  async change(spec: Spec, draft: RecordDraft): Promise<void> {
    const { runId } = this.current;
    if (this.current.phase === 'over') throw fail('RUN_OVER', { detail: `run ${runId} is over` });
    if (this.changing !== null) throw fail('RUN_NOT_RUNNING', { detail: `run ${runId} is being changed already` });
    const changing = Promise.withResolvers<void>();
    this.changing = changing;
    this.post({ kind: 'change', spec, draft });
    await changing.promise;
  }

  post(happening: Happening): void {
    if (this.current.phase === 'over') return;
    const event = { ...happening, ...this.ports.now() } as RunEvent;
    if (this.queue.length >= QUEUE_EVENTS_MAX) {
      if (event.kind === 'sampled' || event.kind === 'denied') return;
      this.queue.length = 0;
      const detail = `more than ${QUEUE_EVENTS_MAX} events were waiting (QUEUE_OVERFLOW)`;
      this.enqueue({
        kind: 'end-requested',
        how: 'kill',
        reason: 'enforcement.lost',
        rule: 'supervisor',
        detail,
        ...this.ports.now(),
      });
    }
    this.enqueue(event);
    this.drain();
  }

  private enqueue(event: RunEvent): void {
    // Kernel and container events outrank requests: a breach that waits behind a `stop` must still be the reason.
    if (isRequest(event)) this.queue.push(event);
    else {
      const firstRequest = this.queue.findIndex(isRequest);
      if (firstRequest === -1) this.queue.push(event);
      else this.queue.splice(firstRequest, 0, event);
    }
  }

  private drain(): void {
    if (this.draining) return;
    this.draining = true;
    try {
      for (let event = this.queue.shift(); event !== undefined; event = this.queue.shift()) {
        const next = step(this.current, event, this.incidentId);
        this.current = next.state;
        for (const effect of next.effects) this.perform(effect);
      }
    } finally {
      this.draining = false;
    }
  }

  /** What the warden says of this run, as events. */
  receive(report: WardenReport): void {
    switch (report.kind) {
      case 'sampled':
        return this.post({ kind: 'sampled', usage: report.usage });
      case 'denied':
        return this.post({ kind: 'denied', denial: report.denial, suppressed: report.suppressed });
      case 'warned': {
        const { rule, measured, limit, unit, fraction } = report;
        return this.post({ kind: 'warned', rule, measured, limit, unit, fraction });
      }
      case 'breached':
        return this.post({ kind: 'breached', breach: report.breach, usage: report.usage, times: report.times });
      case 'emptied':
        return this.post({ kind: 'emptied', usage: report.usage, times: report.times, breach: report.breach });
      case 'undead':
        return this.post({ kind: 'undead', pids: report.pids });
      case 'held':
        return this.post({ kind: 'held', breach: report.breach, usage: report.usage });
      case 'resumed':
        return this.post({ kind: 'resumed' });
      case 'ready':
      case 'rules-changed':
      case 'watching':
      case 'changed':
      case 'asked':
      case 'refused':
      case 'late':
      case 'turning':
        return undefined;
      default:
        return assertNever(report);
    }
  }

  private perform(effect: RunEffect): void {
    const work = this.begin(effect);
    if (work === null) return;
    work.catch((error: unknown) =>
      this.post({ kind: 'effect-failed', effect: effect.kind, failure: failureOf(error, effect) }),
    );
  }

  private begin(effect: RunEffect): Promise<void> | null {
    const { ports } = this;
    const { runId } = this.current;
    switch (effect.kind) {
      case 'prepare':
        return this.prepare(effect.preparation);
      case 'adopt':
        return this.adopt(effect);
      case 'create-container':
        return this.createContainer();
      case 'start-container':
        return this.startContainer(effect.containerId);
      case 'read-back':
        return this.readBack(effect.containerId);
      case 'kill':
        return now(() => ports.warden.send({ kind: 'kill', runId, reason: effect.reason }));
      case 'stop':
        return now(() => ports.warden.send({ kind: 'stop', runId, reason: effect.reason, graceMs: effect.graceMs }));
      case 'force-kill':
        return this.forceKill();
      case 'inspect-exit':
        return this.inspectExit(effect.containerId);
      case 'record':
        // The ledger reports its own failure to the supervisor, which then refuses new launches; this run goes on.
        if (this.opening === null) return this.record(effect.draft);
        return this.opening.then(() => void this.record(effect.draft));
      case 'open-incident':
        if (this.incidentOpened) return null;
        // What follows it in the record follows it in time: nothing says that there is an incident before it is there.
        this.opening = ports.openIncident(this.current, this.incidentId).catch(() => undefined);
        return null;
      case 'notify-held':
        ports.notifyHeld(this.current, effect.breach);
        return null;
      case 'change-fence':
        return this.changeFence(effect);
      case 'change-watch':
        return this.changeWatch(effect.to);
      case 'slow-network':
        return this.slowNetwork();
      case 'grant-more':
        return this.grantMore(effect.rules);
      case 'answer-change':
        this.answerChange(effect.refusal);
        return null;
      case 'tear-down':
        return this.tearDown();
      case 'set-deadline':
        return this.setDeadline(effect.name, effect.afterMs);
      case 'settle':
        this.answerChange({ code: 'RUN_OVER', detail: `run ${runId} is over` });
        this.settled.resolve(effect.outcome);
        return null;
      default:
        return assertNever(effect);
    }
  }

  private record(draft: RecordDraft): null {
    this.ports.ledger.append(draft).flushed.catch(() => undefined);
    return null;
  }

  private async prepare(preparation: Preparation): Promise<void> {
    const { ports, teardown } = this;
    const { runId } = this.current;
    // Taken once, before anything that needs an address; taking it again returns the same one.
    this.lease ??= ports.fence.lease(runId);
    const { lease } = this;
    switch (preparation) {
      case 'cgroup':
        teardown.add('cgroup', () => ports.cgroups.remove(runId));
        this.parentPaths = await ports.cgroups.make(runId);
        break;
      case 'network': {
        const plan = ports.plans.network(lease);
        teardown.add('network', () => ports.engine.removeNetwork(plan.name));
        await ports.engine.createNetwork(plan);
        break;
      }
      case 'fence':
        teardown.add('fence', () => ports.fence.disarm(runId));
        await ports.fence.arm(ports.plans.grant(lease, this.current.spec));
        await this.stageTrust(lease);
        break;
      case 'shape':
        // What it puts on the bridge goes with the bridge.
        await ports.fence.shape(ports.plans.grant(lease, this.current.spec));
        break;
      case 'secrets': {
        const staged = await ports.stageSecrets();
        teardown.add('secrets', () => staged.unstage());
        break;
      }
      case 'meter':
        assert(this.parentPaths !== null, 'the cgroup is made before the meter is opened');
        teardown.add('meter', () => now(() => ports.warden.send({ kind: 'unwatch', runId })));
        await ports.warden.watch(ports.plans.watch(lease, this.parentPaths, this.current.spec));
        break;
      default:
        assertNever(preparation);
    }
    this.post({ kind: 'prepared', preparation });
  }

  /** Takes hold of everything that the daemon before made, so that it is held, measured and released like our own. */
  private async adopt({ containerId, pid, startedAtMs }: Extract<RunEffect, { kind: 'adopt' }>): Promise<void> {
    const { ports, teardown } = this;
    const { engine, fence, warden, cgroups, plans } = ports;
    const { runId, spec } = this.current;
    const lease = fence.lease(runId);
    this.lease = lease;
    teardown.add('cgroup', () => cgroups.remove(runId));
    teardown.add('network', () => engine.removeNetwork(plans.network(lease).name));
    teardown.add('fence', () => fence.disarm(runId));
    teardown.add('meter', () => now(() => warden.send({ kind: 'unwatch', runId })));
    teardown.addFirst('container', () => engine.removeContainer(containerId));
    const staged = await ports.stageSecrets();
    teardown.add('secrets', () => staged.unstage());
    this.containerPlan = plans.container(lease);
    this.parentPaths = await cgroups.make(runId);
    const grant = plans.grant(lease, spec);
    await fence.arm(grant);
    await this.stageTrust(lease);
    if (grant.bandwidthBitsPerSecond !== null) await fence.shape(grant);
    this.fenceFindings = ports.fenceFindings();
    await warden.watch(plans.watch(lease, this.parentPaths, spec));
    const leafPaths = pid === null ? null : leafPathsOrNull(() => cgroups.leafPathsOf(pid));
    if (pid !== null && leafPaths !== null) {
      cgroups.holdSockets({ parentPaths: this.parentPaths, containerId, bytesMax: spec.limits.memoryBytesMax });
      warden.send({ kind: 'started', runId, pid, leafPaths, startedAtBootMs: startedAtMs });
    }
    this.attached.resolve(null);
    this.post({ kind: 'adopted' });
    if (pid === null || leafPaths === null) await this.countShortLife(containerId);
  }

  private async stageTrust(lease: FenceLease): Promise<void> {
    const staged = await this.ports.stageTrust(lease);
    this.teardown.add('trust', () => staged.unstage());
  }

  private async createContainer(): Promise<void> {
    const { engine, plans, cgroups } = this.ports;
    assert(this.lease !== null && this.parentPaths !== null, 'address and cgroup are there before the container');
    const plan = plans.container(this.lease);
    this.containerPlan = plan;
    // By name, because the engine may have made the container although its reply was lost.
    this.teardown.addFirst('container', () => engine.removeContainer(plan.name));
    const containerId = await engine.createContainer(plan);
    cgroups.holdSockets({ parentPaths: this.parentPaths, containerId, bytesMax: plan.memoryBytesMax });
    if (this.attachTo !== null) {
      const attachment = await engine.attach(containerId, this.attachTo);
      this.teardown.addFirst('attachment', async () => {
        await lastBytes(attachment);
        attachment.close();
      });
      this.attached.resolve(attachment);
    }
    this.post({ kind: 'container-created', containerId });
  }

  private async startContainer(containerId: string): Promise<void> {
    const { engine, warden, cgroups } = this.ports;
    // Reading the rules back takes about as long as the engine takes to start, so it goes on beside it; the last thing
    // that changes them, making the network, is behind us.
    this.fenceFindings = this.ports.fenceFindings();
    const asked = this.ports.now();
    await engine.startContainer(containerId);
    this.startedOrOver.resolve(true);
    const facts = await engine.inspectContainer(containerId);
    const startedAtMs = startTime(facts.startedAt, asked, this.ports.now());
    const { pid } = facts;
    const leafPaths = pid === null ? null : leafPathsOrNull(() => cgroups.leafPathsOf(pid));
    if (pid !== null && leafPaths !== null) {
      warden.send({ kind: 'started', runId: this.current.runId, pid, leafPaths, startedAtBootMs: startedAtMs });
    }
    this.post({ kind: 'container-started', pid, startedAt: facts.startedAt ?? this.ports.now().at, startedAtMs });
    if (pid === null || leafPaths === null) await this.countShortLife(containerId);
  }

  /** The agent was over before anybody could look at its processes: the counters of its parent cgroup remain. */
  private async countShortLife(containerId: string): Promise<void> {
    const usage = await this.ports.warden.sample(this.current.runId);
    const { exitCode, oomKilledFlag } = await this.ports.engine.inspectContainer(containerId);
    // The engine may not have noticed yet. It tells when it has, and is asked once more if it does not.
    if (exitCode !== null) this.post({ kind: 'died', exitCode, oomKilledFlag });
    this.post({ kind: 'emptied', usage, times: NO_TIMES, breach: null });
  }

  private async readBack(containerId: string): Promise<void> {
    assert(this.containerPlan !== null, 'only a planned container is read back');
    const { mismatches: launched, bounds, note } = await this.ports.readBack({ containerId, plan: this.containerPlan });
    const findings = await this.fenceFindings;
    const mismatches = [
      ...launched,
      ...findings.map((got) => ({ path: 'egress', wanted: 'the base rules in force', got })),
    ];
    if (mismatches.length > 0) this.post({ kind: 'mismatched', mismatches });
    else this.post({ kind: 'verified', bounds, note });
  }

  /** The last resort: straight to the kernel, then to the engine, then an honest count of what is left. */
  private async forceKill(): Promise<void> {
    const { cgroups, engine } = this.ports;
    const containerId = containerIdOf(this.current);
    const engineKill =
      containerId === null ? null : engine.signalContainer(containerId, 'SIGKILL').catch(() => undefined);
    let pids: readonly number[] = [];
    for (let attempt = 0; attempt < FORCE_KILL_TRIES_MAX; attempt += 1) {
      // A run that could not be taken over may not know its cgroup yet: making what is there finds it.
      if (containerId !== null) this.parentPaths ??= await cgroups.make(this.current.runId).catch(() => null);
      const unseen = this.current.container.kind === 'started' ? [this.current.container.pid ?? 0] : [];
      pids = this.parentPaths === null ? unseen : await cgroups.killNow(this.parentPaths);
      if (pids.length === 0) break;
      await new Promise((resolve) => setTimeout(resolve, FORCE_KILL_TRY_MS));
    }
    await engineKill;
    if (pids.length > 0) this.post({ kind: 'undead', pids });
    else this.post({ kind: 'emptied', usage: this.current.usage, times: NO_TIMES, breach: null });
  }

  private async inspectExit(containerId: string): Promise<void> {
    const facts = await this.ports.engine.inspectContainer(containerId);
    this.post({ kind: 'died', exitCode: facts.exitCode, oomKilledFlag: facts.oomKilledFlag });
  }

  /** A wider profile that is in force and not on record would be nobody's decision, so the record is first. */
  private async changeFence({ to, draft, slowed }: Extract<RunEffect, { kind: 'change-fence' }>): Promise<void> {
    const { fence, ledger, plans } = this.ports;
    assert(this.lease !== null, 'a run that is running has an address');
    await ledger.append(draft).flushed.catch((cause: unknown) => {
      throw fail('LEDGER_UNWRITABLE', { detail: `the change could not be recorded: ${messageOf(cause)}` }, { cause });
    });
    this.adjustment = { ...UNADJUSTED, slowed };
    await fence.change(adjusted(plans.grant(this.lease, to), this.adjustment));
    this.post({ kind: 'fence-changed' });
  }

  private async slowNetwork(): Promise<void> {
    const { fence, plans } = this.ports;
    assert(this.lease !== null, 'a run that is throttled has an address');
    this.adjustment = { ...this.adjustment, slowed: true };
    await fence.shape(adjusted(plans.grant(this.lease, this.current.spec), this.adjustment));
    this.post({ kind: 'network-slowed' });
  }

  /** The kernel opens first: a run that goes on into a closed door would be paused again at once. */
  private async grantMore(rules: readonly string[]): Promise<void> {
    const { fence, plans, warden } = this.ports;
    const { runId, spec } = this.current;
    assert(this.lease !== null, 'a run that is paused has an address');
    const grant = adjusted(plans.grant(this.lease, spec), this.adjustment);
    const budgets = grantedOnceMore(grant, { spec, rules, counters: await fence.counters(runId) });
    this.adjustment = { ...this.adjustment, budgets: { ...this.adjustment.budgets, ...budgets } };
    if (Object.keys(budgets).length > 0) await fence.change({ ...grant, ...budgets });
    warden.send({ kind: 'resume', runId });
    this.post({ kind: 'more-granted' });
  }

  private async changeWatch(to: Spec): Promise<void> {
    assert(this.lease !== null && this.parentPaths !== null, 'a run that is running is watched');
    await this.ports.warden.change(this.current.runId, this.ports.plans.bounds(to));
    this.post({ kind: 'watch-changed' });
  }

  private answerChange(refusal: ChangeRefusal | null): void {
    const { changing } = this;
    this.changing = null;
    if (refusal === null) changing?.resolve();
    else changing?.reject(fail(refusal.code, { detail: refusal.detail }));
  }

  private async tearDown(): Promise<void> {
    for (const timer of this.timers.values()) clearTimeout(timer);
    this.timers.clear();
    await this.opening;
    if (this.current.startedAt !== null) await this.ports.settleTraffic();
    const failures = await this.teardown.run();
    this.attached.resolve(null);
    this.startedOrOver.resolve(false);
    this.post({ kind: 'torn-down', failures });
  }

  private setDeadline(name: DeadlineName, afterMs: number): null {
    clearTimeout(this.timers.get(name));
    this.timers.set(
      name,
      setTimeout(() => this.post({ kind: 'deadline', name }), afterMs),
    );
    return null;
  }
}
