import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { idFrom } from '../../src/core/ids.ts';
import type { CgroupPaths, WardenReport, WatchPlan } from '../../src/core/ports/warden.ts';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import { makeRunCgroup, removeRunCgroup } from '../../src/meter/cgroup.ts';
import { detectLayout } from '../../src/meter/layout.ts';
import { killNow, pidsOf } from '../../src/meter/processes.ts';
import { startWarden } from '../../src/warden/client.ts';
import type { WardenClient, WardenOptions } from '../../src/warden/client.ts';
import { until } from './until.ts';

/** A warden with real cgroups and real processes, without an engine: what it promises needs none. */
export type WardenFixture = {
  readonly directory: string;
  readonly warden: WardenClient;
  readonly reports: WardenReport[];
  readonly lost: string[];
};

/** What the warden tells of itself, whatever happens to a run. */
const OF_ITSELF: ReadonlySet<WardenReport['kind']> = new Set(['sampled', 'late', 'rules-changed']);

export function kindsOf(reports: readonly WardenReport[]): string[] {
  return reports.map(({ kind }) => kind).filter((kind) => !OF_ITSELF.has(kind));
}

const DEADLINE_MS = 10_000;
const LEAF = 'container';

export async function startFixture(options: Partial<WardenOptions> = {}): Promise<WardenFixture> {
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'rf-warden-'));
  const reports: WardenReport[] = [];
  const lost: string[] = [];
  const warden = await startWarden({
    nflogGroup: null,
    silenceSet: null,
    trafficSets: null,
    egressHeldByKernel: false,
    turningEveryMs: null,
    onTurning: () => undefined,
    ...options,
    directory,
    onReport: (report) => reports.push(report),
    onLost: (detail) => lost.push(detail),
  });
  return { directory, warden, reports, lost };
}

/** Ends the warden and checks that nothing of it is left. */
export async function stopFixture(fixture: WardenFixture): Promise<void> {
  await fixture.warden.stop();
  await untilEnded(fixture.warden.pid);
  const holders = readdirSync(fixture.directory).filter((name) => name.endsWith('.holder'));
  rmSync(fixture.directory, { recursive: true, force: true });
  if (holders.length > 0) throw new Error(`the warden left ${holders.join(', ')}`);
}

export function untilEnded(pid: number): Promise<true> {
  return until(`process ${pid} ends`, () => !existsSync(`/proc/${pid}`), { deadlineMs: DEADLINE_MS });
}

export function untilReport<Kind extends WardenReport['kind']>(
  fixture: WardenFixture,
  kind: Kind,
  runId: string,
): Promise<Extract<WardenReport, { kind: Kind }>> {
  const wanted = (report: WardenReport): report is Extract<WardenReport, { kind: Kind }> =>
    report.kind === kind && 'runId' in report && report.runId === runId;
  return until(`a report ${kind} of ${runId}`, () => fixture.reports.find(wanted), { deadlineMs: DEADLINE_MS });
}

export type Hierarchies = 'all' | 'v1';

/** The cgroup of one run and the processes in it; `release` ends them, removes it, and says what was left. */
export type FixtureRun = {
  readonly runId: string;
  readonly paths: CgroupPaths;
  readonly leafPaths: CgroupPaths;
  plan(options: Partial<WatchPlan>): WatchPlan;
  /** Writes a limit of the container's own cgroup, as an engine does. */
  limit(controller: 'memory' | 'pids' | 'cpu', file: string, value: string): void;
  /** A shell in the container's cgroup. */
  shell(script: string): ChildProcess & { readonly pid: number };
  pids(): number[];
  release(): Promise<void>;
};

const ENTER = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs"; shift; done; shift; exec "$@"';

/** `v1` leaves the v2 tree out, as on a host without one, or with an engine that does not use it. */
export async function makeRun(hierarchies: Hierarchies): Promise<FixtureRun> {
  const runId = idFrom('r', randomBytes(12));
  const detected = detectLayout();
  const unified = hierarchies === 'v1' ? null : detected.mounts.unified;
  const layout = { ...detected, mounts: { ...detected.mounts, unified } };
  const paths = await makeRunCgroup(runId, 'cgroupfs', layout);
  const leafPaths: CgroupPaths = {
    cpu: join(paths.cpu, LEAF),
    cpuacct: join(paths.cpuacct, LEAF),
    memory: join(paths.memory, LEAF),
    pids: join(paths.pids, LEAF),
    freezer: paths.freezer === null ? null : join(paths.freezer, LEAF),
    unified: paths.unified === null ? null : join(paths.unified, LEAF),
  };
  const leaves = [...new Set(Object.values(leafPaths))].filter((directory) => directory !== null);
  for (const directory of leaves) mkdirSync(directory, { recursive: true });
  const children: ChildProcess[] = [];
  return {
    runId,
    paths,
    leafPaths,
    plan: (options) => ({
      runId,
      address: '203.0.113.2',
      bridge: 'rf-test',
      subnet: '203.0.113.0/30',
      parentPaths: paths,
      budgets: [],
      graceMs: 300,
      warnAt: [],
      onOom: 'agent',
      killWithoutDaemonAfterMs: null,
      gpu: null,
      ...options,
    }),
    limit: (controller, file, value) => writeFileSync(join(leafPaths[controller], file), value),
    shell: (script) => {
      const child = spawn('/bin/sh', ['-c', ENTER, 'enter', ...leaves, '--', '/bin/sh', '-c', script], {
        stdio: 'ignore',
      });
      children.push(child);
      if (child.pid === undefined) throw new Error('the shell did not start');
      return Object.assign(child, { pid: child.pid });
    },
    pids: () => pidsOf(paths),
    release: async () => {
      const left = pidsOf(paths);
      await until('the run is empty', () => killNow(paths).length === 0, { deadlineMs: DEADLINE_MS });
      await removeRunCgroup(runId);
      if (left.length > 0) throw new Error(`processes of run ${runId} were left: ${left.join(', ')}`);
    },
  };
}

/** Watches a run, starts a shell in it and tells the warden, as the driver does. */
export async function launch(
  fixture: WardenFixture,
  run: FixtureRun,
  options: { readonly script: string; readonly plan: Partial<WatchPlan> },
): Promise<ChildProcess & { readonly pid: number }> {
  await fixture.warden.watch(run.plan(options.plan));
  const startedAtBootMs = bootTimeMs();
  const child = run.shell(options.script);
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null;
  await until('the shell is in its cgroup', () => run.pids().includes(child.pid) || isOver(), {
    deadlineMs: DEADLINE_MS,
  });
  fixture.warden.send({ kind: 'started', runId: run.runId, pid: child.pid, leafPaths: run.leafPaths, startedAtBootMs });
  return child;
}
