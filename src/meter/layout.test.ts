import { describe, expect, it } from 'vitest';
import { layoutFrom, leafPathsFrom } from './layout.ts';

const SEPARATE_V1 = `
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
38 31 0:35 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw`;
const JOINT_V1 = `
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,nosuid shared:11 - cgroup cgroup rw,pids
90 31 0:36 /docker/abc /var/lib/other/pids rw,nosuid - cgroup cgroup rw,pids`;
const V2 = '30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot';

describe('layoutFrom', () => {
  it('finds v1 controllers mounted apart, with a v2 tree beside them', () => {
    expect(layoutFrom(SEPARATE_V1)).toMatchObject({
      version: 1,
      mounts: {
        cpu: '/sys/fs/cgroup/cpu',
        cpuacct: '/sys/fs/cgroup/cpuacct',
        memory: '/sys/fs/cgroup/memory',
        pids: '/sys/fs/cgroup/pids',
        freezer: '/sys/fs/cgroup/freezer',
        unified: '/sys/fs/cgroup/unified',
      },
    });
  });

  it('finds v1 controllers that share a mount, and passes over a bind mount of a part', () => {
    const { mounts, directories } = layoutFrom(JOINT_V1);
    expect([mounts.cpu, mounts.cpuacct, mounts.pids, mounts.unified, directories.length]).toEqual([
      '/sys/fs/cgroup/cpu,cpuacct',
      '/sys/fs/cgroup/cpu,cpuacct',
      '/sys/fs/cgroup/pids',
      null,
      3,
    ]);
  });

  it('finds v2 alone', () => {
    const layout = layoutFrom(V2);
    expect([layout.version, new Set(Object.values(layout.mounts))]).toEqual([2, new Set(['/sys/fs/cgroup', null])]);
  });

  it('refuses a host where a controller is missing', () => {
    expect(() => layoutFrom(SEPARATE_V1.replace(/.*rw,pids/, ''))).toThrow(/neither all mounted/);
    expect(() => layoutFrom('')).toThrow(/neither all mounted/);
  });
});

describe('leafPathsFrom', () => {
  it('names the directory of a process in every hierarchy', () => {
    const text = '9:name=systemd:/x\n4:memory:/ringfence/r1/c\n3:cpu,cpuacct:/ringfence/r1/c\n2:pids:/ringfence/r1/c\n';
    expect(leafPathsFrom(text, layoutFrom(JOINT_V1))).toEqual({
      cpu: '/sys/fs/cgroup/cpu,cpuacct/ringfence/r1/c',
      cpuacct: '/sys/fs/cgroup/cpu,cpuacct/ringfence/r1/c',
      memory: '/sys/fs/cgroup/memory/ringfence/r1/c',
      pids: '/sys/fs/cgroup/pids/ringfence/r1/c',
      freezer: null,
      unified: null,
    });
  });

  it('reads the scope of the systemd driver on v2', () => {
    const scope = '/ringfence.slice/ringfence-r1.slice/docker-0123abcd.scope';
    expect(leafPathsFrom(`0::${scope}\n`, layoutFrom(V2)).memory).toBe(`/sys/fs/cgroup${scope}`);
  });

  it('refuses a process that is in no memory cgroup', () => {
    expect(() => leafPathsFrom('2:pids:/x\n', layoutFrom(JOINT_V1))).toThrow(/in no cpu cgroup/);
  });
});
