import { describe, expect, it } from 'vitest';
import { plansOf, specOf } from '../../test/support/launch-fixtures.ts';
import type { ImageFacts } from '../core/ports/engine.ts';
import { boundsOf } from '../run/bounds.ts';
import { containerBody } from './create-body.ts';
import { engineFacts } from './inspection.ts';

/** What `GET /info` says of where images lie; the rest of the answer is the same for all. */
const INFO = {
  ServerVersion: '29.0.0',
  CgroupVersion: '2',
  CgroupDriver: 'systemd',
  DockerRootDir: '/var/lib/docker',
  CpuCfsPeriod: true,
  CpuCfsQuota: true,
  MemoryLimit: true,
  SwapLimit: true,
  PidsLimit: true,
  SecurityOptions: ['name=seccomp,profile=builtin', 'name=cgroupns'],
};
const CLASSIC = { Driver: 'overlay2', DriverStatus: [['Backing Filesystem', 'extfs']] };
const CONTAINERD = { Driver: 'overlayfs', DriverStatus: [['driver-type', 'io.containerd.snapshotter.v1']] };

const factsOf = (store: object) => engineFacts({ ...INFO, ...store }, '1.52');
const MIB = 2 ** 20;

/** An image that would have the engine make a volume, which no store bounds. */
const IMAGE: ImageFacts = {
  digest: `sha256:${'1'.repeat(64)}`,
  repoDigests: [],
  entrypoint: [],
  env: [],
  user: '',
  volumes: ['/data'],
  workingDirectory: '/',
  sizeBytes: 1,
};

it.each([
  ['the graph driver of the engine', CLASSIC, 'classic'],
  ['a snapshotter of containerd', CONTAINERD, 'containerd'],
  ['another of its snapshotters', { ...CONTAINERD, Driver: 'zfs' }, 'containerd'],
  ['a driver that says nothing of itself', { Driver: 'vfs', DriverStatus: null }, 'classic'],
  ['a driver of another type', { ...CLASSIC, DriverStatus: [['driver-type', 'else']] }, 'classic'],
])('%s is told as what it is', (_, store, imageStore) => {
  expect(factsOf(store)).toMatchObject({ imageStore, storageDriver: store.Driver });
});

describe.each([
  ['classic', CLASSIC],
  ['containerd', CONTAINERD],
])('with the %s image store', (_, store) => {
  const engine = factsOf(store);
  const spec = { limits: { ...specOf().limits, diskBytesMax: 16 * MIB } };
  const plan = plansOf({ index: 0, image: IMAGE, engine, spec }).container;
  const { HostConfig: host } = containerBody(plan, engine) as { HostConfig: Record<string, unknown> };

  it('nothing is left to the store that it may ignore: the root is read-only and no size is asked of it', () => {
    expect([host['ReadonlyRootfs'], host['StorageOpt'], host['Binds']]).toEqual([true, undefined, undefined]);
  });

  it('all that is writable is in memory, and together no more than limits.disk', () => {
    const tmpfs = Object.entries(host['Tmpfs'] as Record<string, string>);
    expect(tmpfs.map(([path]) => path).toSorted()).toEqual(['/data', '/tmp']);
    const sizes = tmpfs.map(([, options]) => Number(/\bsize=(\d+)\b/.exec(options)?.[1]));
    expect([...sizes, host['ShmSize'] as number].reduce((sum, size) => sum + size, 0)).toBe(16 * MIB);
  });

  it('limits.disk is held by the kernel', () => {
    const bound = boundsOf(specOf(spec), { io: 'none' }).find(({ path }) => path === 'limits.disk');
    expect(bound).toEqual({ path: 'limits.disk', value: 16 * MIB, unit: 'bytes', rung: 'kernel' });
  });
});
