import { mkdir, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { pino } from 'pino';
import { createApiServer, type ApiServer } from '../api/server.ts';
import type { AlertOutbox } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import { LAUNCH_MS_MAX } from '../core/ports/warden.ts';
import type { WardenReport } from '../core/ports/warden.ts';
import { createDockerEngine, type DockerEngine } from '../engine/docker.ts';
import { createResolver } from '../gate/upstream.ts';
import { peerCredentials } from '../kernel/libc.ts';
import { openSigner } from '../ledger/keys.ts';
import { openLedger, type OpenedLedger } from '../ledger/ledger.ts';
import { keyName } from '../ledger/note.ts';
import { replayLedger, type Replay } from '../ledger/replay.ts';
import { OOM_SCORES, protectFromOom } from '../kernel/oom.ts';
import { keepSpareFiles } from '../kernel/spare-files.ts';
import { CommandLines } from '../meter/command-lines.ts';
import { takeAfterlife } from '../warden/afterlife.ts';
import { DeadMan } from '../warden/dead-man.ts';
import { VERSION } from '../core/version.ts';
import { ApprovalDesk } from './approvals.ts';
import { openAlerts, openFence, openWarden, upstreamsFor, type Hooks } from './adapters.ts';
import { adoptRuns } from './adoption.ts';
import { sendCheckpoints } from './checkpoint-desk.ts';
import { checkAgain } from './config-check.ts';
import { loadConfig, type DaemonConfig } from './config.ts';
import { FenceGuard } from './fence-guard.ts';
import { openGpus } from './gpu-setup.ts';
import { HostDesk } from './host-desk.ts';
import { Metrics } from './metrics.ts';
import { openMetricsPort } from './metrics-port.ts';
import { keepRetention } from './retention.ts';
import { serviceOf } from './service.ts';
import { readSinks } from './sinks-config.ts';
import { examineHost } from './doctor.ts';
import { DiskDesk } from './disk-desk.ts';
import { EngineWatch } from './engine-watch.ts';
import { askingRun, decidersOf, runAt } from './asking.ts';
import { groupIdOf } from './groups.ts';
import { lockFence } from './fence-lock.ts';
import { createIdleMemory } from './idle-memory.ts';
import { IncidentDesk } from './incident-desk.ts';
import { KnownSecrets } from './known-secrets.ts';
import { createCleanAgain } from './clean-again.ts';
import { removeLeftovers } from './leftovers.ts';
import type { Cleaned } from './leftovers.ts';
import { NoticeDesk } from './notice-desk.ts';
import { openNotifier, type Notifier } from './notify.ts';
import { portsFor, type HostParts } from './run-ports.ts';
import { RunTable } from './run-table.ts';
import { SecretStore } from './secrets.ts';
import { VolumeStore } from '../volume/store.ts';
import { Supervisor } from './supervisor.ts';
import { TrafficDesk } from './traffic-desk.ts';
import { warnOfUnresolvedNames } from './unresolved-names.ts';
import { TrustDesk } from './trust-desk.ts';
import { TrustStore } from './trust.ts';

export type DaemonOptions = {
  readonly configPath: string;
  /** True when somebody named the file, so that its absence is an error. */
  readonly configRequired: boolean;
  readonly statePath: string;
  readonly socketPath: string;
};

export type RunningDaemon = {
  /** Ends every run unless `onStop` says to keep them, then everything else. */
  stop(): Promise<void>;
  /** Leaves every run to the kernel, the warden and the next daemon, whatever `onStop` says: for an upgrade. */
  handOver(): Promise<void>;
  /** Reads the configuration again and says in the log what of it needs a restart. Never rejects. */
  reload(): Promise<void>;
  /** Resolves when the daemon has ended, rejects when it had to. */
  readonly done: Promise<void>;
};

const DEFAULT_ENGINE = 'unix:///var/run/docker.sock';
/** Secrets of root that a profile may name whoever launches it. */
const SHARED_SECRETS_FOLDER = '/etc/ringfence/secrets';

/** The only place where adapters are made and meet. Whatever fails here has released what it had, in reverse order. */
export async function startDaemon(options: DaemonOptions): Promise<RunningDaemon> {
  const log = pino(
    { name: 'ringfenced', level: process.env['RINGFENCE_LOG'] ?? 'info' },
    pino.destination({ fd: 2, sync: true }),
  );
  protectFromOom(OOM_SCORES.daemon);
  keepSpareFiles();
  const closers: (() => Promise<void>)[] = [];
  const notifier = openNotifier(process.env, log);
  try {
    return await assemble(options, { log, notifier }, closers);
  } catch (error) {
    await closeAll(closers, log);
    throw error;
  }
}

async function closeAll(closers: (() => Promise<void>)[], log: Log): Promise<void> {
  for (let close = closers.pop(); close !== undefined; close = closers.pop()) {
    try {
      await close();
    } catch (error) {
      log.error({ err: error }, 'could not be closed');
    }
  }
}

type Voices = { readonly log: Log; readonly notifier: Notifier };

async function assemble(
  options: DaemonOptions,
  { log, notifier }: Voices,
  closers: (() => Promise<void>)[],
): Promise<RunningDaemon> {
  const { statePath, socketPath } = options;
  const config = await loadConfig(options.configPath, { required: options.configRequired });
  const sinks = await readSinks(config.sinks);
  const socketGroup = config.socket.group === undefined ? null : await groupIdOf('socket.group', config.socket.group);
  const mayDecide = await decidersOf(config);
  await mkdir(statePath, { recursive: true, mode: 0o700 });
  const nowIso = (): string => new Date().toISOString();
  // The ledger is first: its lock is what keeps a second daemon away from everything below.
  const keyDirectory = join(statePath, 'keys');
  const ledger = await openLedger({
    directory: join(statePath, 'ledger'),
    nowIso,
    log,
    seal: {
      signer: await openSigner(keyDirectory, keyName(hostname())),
      keyDirectory,
      everyRecords: config.ledger.checkpointRecords,
      everyMs: config.ledger.checkpointSeconds * 1000,
    },
    segmentBytesMax: config.ledger.segmentMiB * 2 ** 20,
  });
  closers.push(() => ledger.close());
  const unlockFence = lockFence();
  closers.push(async () => unlockFence());
  const replay = await replayLedger(ledger);
  const engine = createDockerEngine({ host: config.engine ?? process.env['DOCKER_HOST'] ?? DEFAULT_ENGINE });
  closers.push(async () => engine.close());
  const engineFacts = await engine.facts();
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  await ledger.append({
    kind: 'daemon.started',
    version: VERSION,
    pid: process.pid,
    bootId,
    engine: engineFacts.version,
    gapFrom: replay.lastDaemon?.stoppedAt === null ? replay.lastDaemon.lastAt : null,
  }).flushed;
  const outbox = await openAlerts({ statePath, sinks, ledger, log });
  closers.push(() => outbox.close());

  const hooks: Hooks = {
    onReport: () => undefined,
    onLost: () => undefined,
    onAsked: () => undefined,
    onGateRestarted: () => undefined,
    onPassed: () => undefined,
  };
  const started = await openWarden(options, config, { hooks, notifier });
  closers.push(() => started.stop());
  const deadMan = new DeadMan({ directory: join(statePath, 'warden'), wardenPid: started.pid, log });
  closers.push(async () => deadMan.close());
  const warden = deadMan.over(started);
  const upstreams = await upstreamsFor(config);
  const { fence, gate } = await openFence({ config, upstreams, statePath, engine, warden, log, hooks });
  closers.push(() => gate.close());
  const volumes = await VolumeStore.open({ directory: join(statePath, 'volumes'), log });
  closers.push(() => volumes.close());
  const disks = new DiskDesk();
  closers.push(async () => disks.close());
  const commandLines = new CommandLines({ log, nowIso });
  closers.push(async () => commandLines.close());
  const looked = commandLines.over(disks.over(warden));
  const secretStore = await SecretStore.open(join(dirname(socketPath), 'secrets'));
  const trustStore = await TrustStore.open(join(dirname(socketPath), 'trust'));
  const trust = new TrustDesk({ gate, store: trustStore, log });
  hooks.onGateRestarted = () => void trust.restage();
  const keepRuns = config.onStop === 'keep';

  const table = new RunTable();
  const secrets = new KnownSecrets();
  const traffic = new TrafficDesk({ fence, ledger, secrets, log, runAt: (address) => runAt(table, address), nowIso });
  hooks.onPassed = (passed) => traffic.passed(passed);
  const gpus = await openGpus({ config: config.gpu, statePath, engineFacts, warden, ledger, table, log });
  closers.push(() => gpus.close());
  // Runs that go on keep what is mounted into them.
  closers.push(async () => {
    if (table.alive().length === 0) await secretStore.close();
  });
  for (const run of replay.ended) table.addPast(run);
  const incidents = deskOf(replay, { ledger, outbox, log });
  await incidents.requeue(replay.incidents, { settled: replay.settledAlerts, nowMs: Date.now() });
  const notices = new NoticeDesk({ outbox, log });
  const approvals = new ApprovalDesk({
    ledger,
    fence,
    log,
    expireMs: config.approvals.expireSeconds * 1_000,
    grantMs: config.approvals.grantSeconds * 1_000,
    runOf: (runId) => askingRun(table.get(runId)),
    mayDecide,
    announce: (approval, spec) => notices.asked(approval, spec),
    nowMs: () => Date.now(),
  });
  const parts: HostParts = {
    version: VERSION,
    engine,
    engineFacts,
    fence,
    warden: looked,
    ledger,
    incidents,
    notices,
    evidence: { engine, traffic, secrets, log, logLines: config.incidents.logLines },
    secretStore,
    trust,
    gpus: gpus.desk,
    disks: { volumes, desk: disks, engineFacts },
    places: { forbidden: [statePath, dirname(socketPath), engineFacts.rootDirectory] },
    sharedSecretFolders: [SHARED_SECRETS_FOLDER],
  };
  const clean = cleanerOf({ parts, replay, log, table, bootId });
  const supervisor = new Supervisor({
    version: VERSION,
    admission: {
      engine,
      engineFacts,
      sinkNames: new Set(Object.keys(sinks)),
      runsMax: config.runsMax,
      runsAlive: () => table.alive().length,
      isQuarantined: (profile) => incidents.isQuarantined(profile),
      gpus: gpus.desk,
      ledgerFailure: () => ledger.failure(),
    },
    engine,
    fence,
    warden: looked,
    ledger,
    incidents,
    approvals,
    secrets,
    traffic,
    mayDecide,
    table,
    log,
    portsFor: (run) => portsFor(run, parts),
    nowIso,
  });
  const filled = (report: WardenReport): WardenReport => commandLines.fillReport(disks.fillReport(report));
  hooks.onReport = (report) => supervisor.receive(filled(report));
  hooks.onLost = (detail) => supervisor.onWardenLost(detail);
  hooks.onAsked = (address, request) => {
    const runId = runAt(table, address);
    if (runId === null) return;
    // What carries a secret of the run is an attempt to get it out, and nobody needs to be asked about it.
    if (secrets.isIn(runId, request.name)) fence.deny(runId, request).catch(() => undefined);
    else approvals.askName(runId, request);
  };
  closers.push(() => (keepRuns ? supervisor.leave() : supervisor.stopAll()));

  const left = await adoptRuns(replay.open, {
    engine,
    supervisor,
    log,
    afterlife: takeAfterlife(join(statePath, 'warden')).map(({ report }) => report),
    bootId,
    portsFor: (run) => portsFor(run, parts),
  });
  const adopted = table.alive().length;
  const cleanAgain = createCleanAgain({ clean: () => clean([]), log });
  if ((await clean(left)).left.length > 0) cleanAgain.soon();
  // What was on its way to the engine when the daemon before died may be made only now.
  if (left.length > 0) setTimeout(() => cleanAgain.soon(), LAUNCH_MS_MAX).unref();

  const background = new AbortController();
  closers.push(async () => background.abort());
  const failed = Promise.withResolvers<void>();
  const guard = new FenceGuard({ fence, supervisor, ledger, log, table, signal: background.signal });
  const watched = [
    followEngine(engine, new EngineWatch({ engine, ledger, table, cleanAgain, log }), background.signal),
    guard.run(),
    traffic.run(background.signal),
    keepRetention({
      ledger,
      days: config.ledger.retentionDays,
      carried: () => incidents.carried(),
      oldestOpenSeq: () => table.oldestAliveSeq(),
      log,
      signal: background.signal,
    }),
  ];
  for (const each of watched) each.catch((error: unknown) => failed.reject(error));

  const metrics = new Metrics({
    version: VERSION,
    runs: () => table.views({ all: false }),
    ledger: () => ({
      seq: ledger.head().seq,
      flushedSeq: ledger.flushedSeq(),
      failed: ledger.failure() !== null,
    }),
    gate: async () => ({ ...(await gate.stats()) }),
    fence: async () => ({ ...(await fence.figures()), verifiedAtMs: guard.verifiedAtMs }),
    outbox: () => outbox.depth(),
    approvalsPending: () => approvals.list({ all: false }).length,
  });
  const stopCounting = ledger.subscribe((record) => metrics.take(record));
  const stopWarning = warnOfUnresolvedNames({
    ledger,
    specOf: (runId) => table.get(runId)?.spec,
    resolve: createResolver(upstreams),
    log,
  });
  const idleMemory = createIdleMemory({ isIdle: () => table.alive().length === 0 });
  const stopCleaning = ledger.subscribe((record) => {
    if (record.kind !== 'run.cleaned') return;
    if ((record['failures'] as readonly string[]).length > 0) cleanAgain.soon();
    idleMemory.runCleaned();
  });
  const stopSending = sendCheckpoints({ ledger, outbox, sinkNames: Object.keys(sinks), log });
  closers.push(async () => {
    stopCounting();
    stopCleaning();
    cleanAgain.stop();
    idleMemory.stop();
    stopSending();
    stopWarning();
  });
  hooks.onReport = (report) => {
    if (report.kind === 'late') metrics.noteLate(report);
    if (report.kind === 'rules-changed') guard.lookNow();
    supervisor.receive(filled(report));
  };
  if (config.metrics !== undefined) {
    closers.push(await openMetricsPort({ port: config.metrics.port, render: () => metrics.render() }));
  }
  const host = new HostDesk({
    ledger,
    outbox,
    metrics,
    examine: () =>
      examineHost({
        engine,
        fence,
        ledger,
        wardenReady: warden.ready,
        gateListening: () => gate.health().listening,
        gpus: gpus.desk,
      }),
    collectGarbage: async () => (await clean([])).removed,
  });
  const server = createApiServer({
    service: serviceOf(supervisor, host),
    socketPath,
    socketMode: Number.parseInt(config.socket.mode, 8),
    socketGroup,
    peerOf: peerCredentials,
    log,
  });
  await server.listen();
  log.info({ socketPath, statePath, engine: engineFacts.version }, 'daemon started');
  notifier.ready(`engine ${engineFacts.version}, ${adopted} runs taken over`);
  return running({ options, config, keepRuns, server, supervisor, ledger, closers, log, notifier, failed });
}

type Running = {
  readonly options: DaemonOptions;
  readonly config: DaemonConfig;
  readonly notifier: Notifier;
  readonly keepRuns: boolean;
  readonly server: ApiServer;
  readonly supervisor: Supervisor;
  readonly ledger: OpenedLedger;
  readonly closers: (() => Promise<void>)[];
  readonly log: Log;
  readonly failed: PromiseWithResolvers<void>;
};

function running(parts: Running): RunningDaemon {
  const { server, supervisor, ledger, closers, log, notifier, failed } = parts;
  let stopped: Promise<void> | null = null;
  const stop = async (keepRuns: boolean): Promise<void> => {
    notifier.stopping();
    // Runs end while their callers are still connected, so that an attached caller hears the outcome.
    await (keepRuns ? supervisor.leave() : supervisor.stopAll());
    await server.close();
    await ledger.append({ kind: 'daemon.stopped' }).flushed.catch(() => undefined);
    await closeAll(closers, log);
    failed.resolve();
    log.info({}, 'daemon stopped');
  };
  return {
    stop: () => (stopped ??= stop(parts.keepRuns)),
    handOver: () => (stopped ??= stop(true)),
    reload: async () => {
      notifier.reloading();
      await checkAgain({ ...parts.options, current: parts.config, log });
      notifier.ready('configuration read again');
    },
    done: failed.promise,
  };
}

function deskOf(
  replay: Replay,
  parts: { readonly ledger: OpenedLedger; readonly outbox: AlertOutbox; readonly log: Log },
): IncidentDesk {
  return new IncidentDesk({
    ...parts,
    version: VERSION,
    past: replay.incidents,
    quarantined: [...replay.quarantined.keys()],
    countByProfile: replay.incidentsByProfile,
  });
}

type Clean = (open: Replay['open']) => Promise<Cleaned>;

function cleanerOf(options: {
  readonly parts: HostParts;
  readonly replay: Replay;
  readonly log: Log;
  readonly table: RunTable;
  readonly bootId: string;
}): Clean {
  const { parts, replay, log, table, bootId } = options;
  const past = new Set([...replay.open.map(({ runId }) => runId), ...replay.ended.map(({ outcome }) => outcome.runId)]);
  const admittedRunIds = { has: (runId: string) => past.has(runId) || table.get(runId) !== undefined };
  const aliveRunIds = { has: (runId: string) => table.isAlive(runId) };
  return async (open) => {
    const cleaned = await removeLeftovers({ open, admittedRunIds, aliveRunIds }, { ...parts, log, bootId });
    const { removed, foreign, ended } = cleaned;
    // Whoever asks for them is told how they ended, and not first by the daemon after this one.
    for (const run of ended) table.addPast(run);
    if (removed.length > 0 || foreign.length > 0)
      parts.ledger.append({ kind: 'garbage.collected', removed, foreign }).flushed.catch(() => undefined);
    return cleaned;
  };
}

async function followEngine(engine: DockerEngine, watch: EngineWatch, signal: AbortSignal): Promise<void> {
  for await (const event of engine.events(signal)) watch.onEvent(event);
}
