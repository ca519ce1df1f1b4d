import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '../core/assert.ts';
import { fail, messageOf } from '../core/errors.ts';
import type { ContainerPlan, Engine, EngineFacts } from '../core/ports/engine.ts';
import type { Fence, FenceGrant, FenceLease } from '../core/ports/fence.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { CgroupPaths, Warden, WatchBounds } from '../core/ports/warden.ts';
import { bootTimeMs } from '../kernel/libc.ts';
import { cgroupParentOf, holdSockets, makeRunCgroup, removeRunCgroup } from '../meter/cgroup.ts';
import { leafPathsOf } from '../meter/layout.ts';
import { readIoLimits } from '../meter/io-limits.ts';
import { readLimits, type HeldLimit } from '../meter/limits.ts';
import { killNow, pidsOf } from '../meter/processes.ts';
import type { StrictDocument } from '../profile/document.ts';
import { problemAtPath } from '../profile/problems.ts';
import type { EgressRule, Spec } from '../profile/spec.ts';
import { boundsOf, budgetPlansOf } from '../run/bounds.ts';
import { SHELL } from '../run/environment.ts';
import { launchProblems } from '../run/launch-problems.ts';
import { planContainer, planNetwork } from '../run/plan.ts';
import type { ReadBack, RunCgroups, RunPorts } from '../run/ports.ts';
import { compareLaunch, type KernelLimits } from '../run/readback.ts';
import { keysOf } from './host-limits.ts';
import { lastWords, type EvidenceParts } from './evidence.ts';
import type { GpuDesk } from './gpu-desk.ts';
import { gpuMemoryOf } from './gpu-memory.ts';
import type { IncidentDesk } from './incident-desk.ts';
import { checkMount, recheckMount, type CheckedMount, type HostPlaces } from './mounts.ts';
import { readNamespaces, readProcessFacts } from './proc-facts.ts';
import type { NoticeDesk } from './notice-desk.ts';
import { placing, refusalOf } from './refusal.ts';
import { disksFor, type DiskParts, type RunDisks } from './run-disks.ts';
import { readSecrets, type SecretStore } from './secrets.ts';
import type { NewRun } from './supervisor.ts';
import { inspects, readImageTrust, type StagedTrust } from './trust.ts';
import type { TrustDesk } from './trust-desk.ts';

const KILL_LOOK_MS = 5;

/** The parts of this host that every run is made of. */
export type HostParts = {
  readonly version: string;
  readonly engine: Engine;
  readonly engineFacts: EngineFacts;
  readonly fence: Fence;
  readonly warden: Warden;
  readonly ledger: Ledger;
  readonly incidents: IncidentDesk;
  readonly notices: NoticeDesk;
  readonly evidence: EvidenceParts;
  readonly secretStore: SecretStore;
  readonly trust: TrustDesk;
  readonly gpus: GpuDesk;
  readonly disks: DiskParts;
  readonly places: HostPlaces;
  /** Folders of root whose secrets every caller may grant. */
  readonly sharedSecretFolders: readonly string[];
};

/** Checks what only the real host can tell (mounts, secrets, the image's shell) and builds the ports of one run. */
export async function portsFor(run: NewRun, parts: HostParts): Promise<RunPorts> {
  const { admission, runId, caller, request } = run;
  const { spec, image, document } = admission;
  const { engine, engineFacts, fence, warden, ledger, incidents, notices, secretStore, version } = parts;
  const checked = await Promise.all(
    spec.mounts.map((mount, index) =>
      placing(['mounts', index, 'host'], document, () =>
        checkMount({ ...mount, grantor: caller, profilePath: request.profilePath }, parts.places),
      ),
    ),
  );
  const { adopted } = run;
  const disks = await disksFor({ runId, adopted, spec, document, checked }, parts.disks);
  const secrets = await placing(['secrets'], document, () =>
    readSecrets(spec.secrets, { grantor: caller, sharedFolders: parts.sharedSecretFolders }),
  );
  parts.evidence.secrets.learn(runId, secrets);
  const hasShell = spec.secrets.length > 0 && (await engine.imageHasFile(image.digest, SHELL));
  const facts = { spec, image, engine: engineFacts, hasShell, labels: run.labels };
  refuseProblems(facts, document);
  const hostNamespaces = await readNamespaces('self');
  const cgroupParent = cgroupParentOf(runId, engineFacts.cgroupDriver);
  const binds = checked.map((mount, index) => bindOf(mount, spec.mounts[index]?.path ?? ''));
  const fromSeq = ledger.head().seq + 1;
  await placing(['limits', 'gpu'], document, async () => {
    if (run.adopted) parts.gpus.adopt(runId, spec);
    else parts.gpus.lease(runId, spec);
  });
  const imageTrust = inspects(spec) ? await readImageTrust(engine, image, spec) : null;
  const gpuMemory = gpuMemoryOf(spec, parts.gpus.boundedCardOf(runId));
  const cgroups = cgroupsFor(engineFacts);
  let trust: StagedTrust | null = null;
  let secretsFolder = run.adopted && spec.secrets.length > 0 ? secretStore.staged(runId) : null;
  let paths: CgroupPaths | null = null;
  let planned: ContainerPlan | null = null;
  return {
    engine: {
      ...engine,
      async startContainer(id) {
        const plan = planned;
        assert(plan !== null, 'only a planned container is started');
        const pids = (): readonly number[] => (paths === null ? [] : pidsOf(paths));
        await disks.starting(plan, pids, () => engine.startContainer(id));
      },
    },
    fence,
    warden,
    ledger,
    cgroups: {
      ...cgroups,
      async make(id) {
        paths = await cgroups.make(id);
        gpuMemory.hold(paths);
        return paths;
      },
    },
    plans: {
      network: (lease) => planNetwork({ spec, runId, version, lease }),
      container: (lease) => {
        planned = planContainer({
          ...facts,
          // The label says what the container was made from, also after the profile was changed.
          spec: { ...spec, profileDigest: run.launchDigest },
          runId,
          version,
          lease,
          binds,
          secretsFolder,
          ...(trust === null ? {} : { trustBinds: trust.binds }),
          gpu: parts.gpus.planOf(runId),
          cgroupParent,
          io: disks.io(),
          tty: request.attach && request.tty,
          stdin: request.attach && request.stdin,
          traceparent: request.traceparent ?? null,
        });
        return planned;
      },
      grant: (lease, held) => grantOf(held, lease),
      watch: (lease, parentPaths, held) => ({
        runId,
        address: lease.address,
        bridge: lease.bridge,
        subnet: lease.subnet,
        parentPaths,
        ...watchBoundsOf(held),
      }),
      bounds: watchBoundsOf,
    },
    async stageSecrets() {
      try {
        await disks.stage();
        if (secrets.length > 0) secretsFolder = await secretStore.stage({ runId, user: spec.user, secrets });
      } catch (error) {
        await disks.release();
        throw error;
      }
      return {
        async unstage() {
          await disks.release();
          await secretStore.unstage(runId);
        },
      };
    },
    async stageTrust({ address }) {
      if (imageTrust === null) return { unstage: async () => undefined };
      trust = await parts.trust.stage(runId, { address, trust: imageTrust });
      return { unstage: () => parts.trust.unstage(runId) };
    },
    readBack: async (target) => {
      const found = await readBack({ ...target, spec, disks, hostNamespaces, trust }, parts);
      return { ...found, bounds: parts.gpus.rungsOf(runId, found.bounds, gpuMemory.isHeld()) };
    },
    fenceFindings: () => fenceFindings(fence),
    openIncident: async (state, incidentId) => {
      const sign = parts.gpus.signOf(runId);
      const told = await lastWords(state, parts.evidence);
      const traceparent = request.traceparent ?? null;
      const command = parts.evidence.secrets.hide(runId, state.spec.command);
      incidents.open(state, incidentId, { caller, labels: run.labels, command, traceparent, fromSeq, sign, ...told });
    },
    settleTraffic: async () => void (await parts.evidence.traffic.look(runId)),
    notifyHeld: (state, breach) => notices.held(state, breach),
    now: () => ({ at: new Date().toISOString(), atMs: bootTimeMs() }),
  };
}

function watchBoundsOf(spec: Spec): WatchBounds {
  return {
    budgets: budgetPlansOf(spec),
    graceMs: spec.graceMs,
    warnAt: spec.warnAt,
    onOom: spec.limits.onOom,
    killWithoutDaemonAfterMs: spec.supervisorLost.action === 'kill' ? spec.supervisorLost.forMs : null,
    gpu: gpuBoundsOf(spec),
  };
}

function gpuBoundsOf({ limits, telemetryLost }: Spec): WatchBounds['gpu'] {
  if (limits.gpu === null) return null;
  const silentMsMax = telemetryLost.action === 'kill' ? telemetryLost.forMs : null;
  const { memoryBytesMax } = limits.gpu;
  // What does not fit into a card goes to the host, and a card without memory of its own has nothing else.
  return { memoryBytesMax, hostMemoryBytesMax: limits.memoryBytesMax + (memoryBytesMax ?? 0), silentMsMax };
}

function refuseProblems(facts: Parameters<typeof launchProblems>[0], document: StrictDocument): void {
  const problems = launchProblems(facts);
  const label = problems.find(({ path }) => path === 'labels');
  // A label comes from the command line, so it has no place in the file.
  if (label !== undefined) throw fail('REQUEST_INVALID', { detail: `labels ${label.message}` });
  if (problems.length === 0) return;
  throw refusalOf(
    'PROFILE_INVALID',
    problems.map((found) => problemAtPath(keysOf(found.path), found, document)),
  );
}

function bindOf(mount: CheckedMount, target: string): ContainerPlan['binds'][number] {
  return { source: mount.realPath, target, readOnly: mount.mode === 'ro' };
}

function grantOf(spec: Spec, lease: FenceLease): FenceGrant {
  return {
    lease,
    names: rulesOf(spec).filter((rule) => rule.kind === 'name'),
    addresses: rulesOf(spec).filter((rule) => rule.kind === 'address'),
    egressBytesMax: spec.budget.egressBytes,
    ingressBytesMax: spec.budget.ingressBytes,
    connectionsMax: spec.budget.connections,
    bandwidthBitsPerSecond: spec.limits.bandwidthBitsPerSecond,
  };
}

/** What is allowed and what a person is asked about. Allow is first, and the first match decides. */
function rulesOf({ egress }: Spec): readonly (EgressRule & { readonly ask: boolean })[] {
  return [
    ...egress.allow.map((rule) => ({ ...rule, ask: false })),
    ...egress.ask.map((rule) => ({ ...rule, ask: true })),
  ];
}

export function cgroupsFor({ cgroupDriver }: EngineFacts): RunCgroups {
  return {
    make: (runId) => makeRunCgroup(runId, cgroupDriver),
    remove: (runId) => removeRunCgroup(runId),
    holdSockets: ({ parentPaths, containerId, bytesMax }) =>
      holdSockets(parentPaths, { containerId, bytesMax, driver: cgroupDriver }),
    leafPathsOf: (pid) => leafPathsOf(pid),
    killNow: killCgroup,
  };
}

/** Returns the pids that are still there. */
export async function killCgroup(paths: CgroupPaths): Promise<readonly number[]> {
  killNow(paths);
  await delay(KILL_LOOK_MS);
  return pidsOf(paths);
}

type ReadBackTarget = {
  readonly containerId: string;
  readonly plan: ContainerPlan;
  readonly spec: Spec;
  readonly disks: RunDisks;
  readonly hostNamespaces: Readonly<Record<string, string>>;
  readonly trust: StagedTrust | null;
};

async function readBack(target: ReadBackTarget, { engine, engineFacts }: HostParts): Promise<ReadBack> {
  const { plan, spec, disks, hostNamespaces, trust } = target;
  const mounts = disks.mounts();
  const before = await engine.inspectContainer(target.containerId);
  // The process is looked at last: one that is still there had its cgroup until then.
  const held = before.pid === null ? null : readKernel(before.pid, engineFacts);
  const process = before.pid === null ? null : await readProcessFacts(before.pid);
  const kernel = process === null ? null : held;
  for (const mount of mounts) await recheckMount(mount);
  // The pid was the agent's for as long as the container still has it afterwards.
  const container = process === null ? before : await engine.inspectContainer(target.containerId);
  const stillIts = container.pid !== null && container.pid === before.pid;
  const mountLocations = {
    ...Object.fromEntries(mounts.map((mount, index) => [spec.mounts[index]?.path ?? '', mount.location])),
    ...trust?.locations,
  };
  const mismatches = compareLaunch({
    plan,
    container,
    kernel: stillIts ? kernel : null,
    process: stillIts ? process : null,
    hostNamespaces,
    mountLocations,
  });
  if (stillIts && before.pid !== null) disks.watch(before.pid, plan);
  return {
    mismatches,
    bounds: boundsOf(spec, disks.rungs),
    note: stillIts
      ? null
      : 'the agent was over before its own cgroup could be read; what the engine was given was compared',
  };
}

function readKernel(pid: number, { cgroupDriver }: EngineFacts): KernelLimits | null {
  let held: ReturnType<typeof readLimits>;
  try {
    held = readLimits(leafPathsOf(pid));
  } catch {
    return null;
  }
  const swap = held.memorySwapBytesMax;
  const sockets = cgroupDriver === 'systemd' ? 'absent' : held.socketBytesMax;
  return {
    memoryBytesMax: numberOf(held.memoryBytesMax),
    memorySwapBytesMax: swap === 'absent' ? null : numberOf(swap),
    cpuMillis: numberOf(held.cpuMillis),
    pidsMax: numberOf(held.pidsMax),
    socketBytesMax: sockets === 'absent' ? null : numberOf(sockets),
    io: readIoLimits(pid),
  };
}

/** What is unlimited or cannot be found equals no plan. */
function numberOf(held: HeldLimit): number {
  return typeof held === 'number' ? held : Number.POSITIVE_INFINITY;
}

/** What is wrong with the base rules; not being able to tell is wrong as well. */
export async function fenceFindings(fence: Fence): Promise<readonly string[]> {
  try {
    const state = await fence.verify();
    return state.kind === 'in-force' ? [] : state.findings;
  } catch (error) {
    return [messageOf(error)];
  }
}
