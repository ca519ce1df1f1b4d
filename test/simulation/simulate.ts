import type { Breach } from '../../src/core/outcome.ts';
import type { LedgerRecord } from '../../src/core/ports/record.ts';
import type { Spec } from '../../src/profile/spec.ts';
import { Agenda, settle } from './agenda.ts';
import { CALLER, SimulatedDaemon } from './daemon.ts';
import { Host, NO_FAULTS } from './host.ts';
import { checkAppended, checkEnd, checkQuiet } from './invariants.ts';
import type { SimulatedProfile } from './profiles.ts';
import { createRandom, type Random } from './random.ts';

/**
 * One life of a host, chosen by a number: up to four launches, agents that end, breach, are stopped, changed and asked
 * about, and faults in between; then the faults stop, everything must come to its end, and a last daemon must find
 * nothing that is left.
 */
const TROUBLE_MS = 9_000;
const QUIET_MS_MAX = 300_000;
const LATEST_MS = 32_000;
const CRASHES_MAX = 3;
const UNKILLABLE = 1_000;

export type Simulated = {
  readonly seed: number;
  readonly violations: readonly string[];
  readonly runs: number;
  readonly records: number;
  readonly crashes: number;
  readonly trace: readonly string[];
};

export type SimulationWorld = {
  readonly profiles: readonly SimulatedProfile[];
  readonly specs: ReadonlyMap<string, Spec>;
};

export async function simulate(seed: number, world: SimulationWorld): Promise<Simulated> {
  const simulation = new Simulation(seed, world);
  const restore = simulation.agenda.installTimers();
  try {
    await simulation.run();
  } finally {
    restore();
  }
  return simulation.result();
}

class Simulation {
  readonly agenda = new Agenda();
  private readonly seed: number;
  private readonly world: SimulationWorld;
  private readonly random: Random;
  private readonly host: Host;
  private readonly launches: (() => Promise<void>)[] = [];
  private readonly trace: string[] = [];
  private daemon: SimulatedDaemon | null = null;
  private ready = false;
  private crashes = 0;
  private crashChance = 0;
  private troubled = true;

  constructor(seed: number, world: SimulationWorld) {
    this.seed = seed;
    this.world = world;
    this.random = createRandom(seed);
    this.host = new Host(this.agenda, this.random);
  }

  result(): Simulated {
    const { host, seed, crashes, trace } = this;
    const { records } = host.disk;
    const runs = records.filter(({ kind }) => kind === 'run.admitted').length;
    return { seed, violations: host.violations, runs, records: records.length, crashes, trace };
  }

  async run(): Promise<void> {
    const { host, agenda } = this;
    this.chooseFaults();
    this.boot();
    await this.pass(() => this.ready, QUIET_MS_MAX);
    this.choosePlot();
    await this.pass(() => false, agenda.nowMs + TROUBLE_MS);
    this.calm();
    const over = (): boolean => this.ready && this.daemon?.table.alive().length === 0 && this.daemon.launching === 0;
    if (!(await this.pass(over, agenda.nowMs + QUIET_MS_MAX))) {
      const left = this.daemon?.table.alive().map(({ driver }) => `${driver.state.runId} ${driver.state.phase}`);
      host.fault(`not everything came to an end: ${left?.join(', ') ?? 'no daemon'}`);
      return;
    }
    // The slowest call of the engine is done by then.
    await this.pass(() => false, agenda.nowMs + LATEST_MS);
    if (this.daemon !== null) await checkQuiet(host, this.daemon, this.crashes);
    this.crash({ reboot: false, again: false });
    this.boot();
    if (!(await this.pass(over, agenda.nowMs + QUIET_MS_MAX))) host.fault('the last daemon does not come to rest');
    await this.pass(() => false, agenda.nowMs + 2_000);
    await checkEnd(host);
  }

  /** Lets time pass; launches read real files, and nothing else moves meanwhile. */
  private async pass(isDone: () => boolean, untilMs: number): Promise<boolean> {
    for (;;) {
      await settle();
      const done = await this.agenda.runUntil(() => this.launches.length > 0 || isDone(), untilMs);
      const launch = this.launches.shift();
      if (launch === undefined) return done || isDone();
      await launch();
    }
  }

  private chooseFaults(): void {
    const { random } = this;
    const some = (most: number): number => (random.chance(0.5) ? random.next() * most : 0);
    this.host.faults = {
      callFails: some(0.08),
      replyLost: some(0.08),
      fenceFails: some(0.08),
      eventLost: some(0.5),
      eventDoubled: some(0.5),
      slow: random.chance(0.2) ? 0.05 : 0,
    };
    this.crashChance = random.chance(0.6) ? random.pick([0.01, 0.03, 0.1]) : 0;
  }

  private boot(): void {
    this.ready = false;
    const daemon: SimulatedDaemon = new SimulatedDaemon(this.host, {
      specs: this.world.specs,
      onAppend: (record) => this.onAppend(daemon, record),
    });
    this.daemon = daemon;
    daemon.start().then(
      () => {
        if (this.daemon === daemon) this.ready = true;
      },
      (error: unknown) => {
        this.note(`start failed: ${String(error)}`);
        // It ends, and whoever started it starts it again.
        daemon.kill();
        this.agenda.after(1_000, () => this.boot());
      },
    );
  }

  private note(what: string): void {
    this.trace.push(`${this.agenda.nowMs} ${what}`);
  }

  private onAppend(daemon: SimulatedDaemon, record: LedgerRecord): void {
    this.note(`${record.kind} ${record.runId ?? ''} ${shortOf(record)}`);
    checkAppended(this.host, record);
    if (this.troubled && daemon === this.daemon && this.random.chance(this.crashChance) && this.crashes < CRASHES_MAX)
      this.crash({ reboot: this.random.chance(0.1), again: true });
  }

  private crash({ reboot, again }: { readonly reboot: boolean; readonly again: boolean }): void {
    const { daemon } = this;
    if (daemon === null || !daemon.alive) return;
    this.note(reboot ? 'reboot' : 'crash');
    this.crashes += 1;
    this.ready = false;
    daemon.kill();
    // Whoever was in the middle of something when the machine went down is not there any more to be told.
    if (reboot) this.agenda.after(0, () => this.host.reboot());
    if (again) this.agenda.after(reboot ? 2_000 : this.random.pick([5, 100, 1_000, 8_000]), () => this.boot());
  }

  private choosePlot(): void {
    const { random, agenda } = this;
    const launches = 1 + random.below(random.chance(0.2) ? 4 : 2);
    for (let index = 0; index < launches; index += 1) {
      const profile = random.pick(this.world.profiles);
      const attach = random.chance(0.05);
      agenda.after(random.below(2_000), () => {
        const { daemon } = this;
        if (!this.ready || daemon === null) return;
        this.launches.push(() => (daemon.alive ? daemon.launch(profile, attach) : Promise.resolve()));
      });
    }
    const happenings = 2 + random.below(10);
    for (let index = 0; index < happenings; index += 1) {
      const happening = random.pick(HAPPENINGS);
      agenda.after(50 + random.below(TROUBLE_MS - 1_000), () => this.happen(happening));
    }
  }

  private happen(happening: (typeof HAPPENINGS)[number]): void {
    const { host, random, daemon, agenda } = this;
    const runs = [...host.runs.values()].filter(({ finish }) => finish !== null);
    const entries = this.ready && daemon !== null ? daemon.table.alive() : [];
    const run = runs.length === 0 ? null : random.pick(runs);
    const entry = entries.length === 0 ? null : random.pick(entries);
    this.note(`${happening} ${run?.runId ?? ''}`);
    switch (happening) {
      case 'agent-ends':
        if (run !== null) host.end(run, random.pick([0, 0, 1, 137]));
        break;
      case 'breach':
        if (run !== null) host.holders.get(run.runId)?.breach(run.runId, breachOf(random.pick(['kill', 'stop'])));
        break;
      case 'denials':
        if (run !== null) host.holders.get(run.runId)?.deny(run.runId, 1 + random.below(300));
        break;
      case 'throttle':
        if (run !== null) host.holders.get(run.runId)?.hold(run.runId, breachOf('throttle'));
        break;
      case 'unkillable':
        if (run !== null) run.killsNeeded = UNKILLABLE;
        break;
      case 'stop':
      case 'kill':
        if (entry !== null) void daemon?.supervisor[happening](entry.driver.state.runId, CALLER).catch(() => undefined);
        break;
      case 'change':
        if (entry !== null) this.change(entry);
        break;
      case 'engine-hangs':
        host.engineHangsUntilMs = agenda.nowMs + random.pick([100, 3_000, 25_000]);
        break;
      case 'warden-stalls':
        host.wardens.at(-1)?.stall(random.pick([100, 1_000, 6_000, 12_000]));
        break;
      case 'warden-dies':
        if (random.chance(0.3)) host.wardens.at(-1)?.die();
        break;
      case 'ledger-full':
        if (random.chance(0.2)) daemon?.ledger.fill();
        break;
      case 'crash':
        if (this.crashes < CRASHES_MAX) this.crash({ reboot: random.chance(0.1), again: true });
    }
  }

  /** As `reload` does it once the new text is found fit. */
  private change(entry: {
    readonly driver: SimulatedDaemon['table'] extends { get(id: string): infer E }
      ? NonNullable<E> extends { driver: infer D }
        ? D
        : never
      : never;
  }): void {
    const { driver } = entry;
    const { runId, spec: from } = driver.state;
    const profile = this.world.profiles.find(({ spec }) => spec.name === from.name);
    if (profile === undefined) return;
    const to = this.random.pick([profile, ...profile.others]);
    const draft = {
      kind: 'run.changed' as const,
      runId,
      profile: from.name,
      fromDigest: from.profileDigest,
      toDigest: to.spec.profileDigest,
      profileText: to.text,
    };
    driver.change(to.spec, draft).catch(() => undefined);
  }

  /** The trouble is over: what fails from now on is our own fault. */
  private calm(): void {
    const { host, random } = this;
    this.troubled = false;
    host.faults = NO_FAULTS;
    host.engineHangsUntilMs = 0;
    for (const run of host.runs.values()) {
      // What slept in the kernel wakes up, and finds its signal.
      if (run.killsNeeded > 1) host.end(run, 137);
      if (run.finish !== null && random.chance(0.5)) this.agenda.after(random.below(500), () => host.end(run, 0));
    }
    this.agenda.after(3_000, () => this.killAll());
  }

  private killAll(): void {
    for (const { driver } of this.daemon?.table.alive() ?? [])
      void this.daemon?.supervisor.kill(driver.state.runId, CALLER).catch(() => undefined);
    if (this.daemon === null || this.daemon.launching > 0) this.agenda.after(3_000, () => this.killAll());
  }
}

const HAPPENINGS = [
  'agent-ends',
  'agent-ends',
  'breach',
  'breach',
  'denials',
  'throttle',
  'unkillable',
  'stop',
  'kill',
  'change',
  'change',
  'engine-hangs',
  'warden-stalls',
  'warden-dies',
  'ledger-full',
  'crash',
] as const;

function breachOf(action: Breach['action']): Breach {
  return { reason: 'budget.cpu', rule: 'budget.cpu', measured: 2, limit: 1, unit: 'ms', action, denial: null };
}

function shortOf(record: LedgerRecord): string {
  const { outcome, incident } = record as { outcome?: { reason: string; detail: string }; incident?: { id: string } };
  return outcome === undefined ? (incident?.id ?? '') : `${outcome.reason}: ${outcome.detail}`;
}
