import type { ContainerPlan, EngineFacts, ImageFacts, NetworkPlan } from '../../src/core/ports/engine.ts';
import type { FenceLease } from '../../src/core/ports/fence.ts';
import type { Spec } from '../../src/profile/spec.ts';
import { planContainer, planNetwork } from '../../src/run/plan.ts';

/** A spec, a lease and plans for tests of the launch: everything explicit, everything small. */
const MIB = 2 ** 20;

export function specOf(change: Partial<Spec> = {}): Spec {
  return {
    name: 'launch-test',
    description: '',
    owner: '',
    profileDigest: `sha256:${'0'.repeat(64)}`,
    image: 'ringfence/agent-shell:local',
    command: ['/bin/true'],
    commandFromCaller: false,
    user: { uid: 10_001, gid: 10_001 },
    env: {},
    secrets: [],
    mounts: [],
    limits: {
      cpuMillis: 500,
      memoryBytesMax: 64 * MIB,
      onOom: 'agent',
      pidsMax: 32,
      diskBytesMax: 16 * MIB,
      filesMax: 256,
      bandwidthBitsPerSecond: null,
      ioBytesPerSecond: null,
      gpu: null,
    },
    budget: {
      wallMs: 60_000,
      cpuMs: null,
      gpuMs: null,
      egressBytes: null,
      ingressBytes: null,
      connections: null,
      denials: null,
    },
    egress: { allow: [], ask: [] },
    on: {
      wall: 'kill',
      cpu: 'kill',
      gpu: 'kill',
      egress: 'kill',
      ingress: 'kill',
      connections: 'kill',
      denials: 'kill',
    },
    graceMs: 1000,
    quarantine: false,
    supervisorLost: { action: 'keep', forMs: 0 },
    telemetryLost: { action: 'kill', forMs: 10_000 },
    warnAt: [],
    alerts: [],
    accept: [],
    ...change,
  };
}

/** Numbered leases at the end of the pool, so that tests and supervised runs on one engine do not meet. */
export function leaseOf(runId: string, index: number): FenceLease {
  return {
    runId,
    bridge: `rf-test${index}`,
    subnet: `10.213.250.${index * 4}/30`,
    gateway: `10.213.250.${index * 4 + 1}`,
    address: `10.213.250.${index * 4 + 2}`,
  };
}

/** A run id that holds the number of this process: cgroups are one tree for every lab of the machine. */
export function uniqueRunId(index: number): string {
  return `rt${process.pid.toString(36).padStart(7, '0')}${String(index).padStart(4, '0')}`;
}

export type TestPlans = { readonly network: NetworkPlan; readonly container: ContainerPlan };

/** Plans for run number `index` (0 to 9) of one test file. */
export function plansOf(options: {
  readonly index: number;
  /** Real runs need an id that no other test on the machine has at the time: `uniqueRunId`. */
  readonly runId?: string;
  readonly image: ImageFacts;
  readonly engine: EngineFacts;
  readonly spec?: Partial<Spec>;
  readonly tty?: boolean;
  readonly stdin?: boolean;
  readonly binds?: ContainerPlan['binds'];
  readonly secretsFolder?: string;
  readonly trustBinds?: ContainerPlan['binds'];
  readonly cgroupParent?: string;
}): TestPlans {
  const runId = options.runId ?? `rtest${String(options.index).padStart(8, '0')}`;
  const spec = specOf(options.spec);
  const common = { spec, runId, version: '0.0.0-test', lease: leaseOf(runId, options.index) };
  return {
    network: planNetwork(common),
    container: planContainer({
      ...common,
      image: options.image,
      engine: options.engine,
      hasShell: true,
      labels: { made: 'by a test' },
      binds: options.binds ?? [],
      secretsFolder: options.secretsFolder ?? null,
      trustBinds: options.trustBinds ?? [],
      cgroupParent: options.cgroupParent ?? `/ringfence/${runId}`,
      tty: options.tty ?? false,
      stdin: options.stdin ?? false,
    }),
  };
}
