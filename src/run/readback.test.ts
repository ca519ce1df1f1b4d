import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { plansOf } from '../../test/support/launch-fixtures.ts';
import type { ContainerFacts } from '../core/ports/engine.ts';
import { createFakeEngine } from '../engine/fake.ts';
import { locate, parseMountInfo } from './mountinfo.ts';
import { parseProcessFacts } from './process-facts.ts';
import { compareLaunch } from './readback.ts';
import type { KernelLimits, LaunchEvidence } from './readback.ts';

const MIB = 2 ** 20;

const STATUS = `Name:	docker-init
State:	S (sleeping)
Uid:	10001	10001	10001	10001
Gid:	10001	10001	10001	10001
Groups:	10001 
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	0000000000000000
CapAmb:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
Seccomp_filters:	1
`;

const LIMITS = `Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    0                    bytes
Max open files            256                  256                  files
Max stack size            8388608              unlimited            bytes
`;

const MOUNT_INFO = `700 600 0:50 / / ro,relatime - overlay overlay rw,lowerdir=/a
701 700 0:51 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
702 700 0:52 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
703 700 0:53 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
704 702 0:54 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=4096k
705 700 0:55 / /tmp rw,nosuid,nodev,relatime - tmpfs tmpfs rw,size=12288k,nr_inodes=1536
706 700 8:1 /home/me/work\\040space /workspace rw,relatime - ext4 /dev/sda1 rw
707 700 8:1 /var/lib/docker/containers/x/hosts /etc/hosts ro,relatime - ext4 /dev/sda1 rw
`;

const HOST_NAMESPACES = {
  cgroup: 'cgroup:[1]',
  ipc: 'ipc:[1]',
  mnt: 'mnt:[1]',
  net: 'net:[1]',
  pid: 'pid:[1]',
  uts: 'uts:[1]',
};
const OWN_NAMESPACES = {
  cgroup: 'cgroup:[2]',
  ipc: 'ipc:[2]',
  mnt: 'mnt:[2]',
  net: 'net:[2]',
  pid: 'pid:[2]',
  uts: 'uts:[2]',
};

const KERNEL: KernelLimits = {
  memoryBytesMax: 64 * MIB,
  memorySwapBytesMax: 64 * MIB,
  cpuMillis: 500,
  pidsMax: 32,
  socketBytesMax: 64 * MIB,
  io: null,
};

async function faithful(): Promise<LaunchEvidence> {
  const fake = createFakeEngine();
  fake.addImage('agent');
  const [image, engine] = await Promise.all([fake.engine.resolveImage('agent'), fake.engine.facts()]);
  const { network, container: plan } = plansOf({
    index: 0,
    image,
    engine,
    spec: {
      command: ['wait'],
      mounts: [{ hostPath: '/home/me/work space', path: '/workspace', mode: 'rw', sizeBytesMax: null }],
    },
    binds: [{ source: '/home/me/work space', target: '/workspace', readOnly: false }],
  });
  await fake.engine.createNetwork(network);
  const id = await fake.engine.createContainer(plan);
  await fake.engine.startContainer(id);
  return {
    plan,
    container: await fake.engine.inspectContainer(id),
    kernel: KERNEL,
    process: processFacts({}),
    hostNamespaces: HOST_NAMESPACES,
    mountLocations: { '/workspace': { device: '8:1', path: '/home/me/work space', type: 'ext4' } },
  };
}

function processFacts(change: {
  status?: string;
  limits?: string;
  mountInfo?: string;
  namespaces?: Record<string, string>;
}) {
  return parseProcessFacts({
    status: STATUS,
    limits: LIMITS,
    mountInfo: MOUNT_INFO,
    namespaces: OWN_NAMESPACES,
    appArmor: null,
    ...change,
  });
}

async function paths(change: (evidence: LaunchEvidence) => Partial<LaunchEvidence>): Promise<readonly string[]> {
  const evidence = await faithful();
  return compareLaunch({ ...evidence, ...change(evidence) }).map((mismatch) => mismatch.path);
}

describe('compareLaunch', () => {
  it('finds nothing where everything is as planned', async () => {
    expect(compareLaunch(await faithful())).toEqual([]);
  });

  it.each<[string, Partial<ContainerFacts>]>([
    ['container.privileged', { privileged: true }],
    ['container.readOnlyRoot', { readOnlyRoot: false }],
    ['container.capabilitiesAdded', { capabilitiesAdded: ['NET_RAW'] }],
    ['container.capabilitiesDropped', { capabilitiesDropped: [] }],
    ['container.securityOptions', { securityOptions: ['no-new-privileges:true', 'seccomp=unconfined'] }],
    ['container.securityOptions', { securityOptions: [] }],
    [
      'container.namespaces.pid',
      {
        namespaceModes: {
          pid: 'host',
          ipc: 'private',
          uts: '',
          user: '',
          network: 'ringfence-rtest00000000',
          cgroup: 'private',
        },
      },
    ],
    ['container.publishedPorts', { publishedPorts: 1 }],
    ['container.devices', { devices: ['/dev/mem → /dev/mem rwm'] }],
    ['container.groupsAdded', { groupsAdded: ['0'] }],
    ['container.deviceRequests', { deviceRequests: ['nvidia GPU-1 gpu'] }],
    ['container.restartPolicy', { restartPolicy: 'always' }],
    ['container.limits.memory', { memoryBytesMax: 0 }],
    ['container.limits.memorySwap', { memorySwapBytesMax: -1 }],
    ['container.limits.cpu', { cpuMillis: 0 }],
    ['container.limits.pids', { pidsMax: -1 }],
    ['container.limits.files', { ulimits: { nofile: 1_048_576 } }],
    ['container.image', { image: 'sha256:other' }],
    ['container.user', { user: '' }],
    ['container.dns', { dns: [] }],
    [
      'container.networks',
      {
        networks: [
          { name: 'ringfence-rtest00000000', address: '10.213.250.2' },
          { name: 'bridge', address: '172.17.0.2' },
        ],
      },
    ],
    ['container.mounts', { mounts: [] }],
    ['container.logBytes', { logOptions: {} }],
    ['container.cgroupParent', { cgroupParent: '' }],
    ['container.labels.ringfence.run', { labels: { 'ringfence.label.made': 'by a test' } }],
  ])('names %s', async (path, change) => {
    expect(await paths(({ container }) => ({ container: { ...container, ...change } }))).toContain(path);
  });

  it.each<[string, Partial<KernelLimits>]>([
    ['limits.memory', { memoryBytesMax: 64 * MIB + 4096 }],
    ['limits.memorySockets', { socketBytesMax: Number.POSITIVE_INFINITY }],
    ['limits.memorySwap', { memorySwapBytesMax: 128 * MIB }],
    ['limits.cpu', { cpuMillis: 1000 }],
    ['limits.pids', { pidsMax: 33 }],
  ])('names %s when the kernel holds another', async (path, change) => {
    expect(await paths(() => ({ kernel: { ...KERNEL, ...change } }))).toEqual([path]);
  });

  it.each([
    ['process.noNewPrivileges', 'NoNewPrivs:\t1', 'NoNewPrivs:\t0'],
    ['process.seccomp', 'Seccomp:\t2', 'Seccomp:\t0'],
    ['process.uid', 'Uid:\t10001\t10001', 'Uid:\t10001\t0'],
    ['process.groups', 'Groups:\t10001 ', 'Groups:\t10001 44 '],
    ['process.groups', 'Groups:\t10001 \n', ''],
    ['process.gid', 'Gid:\t10001', 'Gid:\t0'],
    ['process.capabilities.CapEff', 'CapEff:\t0000000000000000', 'CapEff:\t0000000000000001'],
    ['process.capabilities.CapBnd', 'CapBnd:\t0000000000000000\n', ''],
  ])('names %s from the status of the process', async (path, from, to) => {
    expect(await paths(() => ({ process: processFacts({ status: STATUS.replace(from, to) }) }))).toEqual([path]);
  });

  it.each([
    ['mounts./', '/ / ro', '/ / rw'],
    ['mounts./tmp.flags', '/tmp rw,nosuid,nodev', '/tmp rw,nodev'],
    ['mounts./tmp.bytes', 'size=12288k', 'size=12292k'],
    ['mounts./tmp.inodes', 'nr_inodes=1536', 'nr_inodes=99999'],
    ['mounts./dev/shm.bytes', 'size=4096k', 'size=65536k'],
    ['mounts./workspace.source', '/home/me/work', '/home/me/other'],
    ['mounts./workspace.propagation', '/workspace rw,relatime -', '/workspace rw,relatime shared:4 -'],
    ['mounts./etc/hosts', '/etc/hosts ro', '/etc/hosts rw'],
  ])('names %s from the mounts of the process', async (path, from, to) => {
    const mountInfo = MOUNT_INFO.replace(from, to);
    expect(mountInfo).not.toBe(MOUNT_INFO);
    expect((await paths(() => ({ process: processFacts({ mountInfo }) })))[0]).toBe(path);
  });

  it('names a disk on which the kernel holds another rate, or none', async () => {
    const evidence = await faithful();
    const io = { bytesPerSecond: 1_000, devices: [{ device: '254:0', path: '/dev/vda' }] };
    const pathsOfRates = (held: KernelLimits['io']): readonly string[] =>
      compareLaunch({ ...evidence, plan: { ...evidence.plan, io }, kernel: { ...KERNEL, io: held } }).map(
        ({ path }) => path,
      );
    expect(pathsOfRates({ '254:0': { read: 1_000, write: 1_000 }, '7:0': { read: 5, write: null } })).toEqual([]);
    for (const held of [
      null,
      {},
      { '254:0': { read: 1_000, write: null } },
      { '7:0': { read: 1_000, write: 1_000 } },
    ]) {
      expect(pathsOfRates(held)).toEqual(['limits.io.254:0']);
    }
  });

  it('names a namespace that is the supervisor’s, and a file limit', async () => {
    const shared = { ...OWN_NAMESPACES, net: HOST_NAMESPACES.net };
    expect(await paths(() => ({ process: processFacts({ namespaces: shared }) }))).toEqual(['process.namespaces.net']);
    const limits = LIMITS.replace('256                  256', '256                  4096');
    expect(await paths(() => ({ process: processFacts({ limits }) }))).toEqual(['process.openFiles']);
  });

  it('takes secrets from memory and from the folder of their own run only', async () => {
    const secret = { source: '/run/ringfence/secrets/rtest00000000', target: '/run/secrets', readOnly: true };
    const line = '708 700 0:60 /rtest00000000 /run/secrets ro,nosuid,nodev,noexec - tmpfs ringfence-secrets rw';
    const withSecret = (mounted: string): Promise<readonly string[]> =>
      paths(({ plan, container }) => ({
        plan: { ...plan, binds: [...plan.binds, secret] },
        container: {
          ...container,
          mounts: [...container.mounts, { type: 'bind', ...secret, propagation: 'rprivate' }],
        },
        process: processFacts({ mountInfo: `${MOUNT_INFO}${mounted}\n` }),
      }));
    expect(await withSecret(line)).toEqual([]);
    expect(await withSecret('')).toEqual(['mounts./run/secrets']);
    expect(await withSecret(line.replace('tmpfs', 'ext4'))).toEqual(['mounts./run/secrets.inMemory']);
    expect(await withSecret(line.replace('/rtest00000000', '/rtest00000001'))).toEqual(['mounts./run/secrets.folder']);
    expect(await withSecret(line.replace('ro,', 'rw,'))).toEqual(['mounts./run/secrets.access']);
  });

  it('does not take what could not be read for a mismatch', async () => {
    expect(await paths(() => ({ kernel: null, process: null }))).toEqual([]);
  });
});

describe('mountinfo', () => {
  it('reads what the kernel escapes', () => {
    const fields = fc.stringMatching(/^\/[^\0]{0,20}$/u);
    fc.assert(
      fc.property(fields, fields, (root, target) => {
        const escape = (text: string): string =>
          text.replace(/[ \t\n\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);
        const line = `36 35 98:0 ${escape(root)} ${escape(target)} rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n`;
        expect(parseMountInfo(line)).toEqual([
          {
            device: '98:0',
            root,
            target,
            options: ['rw', 'noatime'],
            propagation: ['master:1'],
            type: 'ext3',
            source: '/dev/root',
            superOptions: ['rw', 'errors=continue'],
          },
        ]);
      }),
    );
  });

  it('finds where a path really is, through bind mounts and mounts over mounts', () => {
    const mounts = parseMountInfo(`1 0 8:1 / / rw - ext4 a rw
2 1 8:2 / /home rw - ext4 b rw
3 1 8:1 /etc /home/me/conf rw - ext4 a rw
4 1 0:9 / /home/me/conf/x rw - tmpfs c rw
5 4 0:10 / /home/me/conf/x rw - tmpfs d rw
`);
    expect(
      ['/', '/srv', '/home', '/home/me', '/homes', '/home/me/conf', '/home/me/conf/ssh', '/home/me/conf/x/y'].map(
        (path) => {
          const place = locate(mounts, path);
          return `${place?.device ?? ''} ${place?.path ?? ''}`;
        },
      ),
    ).toEqual(['8:1 /', '8:1 /srv', '8:2 /', '8:2 /me', '8:1 /homes', '8:1 /etc', '8:1 /etc/ssh', '0:10 /y']);
  });
});
