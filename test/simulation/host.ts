import { fail } from '../../src/core/errors.ts';
import type { EngineEvent } from '../../src/core/ports/engine.ts';
import type { CgroupPaths, WardenReport } from '../../src/core/ports/warden.ts';
import { createFakeEngine, type FakeEngine } from '../../src/engine/fake.ts';
import { LABEL_RUN } from '../../src/run/plan.ts';
import type { RunCgroups } from '../../src/run/ports.ts';
import type { Agenda } from './agenda.ts';
import { FenceKernel } from './fence-kernel.ts';
import type { Disk } from './memory-ledger.ts';
import type { Random } from './random.ts';
import type { SimulatedWarden } from './warden.ts';

/** The container and the processes of one run, as the kernel has them; they outlive every daemon. */
export type HostRun = {
  readonly runId: string;
  cgroup: boolean;
  pid: number | null;
  startedAtMs: number | null;
  /** When its processes were gone. */
  goneAtMs: number | null;
  /** Ends the agent with this exit code; null when nothing of it lives. */
  finish: ((exitCode: number) => void) | null;
  /** So many SIGKILLs it takes. */
  killsNeeded: number;
  /** SIGTERM does nothing to it. */
  stubborn: boolean;
  cpuMsFinal: number;
  /** What a warden acted on; the first. */
  breachedBy: string | null;
};

/** A tenth of the faults that the plan of a seed allows for. */
export type FaultPlan = {
  readonly callFails: number;
  readonly replyLost: number;
  readonly fenceFails: number;
  readonly eventLost: number;
  readonly eventDoubled: number;
  readonly slow: number;
};

export const NO_FAULTS: FaultPlan = {
  callFails: 0,
  replyLost: 0,
  fenceFails: 0,
  eventLost: 0,
  eventDoubled: 0,
  slow: 0,
};

const RUN_PATH = /^\/simulated\/(r[0-9a-z]{12})$/;
/** A process that more SIGKILLs than this do not end sleeps in the kernel. */
export const UNKILLABLE_MIN = 100;
const CPU_SHARE = 0.5;

/** Everything that is not the daemon: engine, kernel, disk, and the wardens that outlive their daemon. */
export class Host {
  readonly agenda: Agenda;
  readonly random: Random;
  readonly fake: FakeEngine = createFakeEngine();
  readonly fence = new FenceKernel();
  readonly disk: Disk = { records: [] };
  readonly runs = new Map<string, HostRun>();
  readonly secrets = new Set<string>();
  readonly trust = new Set<string>();
  /** Reports that no daemon heard; the next one takes them. */
  afterlife: WardenReport[] = [];
  readonly wardens: SimulatedWarden[] = [];
  readonly holders = new Map<string, SimulatedWarden>();
  /** Alerts that are queued on disk, `sink id`. */
  readonly alerts = new Map<string, number>();
  readonly violations: string[] = [];
  faults: FaultPlan = NO_FAULTS;
  /** The engine answers nothing before this. */
  engineHangsUntilMs = 0;
  /** A release that a fault made fail leaves something for the next start. */
  releaseFailed = false;
  onEngineEvent: (event: EngineEvent) => void = () => undefined;
  rebootedAtMs = -1;
  bootMs = 0;
  private readonly unclaimed: ((exitCode: number) => void)[] = [];
  private readonly containerRuns = new Map<string, string>();

  constructor(agenda: Agenda, random: Random) {
    this.agenda = agenda;
    this.random = random;
    this.fake.addImage('simulated:local');
    this.fake.addProgram('agent', () => {
      const ended = Promise.withResolvers<number>();
      this.unclaimed.push(ended.resolve);
      return ended.promise;
    });
    void this.follow();
  }

  private async follow(): Promise<void> {
    for await (const event of this.fake.engine.events(new AbortController().signal)) {
      if (event.kind === 'died') this.processesGone(event.labels[LABEL_RUN] ?? '');
      this.onEngineEvent(event);
    }
  }

  /** Milliseconds since boot. */
  get bootTimeMs(): number {
    return this.agenda.nowMs - this.bootMs;
  }

  fault(what: string): void {
    this.violations.push(`${what} (at ${this.agenda.nowMs} ms)`);
  }

  run(runId: string): HostRun {
    const known = this.runs.get(runId);
    if (known !== undefined) return known;
    const run: HostRun = {
      runId,
      cgroup: false,
      pid: null,
      startedAtMs: null,
      goneAtMs: null,
      finish: null,
      killsNeeded: this.random.chance(0.1) ? 3 : 1,
      stubborn: this.random.chance(0.3),
      cpuMsFinal: 0,
      breachedBy: null,
    };
    this.runs.set(runId, run);
    return run;
  }

  isAlive(runId: string): boolean {
    return this.runs.get(runId)?.finish !== undefined && this.runs.get(runId)?.finish !== null;
  }

  /** Alive, and not asleep in the kernel where no SIGKILL reaches it: such a run is reported and given up. */
  canBeEnded(runId: string): boolean {
    return this.isAlive(runId) && this.run(runId).killsNeeded < UNKILLABLE_MIN;
  }

  cpuMs(run: HostRun): number {
    if (run.startedAtMs === null) return 0;
    return ((run.goneAtMs ?? this.agenda.nowMs) - run.startedAtMs) * CPU_SHARE;
  }

  /** The engine has started the container: what it runs is now the run's. */
  async claimProgram(containerId: string): Promise<void> {
    const finish = this.unclaimed.pop();
    if (finish === undefined) return;
    const facts = await this.fake.engine.inspectContainer(containerId);
    const run = this.run(facts.labels[LABEL_RUN] ?? '');
    if (run.startedAtMs !== null) this.fault(`${run.runId} was started twice`);
    this.containerRuns.set(containerId, run.runId);
    Object.assign(run, { finish, pid: facts.pid, startedAtMs: this.agenda.nowMs });
  }

  runOfContainer(idOrName: string): HostRun | undefined {
    const runId = this.containerRuns.get(idOrName) ?? /-(r[0-9a-z]{12})$/.exec(idOrName)?.[1];
    return runId === undefined ? undefined : this.runs.get(runId);
  }

  /** One SIGKILL to everything of the run. True when nothing is left. */
  sigkill(run: HostRun): boolean {
    if (run.finish === null) return true;
    run.killsNeeded -= 1;
    if (run.killsNeeded > 0) return false;
    this.end(run, 137);
    return true;
  }

  end(run: HostRun, exitCode: number): void {
    const { finish } = run;
    if (finish === null) return;
    // The engine tells of it in its own time; the kernel knows at once.
    this.processesGone(run.runId);
    finish(exitCode);
  }

  private processesGone(runId: string): void {
    const run = this.runs.get(runId);
    if (run === undefined || run.finish === null) return;
    Object.assign(run, { finish: null, pid: null, goneAtMs: this.agenda.nowMs });
    run.cpuMsFinal = this.cpuMs(run);
    this.holders.get(runId)?.onEmpty(runId);
  }

  /** The machine starts again: containers and files remain, and nothing that the kernel held. */
  reboot(): void {
    for (const warden of this.wardens) warden.vanish();
    this.holders.clear();
    for (const run of this.runs.values()) {
      this.end(run, 255);
      run.cgroup = false;
    }
    this.fence.reboot();
    this.secrets.clear();
    this.trust.clear();
    this.bootMs = this.agenda.nowMs;
    this.rebootedAtMs = this.agenda.nowMs;
  }

  readonly cgroups: RunCgroups & { list(): readonly string[] } = {
    make: async (runId) => {
      this.run(runId).cgroup = true;
      return pathsOf(runId);
    },
    remove: async (runId) => {
      if (this.isAlive(runId)) throw fail('INTERNAL', { detail: `the cgroup of ${runId} is busy` });
      this.run(runId).cgroup = false;
    },
    holdSockets: () => undefined,
    leafPathsOf: (pid) => {
      const run = [...this.runs.values()].find((each) => each.pid === pid);
      if (run === undefined) throw fail('METER_FAILED', { detail: `process ${pid} is gone` });
      return pathsOf(run.runId);
    },
    killNow: async ({ cpu }) => {
      const run = this.runs.get(RUN_PATH.exec(cpu)?.[1] ?? '');
      return run === undefined || this.sigkill(run) ? [] : [run.pid ?? 1];
    },
    list: () => [...this.runs.values()].filter(({ cgroup }) => cgroup).map(({ runId }) => runId),
  };
}

function pathsOf(runId: string): CgroupPaths {
  const path = `/simulated/${runId}`;
  return { cpu: path, cpuacct: path, memory: path, pids: path, freezer: null, unified: path };
}
