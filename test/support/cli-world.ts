import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import type { Approval, Incident } from '../../src/api/service.ts';
import { fail } from '../../src/core/errors.ts';
import { USAGE_NONE, type Breach } from '../../src/core/outcome.ts';
import { FAKE_BOUNDS, FAKE_TIME, fakeOutcome, fakeRun, type FakeAgent, type FakeService } from './fake-service.ts';

const MIB = 1024 * 1024;

const BREACH: Breach = {
  reason: 'budget.cpu',
  rule: 'budget.cpu',
  measured: 20_310,
  limit: 20_000,
  unit: 'ms',
  action: 'kill',
  denial: null,
};

const USAGE = {
  ...USAGE_NONE,
  wallMs: 21_000,
  cpuMs: 20_310,
  memoryBytes: 12 * MIB,
  memoryBytesPeak: 40 * MIB,
  pids: 3,
  pidsPeak: 5,
  egressBytes: 1536,
  denials: 2,
};

const INCIDENT: Incident = {
  id: 'i0123456789ab',
  host: 'guard-1',
  version: '0.1.0',
  subject: {
    profile: 'spinner',
    runId: 'rspinner00001',
    profileDigest: 'sha256:11',
    imageDigest: 'sha256:22',
    owner: 'research@example.com',
    command: ['sh', '-c', 'yes \u001b]0;owned\u0007'],
    labels: { ticket: 'OPS-12' },
    launchedBy: { uid: 1000, gid: 1000, pid: 99 },
    traceparent: null,
  },
  what: {
    reason: 'budget.cpu',
    rule: 'budget.cpu',
    summary: 'spinner used 20.3 s of CPU time, its budget is 20 s, and was killed.',
    explanation: 'CPU time is that of every process of the run together, as the kernel counts it.',
    severity: 'medium',
    tags: [],
  },
  evidence: {
    breach: BREACH,
    alsoBreached: [],
    process: {
      pid: 4242,
      executable: '/bin/busybox',
      argv: ['yes', '\u001b]0;owned\u0007'],
      argvSource: null,
      parents: ['sh'],
      cpuMs: 20_000,
    },
    usage: USAGE,
    usageBefore: null,
    bounds: FAKE_BOUNDS,
    lastDenials: [],
    lastAllowed: [],
    topProcesses: [],
    curve: [],
    logLines: [],
  },
  action: { asked: 'kill', taken: 'kill', signal: 'SIGKILL', survivors: 0 },
  times: {
    crossedAt: null,
    detectedAt: '2026-03-01T12:00:21.000Z',
    signalledAt: '2026-03-01T12:00:21.001Z',
    emptyAt: '2026-03-01T12:00:21.008Z',
    detectedToEmptyMs: 8,
  },
  context: { earlierIncidents: 0, last: null, quarantined: true, closed: null },
  trust: { fromSeq: 3, toSeq: 9, hash: `sha256:${'ab'.repeat(32)}`, checkpoint: null },
  cure: 'raise budget.cpu to 40s',
};

const agents: Readonly<Record<string, FakeAgent>> = {
  echo: async ({ stdin, print }) => {
    for await (const bytes of stdin) print(Buffer.from(bytes).toString().toUpperCase());
    print('done\n', 'stderr');
    return { exitCode: 3 };
  },
  words: async ({ request, print }) => {
    print(`${JSON.stringify({ command: request.command, labels: request.labels, tty: request.tty })}\n`);
    return {};
  },
  spinner: async ({ print }) => {
    print('spinning\n');
    return {
      reason: 'budget.cpu',
      rule: 'budget.cpu',
      detail: 'used 20310 ms of CPU time, the budget is 20000 ms',
      exitCode: 137,
      signal: 'SIGKILL',
      incidentId: INCIDENT.id,
    };
  },
  missing: async () => ({ reason: 'engine.failed', detail: 'exec: "/bin/nothing": no such file', exitCode: 127 }),
  broken: async () => ({ reason: 'engine.failed', detail: 'the engine does not answer', exitCode: null }),
  sleeper: async ({ nextSignal }) => ({ reason: 'stopped', detail: 'by hand', signal: await nextSignal() }),
};

/** Everything that the golden scripts find: profiles in `directory`, and a daemon that knows some runs. */
export async function buildWorld(service: FakeService, directory: string): Promise<void> {
  const folder = join(directory, 'profiles');
  await mkdir(folder);
  for (const [name, agent] of Object.entries(agents)) {
    await writeFile(join(folder, `${name}.yaml`), profileText(name));
    service.agents.set(join(folder, `${name}.yaml`), agent);
  }
  await writeFile(join(folder, 'invalid.yaml'), profileText('invalid').replace('pids: 64', 'pids: -4\n  memry: 1GiB'));
  await writeFile(join(folder, 'gpu.yaml'), profileText('gpu').replace('pids: 64', 'pids: 64\n  gpu: { count: 1 }'));
  await writeFile(
    join(folder, 'wider.yaml'),
    profileText('echo').replace('wall: 30m', 'wall: 1h').replace('{}', '{ ask: [a.example.com] }'),
  );
  await writeFile(
    join(folder, 'broad.yaml'),
    profileText('echo').replace('{}', '{ allow: ["*.example.com", a.example.com] }'),
  );
  await writeFile(join(folder, 'large.yaml'), `# ${'x'.repeat(10_000_000)}\n`);
  await writeFile(join(folder, 'latin1.yaml'), Buffer.from([0x6e, 0xe9, 0x0a]));
  await writeFile(join(folder, 'half.yaml'), profileText('half').slice(0, 150));
  await writeConfigs(directory);
  refuse(service, folder);
  addRuns(service);
  service.quarantined.add('spinner');
  service.incidentsById.set(INCIDENT.id, INCIDENT);
  service.explanations.set('rspinner00001', {
    subject: 'run rspinner00001 of spinner',
    headline: 'spinner used 20.3 s of CPU time, its budget is 20 s, and was killed.',
    rule: 'budget.cpu',
    evidence: ['20.3 s, allowed 20 s'],
    change: ['budget.cpu: 40s'],
  });
  service.doctorReport = {
    ok: true,
    checks: [
      { name: 'cgroup', state: 'ok', rung: 'kernel', evidence: 'version 1, cpu memory pids', fix: null },
      { name: 'apparmor', state: 'degraded', rung: 'none', evidence: 'not loaded', fix: 'apt-get install apparmor' },
    ],
  };
  addApprovals(service);
  addReloads(service, folder);
  service.removed = ['network rf-000000000009', 'cgroup /ringfence/r000000000009'];
}

function addApprovals(service: FakeService): void {
  const ago = (ms: number) => new Date(Date.now() - ms).toISOString();
  const approval: Approval = {
    id: 'adocs00000001',
    runId: 'rreader000001',
    profile: 'paper-reader',
    profileDigest: 'sha256:11',
    request: {
      kind: 'name',
      name: 'docs.example.com',
      ports: [{ port: 443, protocol: 'tcp' }],
      rule: '*.example.com',
    },
    wants: 'docs.example.com on 443/tcp',
    state: 'pending',
    requestedAt: ago(65_500),
    expiresAt: new Date(Date.now() + 234_500).toISOString(),
    decidedAt: null,
    decidedBy: null,
    forMs: null,
    reason: null,
  };
  const request = {
    kind: 'address',
    address: '192.0.2.7',
    port: 22,
    protocol: 'tcp',
    rule: '192.0.2.0/24:22',
  } as const;
  const address = { ...approval, id: 'assh000000001', request, wants: '192.0.2.7:22/tcp' };
  service.approvalsById.set(approval.id, approval);
  const paused = service.runs.get('rpaused000001');
  if (paused !== undefined) service.addRun({ ...paused, pending: [approval] });
  service.approvalsById.set(address.id, address);
  const over = { ...approval, id: 'aold000000001', requestedAt: ago(7_200_000), decidedAt: ago(6_900_000) };
  service.approvalsById.set(over.id, { ...over, state: 'expired' });
}

function addReloads(service: FakeService, folder: string): void {
  const file = join(folder, 'echo.yaml');
  service.reloads.set(file, {
    profile: 'echo',
    profileDigest: 'sha256:33',
    runs: [
      {
        runId: 'recho00000001',
        fromDigest: 'sha256:11',
        changes: [
          { path: 'budget.wall', before: '30m 00s', after: '10m 00s', effect: 'tighter' },
          { path: 'egress.allow', before: null, after: 'docs.example.com', effect: 'wider' },
          { path: 'owner', before: 'a@example.com', after: 'b@example.com\u001b[31m', effect: 'other' },
        ],
      },
      { runId: 'recho00000002', fromDigest: 'sha256:33', changes: [] },
    ],
  });
  const place = { file: join(folder, 'words.yaml'), line: 8, column: 11, path: 'limits.memory', hint: null };
  service.reloads.set(
    place.file,
    fail('RELOAD_NEEDS_RESTART', {
      problems: [{ ...place, message: '256 MiB → 512 MiB: a running agent keeps what it was launched with.' }],
    }),
  );
}

/** Configurations that a daemon must not start with. */
async function writeConfigs(directory: string): Promise<void> {
  const write = async (name: string, text: string, mode: number) => {
    await writeFile(join(directory, name), text);
    await chmod(join(directory, name), mode);
  };
  await write('open.yaml', 'runsMax: 4\n', 0o666);
  await write('unknown.yaml', 'runsMux: 4\n', 0o600);
  await write('broken.yaml', 'runsMax: [4\n', 0o600);
  await write('key', `whsec_${'A'.repeat(32)}\n`, 0o644);
  const sink = `{ type: webhook, url: "https://alerts.example.com", secretFiles: [${join(directory, 'key')}] }`;
  await write('leaky.yaml', `sinks:\n  ops: ${sink}\n`, 0o600);
}

function refuse(service: FakeService, folder: string): void {
  const file = join(folder, 'invalid.yaml');
  service.refusals.set(
    file,
    fail('PROFILE_INVALID', {
      problems: [
        { file, line: 9, column: 9, path: 'limits.pids', message: 'must be at least 1, got -4.', hint: 'leave it out' },
      ],
    }),
  );
  service.refusals.set(join(folder, 'half.yaml'), fail('PROFILE_QUARANTINED', { detail: 'half is in quarantine' }));
}

function addRuns(service: FakeService): void {
  const now = Date.now();
  const ago = (ms: number) => new Date(now - ms).toISOString();
  service.addRun(
    fakeRun({
      runId: 'rreader000001',
      profile: 'paper-reader',
      admittedAt: ago(62_500),
      startedAt: ago(62_000),
      usage: { ...USAGE, wallMs: 90_000, cpuMs: 3_120 },
      labels: { ticket: 'OPS-12\u001b[31m' },
      denialsByDestination: [{ destination: '203.0.113.9:22/tcp', count: 2 }],
    }),
  );
  service.addRun(
    fakeRun({
      runId: 'rspinner00001',
      profile: 'spinner',
      phase: 'over',
      admittedAt: ago(7_250_000),
      usage: USAGE,
      outcome: fakeOutcome({
        runId: 'rspinner00001',
        profile: 'spinner',
        reason: 'budget.cpu',
        rule: 'budget.cpu',
        detail: 'used 20310 ms of CPU time, the budget is 20000 ms',
        usage: USAGE,
        exitCode: 137,
        signal: 'SIGKILL',
        incidentId: INCIDENT.id,
      }),
    }),
  );
  service.addRun(
    fakeRun({
      runId: 'rpaused000001',
      profile: 'downloader',
      admittedAt: ago(62_500),
      startedAt: ago(62_000),
      held: { ...BREACH, reason: 'budget.egress', rule: 'budget.egress', unit: 'bytes', action: 'pause' },
      destinations: [{ address: '192.0.2.40', port: 443, protocol: 'tcp', egressBytes: 3 * MIB, packets: 4_000 }],
    }),
  );
  service.output.set('rreader000001', [
    { stream: 'stdout', bytes: Buffer.from('reading page 1\n') },
    { stream: 'stderr', bytes: Buffer.from('warning: slow\n') },
    { stream: 'stdout', bytes: Buffer.from('\u001b[31mred\u001b[0m\n') },
  ]);
  const record = { at: FAKE_TIME, prev: '', runId: 'rreader000001', profile: 'paper-reader' };
  service.addRecord({ ...record, seq: 1, kind: 'run.admitted' });
  service.addRecord({ ...record, seq: 2, kind: 'run.started', containerId: 'c0ffee' });
  service.addRecord({ seq: 3, at: '2026-03-02T12:00:00.000Z', prev: '', kind: 'daemon.stopped' });
}

function profileText(name: string): string {
  return `apiVersion: ringfence/v1
name: ${name}
description: For the tests of the command line.
owner: research@example.com
image: ringfence/agent-shell:local
command: any
limits:
  cpu: 1
  memory: 256MiB
  pids: 64
budget:
  wall: 30m
egress: {}
`;
}
