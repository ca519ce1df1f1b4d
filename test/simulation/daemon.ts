import type { RunIds } from '../../src/core/ids.ts';
import { setImmediate as turn } from 'node:timers/promises';
import { fail, messageOf } from '../../src/core/errors.ts';
import type { Alert, AlertOutbox } from '../../src/core/ports/alert.ts';
import type { Log } from '../../src/core/ports/log.ts';
import type { LedgerRecord } from '../../src/core/ports/record.ts';
import type { WardenReport } from '../../src/core/ports/warden.ts';
import { adoptRuns } from '../../src/daemon/adoption.ts';
import { ApprovalDesk } from '../../src/daemon/approvals.ts';
import { EngineWatch } from '../../src/daemon/engine-watch.ts';
import { IncidentDesk } from '../../src/daemon/incident-desk.ts';
import { KnownSecrets } from '../../src/daemon/known-secrets.ts';
import { removeLeftovers } from '../../src/daemon/leftovers.ts';
import { RunTable } from '../../src/daemon/run-table.ts';
import { Supervisor, type NewRun } from '../../src/daemon/supervisor.ts';
import { TrafficDesk } from '../../src/daemon/traffic-desk.ts';
import { replayLedger, type Replay } from '../../src/ledger/replay.ts';
import type { Spec } from '../../src/profile/spec.ts';
import { budgetPlansOf } from '../../src/run/bounds.ts';
import { boundsOf } from '../../src/run/bounds.ts';
import { planContainer, planNetwork } from '../../src/run/plan.ts';
import type { RunPorts } from '../../src/run/ports.ts';
import { compareLaunch } from '../../src/run/readback.ts';
import { ENGINE_FACTS, engineOver, fenceOver, overWire, ruleTexts, type Wire } from './daemon-ports.ts';
import type { Host } from './host.ts';
import { createMemoryLedger, type MemoryLedger } from './memory-ledger.ts';
import { SimulatedWarden } from './warden.ts';

const SILENT: Log = { debug() {}, info() {}, warn() {}, error() {} };
export const CALLER = { uid: 0, gid: 0, pid: 1 };

/** One life of the daemon: put together as `daemon/compose.ts` does it, over the wire to a simulated host. */
export class SimulatedDaemon {
  alive = true;
  diedAtMs = 0;
  /** Launches that were asked for and are not answered. */
  launching = 0;
  readonly host: Host;
  readonly table = new RunTable();
  readonly ledger: MemoryLedger;
  readonly warden: SimulatedWarden;
  readonly wire: Wire;
  /** What the ledger said when it started. */
  replay: Replay | null = null;
  supervisor!: Supervisor;
  incidents!: IncidentDesk;
  onLaunchReady: () => void = () => undefined;
  private readonly specs: ReadonlyMap<string, Spec>;
  private watch: EngineWatch | null = null;

  /** `specs` by digest. `onAppend` may kill the daemon between two records. */
  constructor(
    host: Host,
    options: { readonly specs: ReadonlyMap<string, Spec>; readonly onAppend: (record: LedgerRecord) => void },
  ) {
    const isAlive = (): boolean => this.alive;
    this.host = host;
    this.specs = options.specs;
    this.wire = { host, alive: () => this.alive, diedAtMs: () => this.diedAtMs };
    const { disk, agenda, random } = host;
    this.ledger = createMemoryLedger({ disk, agenda, random, onAppend: options.onAppend });
    this.warden = new SimulatedWarden(host, {
      get alive() {
        return isAlive();
      },
      receive: (report) => this.receive(report),
      lost: (detail) => this.supervisor?.onWardenLost(detail),
    });
  }

  private receive(report: WardenReport): void {
    this.supervisor?.receive(report);
  }

  /** SIGKILL. */
  kill(): void {
    this.alive = false;
    this.diedAtMs = this.host.agenda.nowMs;
    this.ledger.crash();
    this.host.agenda.dropTimers();
    this.host.onEngineEvent = () => undefined;
  }

  async start(): Promise<void> {
    const { host, ledger, table, warden } = this;
    const replay = await replayLedger(ledger);
    this.replay = replay;
    const killed = replay.lastDaemon?.stoppedAt === null;
    const bootId = String(host.bootMs);
    const gapFrom = killed ? replay.lastDaemon.lastAt : null;
    await ledger.append({ kind: 'daemon.started', bootId, gapFrom }).flushed;
    const engine = engineOver(this.wire);
    const fence = fenceOver(this.wire, (runId) => this.allowedOf(runId));
    const outbox = outboxOf(host, () => this.alive);
    for (const run of replay.ended) table.addPast(run);
    const incidents = new IncidentDesk({
      ledger,
      outbox,
      log: SILENT,
      version: 'simulated',
      past: replay.incidents,
      quarantined: [...replay.quarantined.keys()],
      countByProfile: replay.incidentsByProfile,
    });
    this.incidents = incidents;
    await incidents.requeue(replay.incidents, { settled: replay.settledAlerts, nowMs: host.agenda.nowMs });
    const secrets = new KnownSecrets();
    const nowIso = (): string => new Date(host.agenda.nowMs).toISOString();
    const traffic = new TrafficDesk({ fence, ledger, secrets, log: SILENT, runAt: () => null, nowIso });
    const mayDecide = (): Promise<boolean> => Promise.resolve(true);
    const approvals = new ApprovalDesk({
      ledger,
      fence,
      log: SILENT,
      expireMs: 60_000,
      grantMs: 60_000,
      runOf: () => null,
      mayDecide,
      announce: () => undefined,
      nowMs: () => host.agenda.nowMs,
    });
    this.supervisor = new Supervisor({
      version: 'simulated',
      admission: {
        engine,
        engineFacts: ENGINE_FACTS,
        sinkNames: new Set(['ops']),
        runsMax: 100,
        runsAlive: () => table.alive().length,
        isQuarantined: (profile) => incidents.isQuarantined(profile),
        gpus: { refusal: () => null },
        ledgerFailure: () => ledger.failure(),
      },
      engine,
      fence,
      warden,
      ledger,
      incidents,
      approvals,
      secrets,
      traffic,
      mayDecide,
      table,
      log: SILENT,
      portsFor: (run) => {
        this.onLaunchReady();
        return this.portsFor(run);
      },
      nowIso,
    });
    const { supervisor } = this;
    const { afterlife } = host;
    host.afterlife = [];
    const left = await adoptRuns(replay.open, {
      engine,
      supervisor,
      log: SILENT,
      afterlife,
      bootId,
      portsFor: (run) => this.portsFor(run),
    });
    const adopted = new Set(table.alive().map(({ driver }) => driver.state.runId));
    const past = [...replay.open.map(({ runId }) => runId), ...replay.ended.map(({ outcome }) => outcome.runId)];
    await removeLeftovers(
      { open: left, admittedRunIds: new Set([...past, ...adopted]), aliveRunIds: adopted },
      {
        engine,
        fence,
        ledger,
        log: SILENT,
        secretStore: { collectGarbage: (keep) => collect(host.secrets, keep) },
        trust: { collectGarbage: (keep) => collect(host.trust, keep) },
        cgroups: host.cgroups,
        engineFacts: ENGINE_FACTS,
        bootId,
      },
    );
    this.watch = new EngineWatch({
      engine,
      ledger,
      table,
      cleanAgain: { engineBack: () => undefined },
      log: SILENT,
    });
    this.followEngine();
  }

  /** Events come late, twice, or not at all; after a loss the connection is found broken some day, and the list is read. */
  private followEngine(): void {
    const { host } = this;
    const { agenda, random } = host;
    const deliver = (event: Parameters<EngineWatch['onEvent']>[0], afterMs: number): void => {
      agenda.after(afterMs, () => {
        if (this.alive) this.watch?.onEvent(event);
      });
    };
    host.onEngineEvent = (event) => {
      if (random.chance(host.faults.eventLost)) {
        if (random.chance(0.5)) deliver({ kind: 'reconnected' }, random.below(3_000));
        return;
      }
      deliver(event, random.below(random.chance(host.faults.slow) ? 4_000 : 50));
      if (random.chance(host.faults.eventDoubled)) deliver(event, random.below(500));
    };
  }

  /** What the last flushed word about this run allows it. */
  private allowedOf(runId: string): ReadonlySet<string> | null {
    const about = this.host.disk.records.findLast(
      (record) => record.runId === runId && (record.kind === 'run.admitted' || record.kind === 'run.changed'),
    );
    const spec = this.specs.get(String(about?.['toDigest'] ?? about?.['profileDigest']));
    return spec === undefined ? null : ruleTexts(spec);
  }

  private async portsFor(run: NewRun): Promise<RunPorts> {
    const { host, wire, ledger, warden, incidents } = this;
    const { admission, runId } = run;
    const { spec, image } = admission;
    if (host.random.chance(host.faults.callFails / 4)) throw fail('MOUNT_REFUSED', { detail: 'refused on command' });
    const engine = engineOver(wire);
    const fence = fenceOver(wire, (id) => this.allowedOf(id));
    const { faults, cgroups } = host;
    const facts = { spec, image, engine: ENGINE_FACTS, hasShell: false, labels: run.labels };
    const version = 'simulated';
    const watchBounds = (held: Spec) => ({
      budgets: budgetPlansOf(held),
      graceMs: held.graceMs,
      warnAt: held.warnAt,
      onOom: held.limits.onOom,
      killWithoutDaemonAfterMs: null,
      gpu: null,
    });
    const staging = (kept: Set<string>) => async () => {
      await overWire(wire, faults.callFails, () => void kept.add(runId));
      return {
        unstage: () =>
          overWire(wire, 0, () => {
            if (host.canBeEnded(runId)) host.fault(`what is mounted into ${runId} is taken away while it is alive`);
            kept.delete(runId);
          }),
      };
    };
    return {
      engine,
      fence,
      warden,
      ledger,
      cgroups: {
        make: (id) => overWire(wire, faults.callFails, () => cgroups.make(id)),
        remove: (id) => overWire(wire, 0, () => cgroups.remove(id)),
        holdSockets: (options) => cgroups.holdSockets(options),
        leafPathsOf: (pid) => cgroups.leafPathsOf(pid),
        killNow: (paths) => overWire(wire, 0, () => cgroups.killNow(paths)),
      },
      plans: {
        network: (lease) => planNetwork({ spec, runId, version, lease }),
        container: (lease) =>
          planContainer({
            ...facts,
            spec: { ...spec, profileDigest: run.launchDigest },
            runId,
            version,
            lease,
            binds: [],
            secretsFolder: null,
            cgroupParent: `/simulated/${runId}`,
            tty: false,
            stdin: false,
          }),
        grant: (lease, held) => ({
          lease,
          names: [...held.egress.allow, ...held.egress.ask]
            .filter((rule) => rule.kind === 'name')
            .map((rule) => ({ ...rule, ask: false })),
          addresses: [],
          egressBytesMax: held.budget.egressBytes,
          ingressBytesMax: held.budget.ingressBytes,
          connectionsMax: held.budget.connections,
          bandwidthBitsPerSecond: held.limits.bandwidthBitsPerSecond,
        }),
        watch: (lease, parentPaths, held) => ({
          runId,
          address: lease.address,
          bridge: lease.bridge,
          subnet: lease.subnet,
          parentPaths,
          ...watchBounds(held),
        }),
        bounds: watchBounds,
      },
      stageSecrets: staging(host.secrets),
      stageTrust: staging(host.trust),
      readBack: async ({ containerId, plan }) => {
        const container = await engine.inspectContainer(containerId);
        const mismatches = compareLaunch({
          plan,
          container,
          kernel: null,
          process: null,
          hostNamespaces: {},
          mountLocations: {},
        });
        return { mismatches, bounds: boundsOf(spec), note: null };
      },
      fenceFindings: async () => {
        try {
          const state = await fence.verify();
          return state.kind === 'in-force' ? [] : state.findings;
        } catch (error) {
          return [messageOf(error)];
        }
      },
      openIncident: async (state, incidentId) => {
        await overWire(wire, 0, () => undefined);
        incidents.open(state, incidentId, {
          caller: CALLER,
          labels: run.labels,
          command: [],
          traceparent: null,
          fromSeq: 1,
          allowed: [],
          logLines: [],
        });
      },
      settleTraffic: () => overWire(wire, 0, () => undefined),
      notifyHeld: () => undefined,
      now: () => ({ at: new Date(host.agenda.nowMs).toISOString(), atMs: host.bootTimeMs }),
    };
  }

  /** Launches as a caller would. The file of the profile is real, so this takes real time, and nothing else moves. */
  async launch(profile: { readonly path: string; readonly text: string }, attach: boolean): Promise<void> {
    const { supervisor } = this;
    const progress = { ready: false };
    this.onLaunchReady = () => (progress.ready = true);
    const request = {
      profilePath: profile.path,
      profileText: profile.text,
      command: null,
      labels: {},
      attach,
      tty: false,
      stdin: false,
      traceparent: null,
    };
    const answered = (): void => {
      progress.ready = true;
      this.launching -= 1;
    };
    this.launching += 1;
    // The reply of the engine about the image comes by the agenda, after the file was read.
    void supervisor.launch(request, CALLER).then(answered, answered);
    const waiting = this.host.agenda.length;
    while (!progress.ready && this.host.agenda.length === waiting) await turn();
  }
}

function outboxOf(host: Host, alive: () => boolean): AlertOutbox {
  const enqueue = async ({ sink, id }: Alert): Promise<void> => {
    if (!alive()) return;
    host.alerts.set(`${sink} ${id}`, (host.alerts.get(`${sink} ${id}`) ?? 0) + 1);
  };
  return { enqueue } as unknown as AlertOutbox;
}

async function collect(kept: Set<string>, keep: RunIds): Promise<readonly string[]> {
  const stale = [...kept].filter((runId) => !keep.has(runId));
  for (const runId of stale) kept.delete(runId);
  return stale;
}
