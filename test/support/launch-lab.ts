import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import type { ContainerFacts, EngineFacts, ImageFacts } from '../../src/core/ports/engine.ts';
import { readNamespaces, readProcessFacts } from '../../src/daemon/proc-facts.ts';
import { createDockerEngine } from '../../src/engine/docker.ts';
import type { DockerEngine } from '../../src/engine/docker.ts';
import { holdSockets, makeRunCgroup, removeRunCgroup } from '../../src/meter/cgroup.ts';
import { leafPathsOf } from '../../src/meter/layout.ts';
import { readIoLimits } from '../../src/meter/io-limits.ts';
import { readLimits } from '../../src/meter/limits.ts';
import type { Location } from '../../src/run/mountinfo.ts';
import { LABEL_RUN } from '../../src/run/plan.ts';
import type { ProcessFacts } from '../../src/run/process-facts.ts';
import { compareLaunch } from '../../src/run/readback.ts';
import { plansOf, uniqueRunId } from './launch-fixtures.ts';
import type { TestPlans } from './launch-fixtures.ts';

/** Launches shell scripts as agents on the engine of DOCKER_HOST, and takes everything away again after each test. */
export const SHELL_IMAGE = 'ringfence/agent-shell:local';
export const ENGINE_HOST = process.env['DOCKER_HOST'] ?? 'unset';
export const WAIT = 'trap "exit 0" TERM; while :; do sleep 0.05; done';

const UNTIL_MS_MAX = 20_000;

export type LaunchOptions = Omit<Parameters<typeof plansOf>[0], 'image' | 'engine' | 'index' | 'runId'> & {
  readonly image?: ImageFacts;
};
export type Launched = { readonly id: string; readonly plans: TestPlans; readonly output: Promise<string> };

export type LaunchLab = {
  readonly engine: DockerEngine;
  readonly image: ImageFacts;
  readonly facts: EngineFacts;
  /** A folder of this test file, where mounts are allowed. */
  readonly folder: string;
  /** The run id that the next launch gets. */
  nextRunId(): string;
  launch(script: string, options?: LaunchOptions): Promise<Launched>;
  /** From the engine and from the kernel, while the agent runs. */
  inspect(launched: Launched): Promise<{ readonly container: ContainerFacts; readonly process: ProcessFacts }>;
  mismatches(launched: Launched, mountLocations?: Readonly<Record<string, Location>>): Promise<readonly string[]>;
  log(launched: Launched): Promise<string>;
};

/** Registers the hooks of the file that calls it; the lab is there from the first test on. */
export function useLaunchLab(): LaunchLab {
  const made: { readonly plans: TestPlans; readonly runId: string }[] = [];
  let parts: Pick<LaunchLab, 'engine' | 'image' | 'facts' | 'folder'>;

  beforeAll(async () => {
    const engine = createDockerEngine({ host: ENGINE_HOST });
    const [image, facts] = await Promise.all([engine.resolveImage(SHELL_IMAGE), engine.facts()]);
    parts = { engine, image, facts, folder: await mkdtemp(join(tmpdir(), 'ringfence-launch-')) };
  });

  afterEach(async () => {
    for (const { plans, runId } of made.splice(0)) {
      await parts.engine.removeContainer(plans.container.name);
      await parts.engine.removeNetwork(plans.network.name);
      await removeRunCgroup(runId);
      const label = `${LABEL_RUN}=${runId}`;
      expect(await parts.engine.listContainers(label)).toEqual([]);
      expect(await parts.engine.listNetworks(label)).toEqual([]);
    }
  });

  afterAll(async () => {
    parts.engine.close();
    await rm(parts.folder, { recursive: true, force: true });
    expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(parts.folder);
  });

  const nextRunId = (): string => uniqueRunId(made.length + 1);

  async function launch(script: string, options: LaunchOptions = {}): Promise<Launched> {
    const { engine, image, facts } = parts;
    const spec = { command: ['/bin/sh', '-c', script], ...options.spec };
    const runId = nextRunId();
    const plans = plansOf({ index: made.length + 1, runId, image, engine: facts, ...options, spec });
    made.push({ plans, runId });
    const parentPaths = await makeRunCgroup(runId, facts.cgroupDriver);
    await engine.createNetwork(plans.network);
    const id = await engine.createContainer(plans.container);
    const bytesMax = plans.container.memoryBytesMax;
    holdSockets(parentPaths, { containerId: id, bytesMax, driver: facts.cgroupDriver });
    const attached = await engine.attach(id, { tty: false, stdin: false });
    const output = Promise.all([textOf(attached.stdout), textOf(attached.stderr)]).then((texts) => texts.join(''));
    await engine.startContainer(id);
    return { id, plans, output };
  }

  async function inspect(launched: Launched): ReturnType<LaunchLab['inspect']> {
    const container = await parts.engine.inspectContainer(launched.id);
    const process = container.pid === null ? null : await readProcessFacts(container.pid);
    if (process === null) throw new Error('the agent is over');
    return { container, process };
  }

  async function mismatches(
    launched: Launched,
    mountLocations: Readonly<Record<string, Location>> = {},
  ): Promise<readonly string[]> {
    const { container, process } = await inspect(launched);
    const held = readLimits(leafPathsOf(container.pid ?? 0));
    const swap = held.memorySwapBytesMax === 'absent' ? null : Number(held.memorySwapBytesMax);
    const kernel = {
      memoryBytesMax: Number(held.memoryBytesMax),
      memorySwapBytesMax: swap,
      cpuMillis: Number(held.cpuMillis),
      pidsMax: Number(held.pidsMax),
      socketBytesMax: held.socketBytesMax === 'absent' ? null : Number(held.socketBytesMax),
      io: readIoLimits(container.pid ?? 0),
    };
    const hostNamespaces = await readNamespaces('self');
    const { container: plan } = launched.plans;
    return compareLaunch({ plan, container, process, kernel, hostNamespaces, mountLocations }).map(
      ({ path, wanted, got }) => `${path}: wanted ${wanted}, got ${got}`,
    );
  }

  async function log(launched: Launched): Promise<string> {
    let text = '';
    const options = { follow: false, tailLines: null, signal: AbortSignal.timeout(UNTIL_MS_MAX) };
    for await (const chunk of parts.engine.logs(launched.id, options)) text += Buffer.from(chunk.bytes).toString();
    return text;
  }

  return {
    get engine() {
      return parts.engine;
    },
    get image() {
      return parts.image;
    },
    get facts() {
      return parts.facts;
    },
    get folder() {
      return parts.folder;
    },
    nextRunId,
    launch,
    inspect,
    mismatches,
    log,
  };
}

async function textOf(source: AsyncIterable<unknown>): Promise<string> {
  let text = '';
  for await (const bytes of source) text += String(bytes);
  return text;
}

export async function until(fact: () => Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + UNTIL_MS_MAX;
  while (!(await fact())) {
    if (performance.now() > deadlineMs) throw new Error('the deadline has passed');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
