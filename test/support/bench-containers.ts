import Docker from 'dockerode';
import { randomBytes } from 'node:crypto';
import type { BudgetPlan } from '../../src/core/ports/warden.ts';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import { cgroupParentOf } from '../../src/meter/cgroup.ts';
import { leafPathsOf } from '../../src/meter/layout.ts';
import { makeRun, untilReport } from './warden-run.ts';
import type { FixtureRun, WardenFixture } from './warden-run.ts';

/** Containers as anybody makes them with Docker's API: what the benchmarks put beside the supervisor. */
export type BenchContainer = {
  readonly id: string;
  readonly pid: number;
  /** SIGKILL by the API: resolves when the engine has answered. */
  kill(): Promise<void>;
  remove(): Promise<void>;
};

export type BenchEngine = {
  /** Started when it resolves. No network: what is measured needs none, and an engine makes hundreds faster so. */
  start(options: ContainerOptions): Promise<BenchContainer>;
  /** CPU time of one container from a stream of `docker stats`, as often as the engine tells it. */
  follow(id: string, onSample: (cpuMs: number) => void): Promise<{ stop(): void }>;
  removeAll(): Promise<void>;
};

/** A real container in the cgroup of a run that the warden watches, as the product's own driver arranges it. */
export type ContainerRun = {
  readonly run: FixtureRun;
  readonly container: BenchContainer;
  release(): Promise<void>;
};

export type ContainerOptions = {
  readonly command: readonly string[];
  readonly cgroupParent?: string;
  /** Mounted at their own paths. */
  readonly folders?: readonly string[];
  readonly memoryBytes?: number;
};

const IMAGE = 'ringfence/agent-shell:local';
const LABEL = 'bench';
const NS_PER_MS = 1e6;

export function openBenchEngine(socketPath: string): BenchEngine {
  const docker = new Docker({ socketPath });
  const mark = randomBytes(6).toString('hex');
  const start = async (options: ContainerOptions): Promise<BenchContainer> => {
    const container = await docker.createContainer({
      Image: IMAGE,
      Cmd: [...options.command],
      User: '10001',
      Labels: { [LABEL]: mark },
      HostConfig: {
        NetworkMode: 'none',
        ...(options.cgroupParent === undefined ? {} : { CgroupParent: options.cgroupParent }),
        Binds: (options.folders ?? []).map((folder) => `${folder}:${folder}`),
        ...(options.memoryBytes === undefined ? {} : { Memory: options.memoryBytes, MemorySwap: options.memoryBytes }),
      },
    });
    await container.start();
    const { State } = await container.inspect();
    return {
      id: container.id,
      pid: State.Pid,
      kill: async () => void (await container.kill()),
      remove: async () => void (await container.remove({ force: true })),
    };
  };
  const removeAll = async (): Promise<void> => {
    const left = await docker.listContainers({ all: true, filters: { label: [`${LABEL}=${mark}`] } });
    for (const { Id } of left) await docker.getContainer(Id).remove({ force: true });
  };
  return { start, removeAll, follow: (id, onSample) => follow(docker, id, onSample) };
}

/** `watched`: by the warden; without it nobody watches, but the counters lie in the same place. */
export async function startContainerRun(
  on: { readonly engine: BenchEngine; readonly fixture: WardenFixture },
  options: ContainerOptions & { readonly watched: { readonly budgets: readonly BudgetPlan[] } | null },
): Promise<ContainerRun> {
  const { engine, fixture } = on;
  const run = await makeRun('all');
  const { runId } = run;
  let container: BenchContainer | null = null;
  const release = async (): Promise<void> => {
    if (options.watched !== null) fixture.warden.send({ kind: 'kill', runId, reason: 'killed' });
    await container?.remove();
    if (options.watched !== null) await untilReport(fixture, 'emptied', runId);
    await run.release();
    if (options.watched !== null) fixture.warden.send({ kind: 'unwatch', runId });
  };
  try {
    if (options.watched !== null) await fixture.warden.watch(run.plan(options.watched));
    const startedAtBootMs = bootTimeMs();
    container = await engine.start({ ...options, cgroupParent: cgroupParentOf(runId, 'cgroupfs') });
    const { pid } = container;
    if (options.watched !== null)
      fixture.warden.send({ kind: 'started', runId, pid, leafPaths: leafPathsOf(pid), startedAtBootMs });
    return { run, container, release };
  } catch (error) {
    await release();
    throw error;
  }
}

type Stats = { readonly cpu_stats?: { readonly cpu_usage?: { readonly total_usage?: number } } };

async function follow(docker: Docker, id: string, onSample: (cpuMs: number) => void): Promise<{ stop(): void }> {
  const stream = (await docker.getContainer(id).stats({ stream: true })) as NodeJS.ReadableStream & { destroy(): void };
  let rest = '';
  stream.on('data', (chunk: Buffer) => {
    const lines = (rest + chunk.toString('utf8')).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const usage = (JSON.parse(line) as Stats).cpu_stats?.cpu_usage?.total_usage;
      if (usage !== undefined) onSample(usage / NS_PER_MS);
    }
  });
  // A stream that the measuring ends, or the container, has nothing to say.
  stream.on('error', () => undefined);
  return { stop: () => stream.destroy() };
}
