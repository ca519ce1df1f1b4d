import { describe, expect, it } from 'vitest';
import { specOf } from '../../test/support/launch-fixtures.ts';
import type { ContainerPlan, GpuPlan, ImageFacts } from '../core/ports/engine.ts';
import type { GpuGrant, Spec } from '../profile/spec.ts';
import { planContainer } from '../run/plan.ts';
import { compareLaunch } from '../run/readback.ts';
import { containerBody } from './create-body.ts';
import { createFakeEngine } from './fake.ts';
import { containerFacts } from './inspection.ts';

const engine = await createFakeEngine().engine.facts();
const GRANT: GpuGrant = { count: 1, vendor: null, devices: [], mig: null, memoryBytesMax: 8 * 2 ** 30, share: false };
const IMAGE: ImageFacts = {
  digest: `sha256:${'1'.repeat(64)}`,
  repoDigests: [],
  entrypoint: [],
  env: ['NVIDIA_VISIBLE_DEVICES=all', 'NVIDIA_DRIVER_CAPABILITIES=all', 'CUDA_VERSION=13.0'],
  user: '',
  volumes: [],
  workingDirectory: '/',
  sizeBytes: 1,
};

function planFor(gpu: GpuPlan | null): ContainerPlan {
  const plain = specOf();
  const spec: Spec = { ...plain, limits: { ...plain.limits, gpu: gpu === null ? null : GRANT } };
  const lease = { address: '10.213.0.2', gateway: '10.213.0.1', subnet: '10.213.0.0/30', bridge: 'rf-1' };
  return planContainer({
    spec,
    runId: 'rtest00000001',
    version: '0',
    lease: { ...lease, runId: 'rtest00000001' },
    image: IMAGE,
    engine,
    hasShell: true,
    labels: {},
    binds: [],
    secretsFolder: null,
    gpu,
    cgroupParent: '/ringfence/rtest00000001',
    tty: false,
    stdin: false,
  });
}

function requests(plan: ContainerPlan): unknown {
  return (containerBody(plan, engine) as { HostConfig: { DeviceRequests: unknown } }).HostConfig.DeviceRequests;
}

/** What the engine says of a container that it was asked for so; the mismatches about devices. */
function mismatches(plan: ContainerPlan, said: unknown): readonly string[] {
  const container = containerFacts({ HostConfig: { DeviceRequests: said } });
  const compared = compareLaunch({
    plan,
    container,
    kernel: null,
    process: null,
    hostNamespaces: {},
    mountLocations: {},
  });
  return compared.map(({ path }) => path).filter((path) => path.includes('device'));
}

const variables = ({ env }: ContainerPlan): readonly string[] =>
  env.filter((entry) => /^(NVIDIA|CUDA)_\w+=/.test(entry));

const NODES = {
  request: 'nvidia',
  devices: [],
  nodes: [
    { source: '/dev/dri/renderD129', target: '/dev/dri/renderD129' },
    { source: '/dev/kfd', target: '/dev/kfd' },
  ],
  groupIds: [105],
} as const;

describe('the device nodes of a run', () => {
  const plan = planFor(NODES);
  const host = {
    Devices: NODES.nodes.map(({ source, target }) => ({
      PathOnHost: source,
      PathInContainer: target,
      CgroupPermissions: 'rw',
    })),
    GroupAdd: ['105'],
  };
  const hostOf = (of: ContainerPlan): Record<string, unknown> =>
    (containerBody(of, engine) as { HostConfig: Record<string, unknown> }).HostConfig;
  const wrong = (of: ContainerPlan, said: unknown): readonly string[] => {
    const container = containerFacts({ HostConfig: said });
    const world = { kernel: null, process: null, hostNamespaces: {}, mountLocations: {} };
    return compareLaunch({ plan: of, container, ...world })
      .map(({ path }) => path)
      .filter((path) => /device|groupsAdded/.test(path));
  };

  it('are given one by one, with the group that may use them and without anything of NVIDIA', () => {
    expect(hostOf(plan)).toMatchObject({ ...host, DeviceRequests: [], DeviceCgroupRules: [], CapAdd: [] });
    expect(variables(plan)).toEqual(['NVIDIA_VISIBLE_DEVICES=void']);
    expect(hostOf(planFor(null))).toMatchObject({ Devices: [], GroupAdd: [] });
  });

  it('go beside what the engine knows by its id', () => {
    const both = planFor({ ...NODES, request: 'cdi', devices: ['GPU-1'] });
    expect(hostOf(both)).toMatchObject({
      ...host,
      DeviceRequests: [{ Driver: 'cdi', DeviceIDs: ['nvidia.com/gpu=GPU-1'] }],
    });
  });

  it.each<[string, ContainerPlan, unknown, readonly string[]]>([
    ['as they were asked for', plan, host, []],
    ['none for a run without one', planFor(null), { Devices: null, GroupAdd: null }, []],
    ['one less', plan, { ...host, Devices: host.Devices.slice(1) }, ['container.devices']],
    [
      'one that may be made anew',
      plan,
      { ...host, Devices: host.Devices.map((each) => ({ ...each, CgroupPermissions: 'rwm' })) },
      ['container.devices'],
    ],
    ['one for a run without one', planFor(null), { Devices: host.Devices.slice(0, 1) }, ['container.devices']],
    ['a group for a run without one', planFor(null), { GroupAdd: ['0'] }, ['container.groupsAdded']],
    ['no group', plan, { ...host, GroupAdd: [] }, ['container.groupsAdded']],
  ])('read back %s', (_, of, said, paths) => {
    expect(wrong(of, said)).toEqual(paths);
  });
});

describe('the devices of a run', () => {
  const cdi = planFor({ request: 'cdi', devices: ['GPU-1', 'GPU-2'], nodes: [], groupIds: [] });
  const classic = planFor({ request: 'nvidia', devices: ['GPU-1'], nodes: [], groupIds: [] });
  const none = planFor(null);

  it('are asked for by their ids, and never by a count', () => {
    expect(requests(cdi)).toEqual([{ Driver: 'cdi', DeviceIDs: ['nvidia.com/gpu=GPU-1', 'nvidia.com/gpu=GPU-2'] }]);
    expect(requests(classic)).toEqual([
      { Driver: 'nvidia', DeviceIDs: ['GPU-1'], Capabilities: [['gpu', 'compute', 'utility']] },
    ]);
    expect(requests(none)).toEqual([]);
  });

  it('are what the variables say, whatever the image says', () => {
    expect(variables(none)).toEqual(['NVIDIA_VISIBLE_DEVICES=void']);
    expect(variables(cdi)).toEqual(['NVIDIA_VISIBLE_DEVICES=void', 'NVIDIA_GPU_MEMORY_LIMIT=8192']);
    expect(variables(classic)).toEqual(['NVIDIA_VISIBLE_DEVICES=GPU-1', 'NVIDIA_GPU_MEMORY_LIMIT=8192']);
    // A name without a value takes the variable of the image away.
    for (const plan of [none, cdi, classic]) expect(plan.env).toContain('NVIDIA_DRIVER_CAPABILITIES');
  });

  it('read back as they were asked for, also when the engine adds what it always adds', () => {
    const said = [
      {
        Driver: 'cdi',
        Count: 0,
        DeviceIDs: ['nvidia.com/gpu=GPU-1', 'nvidia.com/gpu=GPU-2'],
        Capabilities: null,
        Options: null,
      },
    ];
    expect(mismatches(cdi, said)).toEqual([]);
    const hook = [
      { Driver: 'nvidia', Count: 0, DeviceIDs: ['GPU-1'], Capabilities: [['gpu', 'compute', 'utility']], Options: {} },
    ];
    expect(mismatches(classic, hook)).toEqual([]);
    expect(mismatches(none, null)).toEqual([]);
  });

  it.each<[string, ContainerPlan, unknown]>([
    [
      'a device more',
      cdi,
      [{ Driver: 'cdi', DeviceIDs: ['nvidia.com/gpu=GPU-1', 'nvidia.com/gpu=GPU-2', 'nvidia.com/gpu=all'] }],
    ],
    [
      'another device',
      classic,
      [{ Driver: 'nvidia', DeviceIDs: ['GPU-2'], Capabilities: [['gpu', 'compute', 'utility']] }],
    ],
    [
      'all of them',
      classic,
      [{ Driver: 'nvidia', Count: -1, DeviceIDs: ['GPU-1'], Capabilities: [['gpu', 'compute', 'utility']] }],
    ],
    [
      'a capability more',
      classic,
      [{ Driver: 'nvidia', DeviceIDs: ['GPU-1'], Capabilities: [['gpu', 'compute', 'utility', 'display']] }],
    ],
    ['a device for a run without one', none, [{ Driver: 'nvidia', DeviceIDs: ['GPU-1'], Capabilities: [['gpu']] }]],
    ['none for a run with one', classic, []],
  ])('do not read back with %s', (_, plan, said) => {
    expect(mismatches(plan, said)).toEqual(['container.deviceRequests']);
  });
});
