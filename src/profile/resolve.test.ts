import { describe, expect, test } from 'vitest';
import { formatProblem, parseProfile } from './parse.ts';
import { resolveProfile } from './resolve.ts';
import type { Spec } from './spec.ts';

const digest = `sha256:${'ab'.repeat(32)}`;

function resolve(text: string, folder = '/srv/profiles'): Spec | readonly string[] {
  const parsed = parseProfile({ file: 'sample.yaml', text });
  if (!parsed.ok) return parsed.problems.map(formatProblem);
  const resolved = resolveProfile({ parsed, digest, folder });
  return resolved.ok ? resolved.spec : resolved.problems.map(formatProblem);
}

const SMALLEST = `
apiVersion: ringfence/v1
name: sample
image: a:b
command: any
limits: { cpu: 0.125, memory: 6MiB, pids: 1 }
budget: { wall: 1s }
egress: {}
`;

test('the smallest profile, with every value explicit', () => {
  expect(resolve(SMALLEST)).toEqual({
    name: 'sample',
    description: '',
    owner: '',
    profileDigest: digest,
    image: 'a:b',
    command: [],
    commandFromCaller: true,
    user: { uid: 10001, gid: 10001 },
    env: {},
    secrets: [],
    mounts: [],
    limits: {
      cpuMillis: 125,
      memoryBytesMax: 6_291_456,
      onOom: 'agent',
      pidsMax: 1,
      diskBytesMax: 67_108_864,
      filesMax: 1024,
      bandwidthBitsPerSecond: null,
      ioBytesPerSecond: null,
      gpu: null,
    },
    budget: {
      wallMs: 1000,
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
    graceMs: 5000,
    quarantine: false,
    supervisorLost: { action: 'keep', forMs: 60_000 },
    telemetryLost: { action: 'kill', forMs: 10_000 },
    warnAt: [0.8],
    alerts: [],
    accept: [],
  });
});

test('the profile of the design, whole', () => {
  const spec = resolve(`
apiVersion: ringfence/v1
name: paper-reader
description: Reads papers and writes summaries.
owner: research-platform@example.com
image: ringfence/agent-python:local
command: [python3, /agent/main.py]
user: 10001:10002
env: { LANG: C.UTF-8 }
secrets:
  - { env: OPENAI_API_KEY, file: /etc/ringfence/secrets/openai }
  - { env: OTHER, file: ../secrets/other }
mounts:
  - { host: ./workspace, path: /workspace, mode: rw, size: 2GiB }
limits:
  cpu: 1.5
  memory: 1GiB
  onOom: process
  pids: 128
  disk: 2GiB
  files: 2048
  bandwidth: 20Mbit/s
  io: 50MiB/s
  gpu: { count: 1, memory: 8GiB }
budget: { wall: 30m, cpu: 20m, gpu: 10m, egress: 200MiB, ingress: 1GiB, connections: 2000, denials: 20/1m }
egress:
  allow:
    - api.openai.com
    - "*.pythonhosted.org:443"
    - { to: "github.com:22,443", inspect: true }
    - 10.20.0.5/32:5432
  ask:
    - "*.amazonaws.com"
on: { budget.cpu: stop, budget.denials: kill, grace: 7s, quarantine: true, supervisor.lost: { action: kill, for: 5m } }
warnAt: [95%, 80%]
alerts: [ops]
accept: [limits.gpu.memory]
`);
  expect(spec).toEqual({
    name: 'paper-reader',
    description: 'Reads papers and writes summaries.',
    owner: 'research-platform@example.com',
    profileDigest: digest,
    image: 'ringfence/agent-python:local',
    command: ['python3', '/agent/main.py'],
    commandFromCaller: false,
    user: { uid: 10001, gid: 10002 },
    env: { LANG: 'C.UTF-8' },
    secrets: [
      { env: 'OPENAI_API_KEY', file: '/etc/ringfence/secrets/openai' },
      { env: 'OTHER', file: '/srv/secrets/other' },
    ],
    mounts: [{ hostPath: '/srv/profiles/workspace', path: '/workspace', mode: 'rw', sizeBytesMax: 2_147_483_648 }],
    limits: {
      cpuMillis: 1500,
      memoryBytesMax: 1_073_741_824,
      onOom: 'process',
      pidsMax: 128,
      diskBytesMax: 2_147_483_648,
      filesMax: 2048,
      bandwidthBitsPerSecond: 20_000_000,
      ioBytesPerSecond: 52_428_800,
      gpu: { count: 1, vendor: null, devices: [], mig: null, memoryBytesMax: 8_589_934_592, share: false },
    },
    budget: {
      wallMs: 1_800_000,
      cpuMs: 1_200_000,
      gpuMs: 600_000,
      egressBytes: 209_715_200,
      ingressBytes: 1_073_741_824,
      connections: 2000,
      denials: { count: 20, windowMs: 60_000 },
    },
    egress: {
      allow: [
        nameRule('api.openai.com', { name: 'api.openai.com', ports: [443] }),
        nameRule('*.pythonhosted.org:443', { name: 'pythonhosted.org', wildcard: true, ports: [443] }),
        nameRule('github.com:22,443', { name: 'github.com', ports: [22, 443], inspect: true }),
        {
          kind: 'address',
          text: '10.20.0.5/32:5432',
          network: '10.20.0.5',
          prefixLength: 32,
          ports: [{ port: 5432, protocol: 'tcp' }],
        },
      ],
      ask: [nameRule('*.amazonaws.com', { name: 'amazonaws.com', wildcard: true, ports: [443] })],
    },
    on: {
      wall: 'kill',
      cpu: 'stop',
      gpu: 'kill',
      egress: 'kill',
      ingress: 'kill',
      connections: 'kill',
      denials: 'kill',
    },
    graceMs: 7000,
    quarantine: true,
    supervisorLost: { action: 'kill', forMs: 300_000 },
    telemetryLost: { action: 'kill', forMs: 10_000 },
    warnAt: [0.8, 0.95],
    alerts: ['ops'],
    accept: ['limits.gpu.memory'],
  });
});

type NameOptions = {
  readonly name: string;
  readonly ports: readonly number[];
  readonly wildcard?: boolean;
  readonly inspect?: boolean;
};
function nameRule(text: string, { name, ports, wildcard = false, inspect = false }: NameOptions) {
  const grants = ports.map((port) => ({ port, protocol: 'tcp', check: port === 443 ? 'tls' : null }));
  return { kind: 'name', text, name, wildcard, ports: grants, inspect, requests: [] };
}

test.each([
  ['0', { count: 0, windowMs: null }],
  ['50', { count: 50, windowMs: null }],
  ['"50"', { count: 50, windowMs: null }],
  ['20/1m', { count: 20, windowMs: 60_000 }],
  ['1/24h', { count: 1, windowMs: 86_400_000 }],
])('reads denials: %s', (text, denials) => {
  const spec = resolve(SMALLEST.replace('wall: 1s', `wall: 1s, denials: ${text}`));
  expect(spec).toMatchObject({ budget: { denials } });
});

test.each(['20/', '20/60', '/1m', '-1', '1.5', '20/1mo', '20/0s', '20/2d', '007', '1e3', 'none', '20 / 1m', '[0]'])(
  'refuses denials: %s',
  (text) => {
    expect(resolve(SMALLEST.replace('wall: 1s', `wall: 1s, denials: ${text}`))).toEqual([
      expect.stringMatching(/ budget\.denials(?:\[0\])?: must /),
    ]);
  },
);

describe('host paths', () => {
  const mounting = (host: string): string => `${SMALLEST}mounts: [{ host: ${host}, path: /work }]\n`;

  test.each([
    ['./workspace', '/srv/profiles/workspace'],
    ['.', '/srv/profiles'],
    ['..//x/./y', '/srv/x/y'],
    ['/data/a/../b/', '/data/b'],
    ['../../../../data', '/data'],
    ['/root/agent', '/root/agent'],
    ['/tmp/agent', '/tmp/agent'],
    ['/etcetera', '/etcetera'],
    ['/var/lib/dockerish', '/var/lib/dockerish'],
  ])('%s is %s', (host, hostPath) => {
    expect(resolve(mounting(host))).toMatchObject({ mounts: [{ hostPath, path: '/work', mode: 'ro' }] });
  });

  test.each([
    '..',
    '../..',
    '../../etc',
    '../../var/run/docker.sock',
    '../../root',
    '../../home/a',
    '../../proc/1/root',
  ])('%s is refused with its place', (host) => {
    expect(resolve(mounting(host))).toEqual([
      expect.stringMatching(/^sample\.yaml:9:18 mounts\[0\]\.host: must not be /),
    ]);
  });

  test('a profile in a forbidden folder cannot mount its neighbours', () => {
    expect(resolve(mounting('./workspace'), '/etc/ringfence/profiles')).toEqual([
      expect.stringContaining('must not be in /etc'),
    ]);
  });
});
