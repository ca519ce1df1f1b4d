import { describe, expect, it } from 'vitest';
import { leaseOf, plansOf, specOf } from '../../test/support/launch-fixtures.ts';
import type { EngineFacts, ImageFacts } from '../core/ports/engine.ts';
import type { Spec } from '../profile/spec.ts';
import { commandWithSecrets } from './environment.ts';
import { launchProblems } from './launch-problems.ts';
import { planContainer } from './plan.ts';

const MIB = 2 ** 20;

const IMAGE: ImageFacts = {
  digest: `sha256:${'1'.repeat(64)}`,
  repoDigests: [],
  entrypoint: ['/entry'],
  env: ['PATH=/bin'],
  user: 'root',
  volumes: [],
  workingDirectory: '',
  sizeBytes: 1,
};

const ENGINE: EngineFacts = {
  version: '28.0.0',
  apiVersion: '1.44',
  cgroupVersion: 2,
  cgroupDriver: 'systemd',
  storageDriver: 'overlay2',
  imageStore: 'classic',
  holds: { cpu: true, memory: true, swap: true, pids: true },
  rootDirectory: '/var/lib/docker',
  appArmor: true,
  seccomp: true,
  userNamespaces: false,
  liveRestore: false,
  cdiFolders: [],
  cpus: 2,
  memoryBytes: 4 * 2 ** 30,
};

function planned(spec: Partial<Spec> = {}, image: Partial<ImageFacts> = {}) {
  return plansOf({ index: 0, image: { ...IMAGE, ...image }, engine: ENGINE, spec });
}

function problems(spec: Partial<Spec>, image: Partial<ImageFacts> = {}, hasShell = true): readonly string[] {
  const facts = { spec: specOf(spec), image: { ...IMAGE, ...image }, engine: ENGINE, hasShell, labels: {} };
  return launchProblems(facts).map((problem) => problem.path);
}

describe('planContainer', () => {
  it('makes the whole plan explicit', () => {
    expect(planned({ command: ['/agent', '--fast'] })).toEqual({
      network: {
        name: 'ringfence-rtest00000000',
        bridge: 'rf-test0',
        subnet: '10.213.250.0/30',
        gateway: '10.213.250.1',
        labels: {
          'ringfence.run': 'rtest00000000',
          'ringfence.profile': 'launch-test',
          'ringfence.digest': `sha256:${'0'.repeat(64)}`,
          'ringfence.version': '0.0.0-test',
        },
      },
      container: {
        name: 'ringfence-launch-test-rtest00000000',
        image: IMAGE.digest,
        command: ['/agent', '--fast'],
        user: '10001:10001',
        env: [
          'HOME=/tmp',
          'RINGFENCE_RUN_ID=rtest00000000',
          'RINGFENCE_PROFILE=launch-test',
          'RINGFENCE_CPU_MILLIS=500',
          `RINGFENCE_MEMORY_BYTES=${64 * MIB}`,
          'RINGFENCE_PIDS=32',
          `RINGFENCE_DISK_BYTES=${16 * MIB}`,
          'RINGFENCE_WALL_MS=60000',
          'NVIDIA_VISIBLE_DEVICES=void',
        ],
        workingDirectory: '/',
        hostname: 'rtest00000000',
        tty: false,
        stdin: false,
        labels: {
          'ringfence.label.made': 'by a test',
          'ringfence.run': 'rtest00000000',
          'ringfence.profile': 'launch-test',
          'ringfence.digest': `sha256:${'0'.repeat(64)}`,
          'ringfence.version': '0.0.0-test',
        },
        network: 'ringfence-rtest00000000',
        address: '10.213.250.2',
        dns: '10.213.250.1',
        cgroupParent: '/ringfence/rtest00000000',
        cpuMillis: 500,
        memoryBytesMax: 64 * MIB,
        pidsMax: 32,
        filesMax: 256,
        tmpfs: [{ path: '/tmp', bytesMax: 12 * MIB, inodesMax: 1536, executable: true }],
        sharedMemoryBytesMax: 4 * MIB,
        binds: [],
        logBytesMax: 32 * MIB,
        gpu: null,
        io: null,
        appArmorProfile: 'docker-default',
      },
    });
  });

  it.each([MIB, 16 * MIB, 100 * MIB + 1, 64 * 1024 * MIB])(
    'keeps everything writable within %d bytes of disk',
    (bytes) => {
      const limits = { ...specOf().limits, diskBytesMax: bytes };
      for (const volumes of [[], ['/data'], ['/a', '/b', '/c']]) {
        const { container } = planned({ limits }, { volumes });
        const sizes = container.tmpfs.map((entry) => entry.bytesMax);
        const total = sizes.reduce((sum, size) => sum + size, container.sharedMemoryBytesMax);
        expect(total).toBeLessThanOrEqual(bytes);
        expect(total).toBeGreaterThan(bytes - 6 * 4096);
        expect(Math.min(...sizes, container.sharedMemoryBytesMax)).toBeGreaterThan(0);
        expect(container.tmpfs.map((entry) => entry.path)).toEqual(['/tmp', ...volumes]);
      }
    },
  );

  it('leaves a declared volume to the mount that covers it', () => {
    const mounts = [{ hostPath: '/srv/x', path: '/data', mode: 'rw' as const, sizeBytesMax: null }];
    expect(planned({ mounts }, { volumes: ['/data/'] }).container.tmpfs.map((entry) => entry.path)).toEqual(['/tmp']);
  });

  it('never asks for more cores than there are', () => {
    const limits = { ...specOf().limits, cpuMillis: 64_000 };
    expect(planned({ limits }).container.cpuMillis).toBe(2000);
  });

  it('takes the names of the supervisor away from an image, and keeps the others', () => {
    const env = [
      'NVIDIA_VISIBLE_DEVICES=all',
      'NVIDIA_DRIVER_CAPABILITIES=all',
      'CUDA_VERSION=12',
      'LD_PRELOAD=/x',
      'HOME=/h',
    ];
    const result = planned({ env: { MINE: 'a=b' } }, { env }).container.env;
    expect(result.filter((entry) => !entry.startsWith('RINGFENCE_'))).toEqual([
      'MINE=a=b',
      'NVIDIA_VISIBLE_DEVICES=void',
      'NVIDIA_DRIVER_CAPABILITIES',
      'LD_PRELOAD',
    ]);
  });

  it('puts no value of a secret anywhere, only where it is', () => {
    const secrets = [
      { env: 'API_KEY', file: '/etc/ringfence/secrets/key' },
      { env: 'CERT_FILE', file: '/etc/ringfence/secrets/cert' },
    ];
    const spec = { secrets, command: ['/agent', 'one two'] };
    const { container } = plansOf({
      index: 0,
      image: IMAGE,
      engine: ENGINE,
      spec,
      secretsFolder: '/run/ringfence/secrets/r',
    });
    expect(container.env).toContain('API_KEY_FILE=/run/secrets/API_KEY');
    expect(container.env).toContain('CERT_FILE=/run/secrets/CERT');
    expect(container.env.filter((entry) => entry.startsWith('API_KEY='))).toEqual([]);
    expect(container.binds).toEqual([{ source: '/run/ringfence/secrets/r', target: '/run/secrets', readOnly: true }]);
    expect(container.command).toEqual(commandWithSecrets(['/agent', 'one two'], ['API_KEY']));
    expect(container.command.slice(-3)).toEqual(['ringfence-launch', '/agent', 'one two']);
    expect(JSON.stringify(container)).not.toContain('/etc/ringfence');
  });

  it('mounts the certificates of an inspected run and names them, but where the profile names others', () => {
    const trustBinds = [
      { source: '/run/ringfence/trust/r', target: '/run/ringfence', readOnly: true },
      { source: '/run/ringfence/trust/r/bundle.pem', target: '/etc/ssl/cert.pem', readOnly: true },
    ];
    const spec = { env: { SSL_CERT_FILE: '/workspace/own.pem' } };
    const { container } = plansOf({ index: 0, image: IMAGE, engine: ENGINE, spec, trustBinds });
    expect(container.binds).toEqual(trustBinds);
    expect(container.env).toContain('NODE_EXTRA_CA_CERTS=/run/ringfence/ca.pem');
    expect(container.env).toContain('CURL_CA_BUNDLE=/run/ringfence/bundle.pem');
    expect(container.env.filter((entry) => entry.startsWith('SSL_CERT_FILE'))).toEqual([
      'SSL_CERT_FILE=/workspace/own.pem',
    ]);
    const { container: other } = plansOf({ index: 0, image: IMAGE, engine: ENGINE, spec: {} });
    expect(other.env.filter((entry) => entry.includes('pem'))).toEqual([]);
  });

  it('refuses to plan what has problems', () => {
    const input = {
      spec: specOf({ user: { uid: 0, gid: 0 } }),
      image: IMAGE,
      engine: ENGINE,
      hasShell: true,
      labels: {},
      runId: 'rtest00000000',
      version: '0',
      lease: leaseOf('rtest00000000', 0),
      binds: [],
      secretsFolder: null,
      cgroupParent: '/x',
      tty: false,
      stdin: false,
    };
    expect(() => planContainer(input)).toThrow(/no launch problems/);
  });
});

describe('launchProblems', () => {
  it('finds none in what can run', () => {
    expect(problems({})).toEqual([]);
    expect(problems({ env: { PATH: '/bin', LD_LIBRARY_PATH: '/lib', CUDAISH: '1' } })).toEqual([]);
    expect(problems({}, { workingDirectory: '/process', volumes: ['/system'] })).toEqual([]);
  });

  const limits = specOf().limits;
  const mount = (path: string) => ({ hostPath: '/srv/x', path, mode: 'ro' as const, sizeBytesMax: null });

  it.each<[string, Partial<Spec>, Partial<ImageFacts>, readonly string[]]>([
    ['no command', { command: [] }, {}, ['command']],
    ['an empty program', { command: [''] }, {}, ['command']],
    ['a NUL in the command', { command: ['a', 'b\0c'] }, {}, ['command']],
    ['root', { user: { uid: 0, gid: 10 } }, {}, ['user']],
    ['the group of root', { user: { uid: 10, gid: 0 } }, {}, ['user']],
    ['too little memory', { limits: { ...limits, memoryBytesMax: 6 * MIB - 1 } }, {}, ['limits.memory']],
    ['too little disk', { limits: { ...limits, diskBytesMax: MIB - 1 } }, {}, ['limits.disk']],
    ['too few processes', { limits: { ...limits, pidsMax: 2 } }, {}, ['limits.pids']],
    ['too little of a core', { limits: { ...limits, cpuMillis: 9 } }, {}, ['limits.cpu']],
    ['a GPU by the back door', { env: { NVIDIA_VISIBLE_DEVICES: 'all' } }, {}, ['env.NVIDIA_VISIBLE_DEVICES']],
    ['CUDA', { env: { CUDA_VISIBLE_DEVICES: '0' } }, {}, ['env.CUDA_VISIBLE_DEVICES']],
    ['preloaded code', { env: { LD_PRELOAD: '/x' } }, {}, ['env.LD_PRELOAD']],
    ['a false run id', { env: { RINGFENCE_RUN_ID: 'r' } }, {}, ['env.RINGFENCE_RUN_ID']],
    ['preloaded code as a secret', { secrets: [{ env: 'LD_PRELOAD', file: '/x' }] }, {}, ['secrets.LD_PRELOAD']],
    ['shell in the name of a secret', { secrets: [{ env: 'A;reboot', file: '/x' }] }, {}, ['secrets']],
    ['a path in the name of a secret', { secrets: [{ env: '../etc/x', file: '/x' }] }, {}, ['secrets']],
    [
      'one secret twice',
      {
        secrets: [
          { env: 'A', file: '/x' },
          { env: 'A_FILE', file: '/y' },
        ],
      },
      {},
      ['secrets'],
    ],
    ['a working directory in /proc', {}, { workingDirectory: '/proc/self/fd/8' }, ['image']],
    ['one that leads there', {}, { workingDirectory: '/tmp/../proc/self/fd/8' }, ['image']],
    ['a volume of the whole root', {}, { volumes: ['/'] }, ['image']],
    ['a volume in /dev', {}, { volumes: ['/dev/shm'] }, ['image']],
    ['too many volumes', {}, { volumes: Array.from({ length: 9 }, (_, index) => `/v${index}`) }, ['image']],
    ['a mount of the root', { mounts: [mount('/')] }, {}, ['mounts[0].path']],
    ['a mount over /proc', { mounts: [mount('/proc/1')] }, {}, ['mounts[0].path']],
    ['a mount that climbs', { mounts: [mount('/workspace/../proc')] }, {}, ['mounts[0].path']],
    ['a mount over scratch', { mounts: [mount('/tmp/x')] }, {}, ['mounts[0].path']],
    ['a mount over the secrets', { mounts: [mount('/run')] }, {}, ['mounts[0].path']],
    ['a mount over the init', { mounts: [mount('/sbin')] }, {}, ['mounts[0].path']],
    ['the same place twice', { mounts: [mount('/w'), mount('/w')] }, {}, ['mounts[1].path']],
  ])('names %s', (_name, spec, image, paths) => {
    expect(problems(spec, image)).toEqual(paths);
  });

  it('refuses a secret by value where there is no shell, and takes it as a file', () => {
    expect(problems({ secrets: [{ env: 'KEY', file: '/x' }] }, {}, false)).toEqual(['secrets.KEY']);
    expect(problems({ secrets: [{ env: 'KEY_FILE', file: '/x' }] }, {}, false)).toEqual([]);
    expect(problems({ secrets: [{ env: 'KEY', file: '/x' }] }, {}, true)).toEqual([]);
  });
});
