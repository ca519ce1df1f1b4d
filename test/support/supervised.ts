import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import type { Incident, IncidentSummary, RunDetail, RunView } from '../../src/api/service.ts';
import type { Outcome } from '../../src/core/outcome.ts';
import type { LedgerRecord } from '../../src/core/ports/record.ts';
import { startDaemon, type DaemonOptions, type TestDaemon } from './daemon.ts';
import { command, lab } from './lab.ts';
import { leaksSince, snapshot, type Snapshot } from './leak-check.ts';
import { startReceiver, type Receiver } from './receiver.ts';
import { until } from './until.ts';

/** One daemon and one webhook receiver for a whole test file; after each test nothing of its runs is left. */
export type Supervised = {
  readonly daemon: TestDaemon;
  readonly receiver: Receiver;
  /** Writes a profile file, filled up with what every profile needs, and gives its path. */
  writeProfile(draft: ProfileDraft): string;
  /** The same for a text that is a whole profile. */
  writeText(name: string, text: string): string;
  /** Runs it to its end, attached. */
  run(draft: ProfileDraft): Promise<FinishedRun>;
  runFile(path: string): Promise<FinishedRun>;
  /** Starts it and comes back at once with the run. */
  launch(draft: ProfileDraft): Promise<RunView>;
  /** Starts it and waits until it is verified and running. */
  start(draft: ProfileDraft): Promise<RunDetail>;
  /** The same for one that was launched: a run id, or the name of a profile with one run. */
  running(reference: string): Promise<RunDetail>;
  /** The outcome of a run that was launched. */
  wait(runId: string): Promise<FinishedRun>;
  incident(id: string): Promise<Incident>;
  incidentsOf(profile: string): Promise<readonly IncidentSummary[]>;
  records(runId: string): Promise<readonly LedgerRecord[]>;
  /** Fails unless the command succeeded. */
  ringfence(...args: readonly string[]): Promise<string>;
};

export type FinishedRun = {
  readonly exitCode: number;
  readonly outcome: Outcome;
  /** What the agent wrote to either stream. */
  readonly output: string;
};

/** A profile as an object; JSON is YAML too. */
export type ProfileDraft = {
  readonly name: string;
  readonly command: readonly string[];
  readonly limits?: Readonly<Record<string, unknown>>;
  readonly budget?: Readonly<Record<string, unknown>>;
  readonly egress?: Readonly<Record<string, unknown>>;
  readonly on?: Readonly<Record<string, unknown>>;
  readonly more?: Readonly<Record<string, unknown>>;
};

export const PYTHON = (source: string): readonly string[] => ['python3', '-uc', source];
export const SHELL = (source: string): readonly string[] => ['sh', '-c', source];

const RUN_MS_MAX = 90_000;
const START_MS_MAX = 60_000;
const LEFT_BEHIND_MS_MAX = 15_000;

/**
 * Registers the hooks of the file that calls it; what it gives works from the first test on. `config` is what the file
 * needs beside the usual configuration of the daemon.
 */
export function useSupervised(options: Pick<DaemonOptions, 'config' | 'stateBytes'> = {}): Supervised {
  let daemon: TestDaemon;
  let receiver: Receiver;
  let folder = '';
  let before: Snapshot;

  beforeAll(async () => {
    folder = mkdtempSync(`${lab.scratch}/profiles-`);
    receiver = await startReceiver();
    daemon = await startDaemon({ ...options, sinks: { ops: { url: receiver.url, secret: receiver.secret } } });
    before = await snapshot();
  });
  afterEach(async () => {
    await until('every run is over', async () => (await list()).length === 0, { deadlineMs: LEFT_BEHIND_MS_MAX });
    const ours = await runIds();
    const isOurs = (leak: string): boolean => isOfTheRuns(leak, ours) && !isOfTheDaemon(leak, daemon);
    expect(await leaksSince(before, isOurs)).toEqual([]);
  });
  afterAll(async () => {
    await daemon.close();
    await receiver.close();
    rmSync(folder, { recursive: true, force: true });
  });

  async function ringfence(...args: readonly string[]): Promise<string> {
    const result = await daemon.cli(args);
    if (result.exitCode !== 0) throw new Error(`ringfence ${args.join(' ')}: ${result.exitCode}: ${result.stderr}`);
    return result.stdout;
  }
  const json = async <T>(...args: readonly string[]): Promise<T> => JSON.parse(await ringfence(...args, '--json')) as T;
  const list = async (): Promise<readonly RunView[]> => await json<readonly RunView[]>('ps');
  const runIds = async (): Promise<readonly string[]> =>
    (await json<readonly RunView[]>('ps', '--all')).map((run) => run.runId);

  function writeText(name: string, text: string): string {
    const path = `${folder}/${name}.yaml`;
    writeFileSync(path, text, { mode: 0o644 });
    return path;
  }
  const writeProfile = (draft: ProfileDraft): string =>
    writeText(draft.name, JSON.stringify(profileOf(draft), null, 2));

  async function finish(args: readonly string[]): Promise<FinishedRun> {
    const { exitCode, stdout, stderr } = await daemon.cli([...args, '--json'], { timeoutMs: RUN_MS_MAX });
    try {
      const answer = JSON.parse(stdout) as Outcome | { readonly error: unknown };
      if ('error' in answer) throw new Error('it was refused');
      return { exitCode, outcome: answer, output: stderr };
    } catch (error) {
      throw new Error(`ringfence ${args.join(' ')}: no outcome, ${exitCode}: ${stdout}${stderr}`, { cause: error });
    }
  }

  const launch = async (draft: ProfileDraft): Promise<RunView> =>
    await json<RunView>('run', '--detach', writeProfile(draft));
  const running = async (reference: string): Promise<RunDetail> =>
    await until(
      `${reference} runs`,
      async () => {
        const { exitCode, stdout } = await daemon.cli(['inspect', reference, '--json']);
        const run = exitCode === 0 ? (JSON.parse(stdout) as RunDetail) : null;
        return run?.phase === 'running' ? run : null;
      },
      { deadlineMs: START_MS_MAX },
    );

  return {
    get daemon() {
      return daemon;
    },
    get receiver() {
      return receiver;
    },
    writeProfile,
    writeText,
    ringfence,
    run: async (draft) => await finish(['run', writeProfile(draft)]),
    runFile: async (path) => await finish(['run', path]),
    launch,
    start: async (draft) => await running((await launch(draft)).runId),
    running,
    wait: async (runId) => await finish(['wait', runId]),
    incident: async (id) => await json<Incident>('incident', id),
    incidentsOf: async (profile) =>
      (await json<readonly IncidentSummary[]>('incidents')).filter((incident) => incident.profile === profile),
    records: async (runId) =>
      (await ringfence('events', '--json', '--run', runId))
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as LedgerRecord),
  };
}

// The cgroup tree is the whole machine's: a daemon in another lab has its runs beside ours.
function isOfTheRuns(leak: string, runIds: readonly string[]): boolean {
  return !leak.startsWith('cgroup ') || runIds.some((runId) => leak.includes(runId));
}

/** A daemon that was started again is another process than before, and so are its children. */
function isOfTheDaemon(leak: string, daemon: TestDaemon): boolean {
  const pid = /^process (\d+) /.exec(leak)?.[1];
  return pid !== undefined && (Number(pid) === daemon.pid || parentOf(pid) === daemon.pid);
}

function parentOf(pid: string): number | null {
  try {
    return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  } catch {
    // It ended meanwhile.
    return null;
  }
}

function profileOf(draft: ProfileDraft): Readonly<Record<string, unknown>> {
  return {
    apiVersion: 'ringfence/v1',
    name: draft.name,
    description: 'For the tests.',
    owner: 'tests@example.com',
    image: 'ringfence/agent-shell:local',
    command: draft.command,
    user: 10001,
    limits: { cpu: 1, memory: '128MiB', pids: 32, disk: '16MiB', files: 128, ...draft.limits },
    budget: { wall: '30s', ...draft.budget },
    egress: draft.egress ?? {},
    on: draft.on ?? {},
    alerts: ['ops'],
    ...draft.more,
  };
}

/** What the engine and the kernel still hold of a run; empty once it is gone. */
export async function remainsOf(run: RunDetail): Promise<readonly string[]> {
  const { exitCode } = await command('docker', [
    '--host',
    `unix://${lab.dockerSocket}`,
    'container',
    'inspect',
    run.containerId ?? 'none',
  ]);
  const groups = await Promise.all(run.cgroups.map(async (path) => (await command('test', ['-e', path])).exitCode));
  return [
    ...(exitCode === 0 ? [`container ${run.containerId}`] : []),
    ...run.cgroups.filter((_, index) => groups[index] === 0).map((path) => `cgroup ${path}`),
  ];
}
