import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { readLimits } from './limits.ts';
import { openMeter } from './meter.ts';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'rf-meter-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function write(files: Readonly<Record<string, string>>): void {
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  }
}

function v2Paths(directory: string): CgroupPaths {
  const path = join(root, directory);
  return { cpu: path, cpuacct: path, memory: path, pids: path, freezer: null, unified: path };
}

function v1Paths(directory: string, unified: string | null = null): CgroupPaths {
  const [cpu, cpuacct, memory, pids] = ['cpu', 'cpuacct', 'memory', 'pids'].map((name) => join(root, name, directory));
  if (cpu === undefined || cpuacct === undefined || memory === undefined || pids === undefined) throw new Error('four');
  const freezer = join(root, 'freezer', directory);
  return { cpu, cpuacct, memory, pids, freezer, unified: unified === null ? null : join(root, unified) };
}

const V2_PARENT = {
  'run/cpu.stat': 'usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 0\nthrottled_usec 0\n',
  'run/memory.current': '1048576\n',
  'run/memory.peak': '2097152\n',
  'run/memory.swap.current': '4096\n',
  'run/memory.stat': 'anon 5\nfile 6\nkernel 7\ninactive_anon 0\ninactive_file 65536\n',
  'run/memory.events': 'low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\noom_group_kill 0\n',
  'run/pids.current': '3\n',
  'run/pids.peak': '17\n',
  'run/pids.events': 'max 5\n',
  'run/cgroup.events': 'populated 1\nfrozen 0\n',
  'run/cgroup.procs': '',
  'run/cgroup.kill': '',
  'run/cgroup.freeze': '0\n',
};
const V2_LEAF = {
  'run/c/cpu.stat': 'usage_usec 1234567\nnr_periods 9\nnr_throttled 8\nthrottled_usec 7000\n',
  'run/c/memory.events': 'oom_kill 1\n',
  'run/c/pids.events': 'max 0\n',
};

describe('a meter of cgroup v2', () => {
  it('reads every counter, and throttling from the cgroup that has the quota', () => {
    write({ ...V2_PARENT, ...V2_LEAF });
    const meter = openMeter(v2Paths('run'));
    const before = meter.read().cpuThrottledMs;
    meter.openLeaf(v2Paths('run/c'));
    expect([before, meter.read(), meter.readSlow(), meter.populated()]).toEqual([
      0,
      {
        cpuMs: 1234.567,
        cpuThrottledMs: 7,
        memoryBytes: 1_048_576,
        memoryBytesPeak: 2_097_152,
        pids: 3,
        pidsPeak: 17,
        pidsRefusals: 5,
        oomKills: 2,
      },
      { inactiveFileBytes: 65_536, swapBytes: 4_096 },
      true,
    ]);
    meter.close();
  });

  it('reads the value of now through the descriptors it keeps', () => {
    write(V2_PARENT);
    const meter = openMeter(v2Paths('run'));
    write({ 'run/cpu.stat': 'usage_usec 2000000\n', 'run/pids.current': '1\n', 'run/memory.current': '5000000\n' });
    expect(meter.read()).toMatchObject({ cpuMs: 2_000, pids: 1, memoryBytes: 5_000_000, memoryBytesPeak: 5_000_000 });
    meter.close();
  });

  it('keeps its own peaks on a kernel that has none', () => {
    const { 'run/memory.peak': _peak, 'run/pids.peak': _pids, ...older } = V2_PARENT;
    write(older);
    const meter = openMeter(v2Paths('run'));
    meter.read();
    write({ 'run/memory.current': '1\n', 'run/pids.current': '1\n' });
    expect(meter.read()).toMatchObject({ memoryBytesPeak: 1_048_576, pidsPeak: 3 });
    meter.close();
  });

  it('watches the population, memory and pids files of the tree', () => {
    write(V2_PARENT);
    const meter = openMeter(v2Paths('run'));
    expect(meter.events().map(({ about, on }) => [about, on])).toEqual([
      ['population', 'priority'],
      ['memory', 'priority'],
      ['pids', 'priority'],
    ]);
    meter.close();
  });

  it('kills and freezes by one write each', () => {
    write(V2_PARENT);
    const meter = openMeter(v2Paths('run'));
    expect([meter.killAll(), meter.freeze()]).toEqual([true, true]);
    expect([
      readFileSync(join(root, 'run/cgroup.kill'), 'utf8'),
      readFileSync(join(root, 'run/cgroup.freeze'), 'utf8'),
    ]).toEqual(['1', '1\n']);
    meter.close();
  });

  it('says that it cannot kill where the kernel has no cgroup.kill, and makes no such file', () => {
    const { 'run/cgroup.kill': _kill, ...older } = V2_PARENT;
    write(older);
    const meter = openMeter(v2Paths('run'));
    expect(meter.killAll()).toBe(false);
    expect(() => readFileSync(join(root, 'run/cgroup.kill'))).toThrow(/ENOENT/);
    meter.close();
  });

  it.each(['run/cpu.stat', 'run/memory.current', 'run/pids.current'])('refuses a run whose %s is missing', (file) => {
    write(V2_PARENT);
    rmSync(join(root, file));
    expect(() => openMeter(v2Paths('run'))).toThrow(/cannot be read from/);
  });
});

describe('a meter of cgroup v1', () => {
  const parent = {
    'cpuacct/run/cpuacct.usage': '1500000000\n',
    'cpu/run/cpu.stat': 'nr_periods 0\nnr_throttled 0\nthrottled_time 0\n',
    'memory/run/memory.usage_in_bytes': '8192\n',
    'memory/run/memory.max_usage_in_bytes': '16384\n',
    'memory/run/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 0\n',
    'memory/run/memory.stat': 'inactive_file 1\ntotal_inactive_file 4096\ntotal_swap 512\n',
    'pids/run/pids.current': '2\n',
    'pids/run/pids.events': 'max 0\n',
    'pids/run/cgroup.procs': '',
  };
  const leaf = {
    'cpu/run/c/cpu.stat': 'nr_throttled 1\nthrottled_time 3000000\n',
    'memory/run/c/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 1\n',
    'pids/run/c/pids.events': 'max 6\n',
  };

  it('lets processes die that are frozen or out of quota', () => {
    write({
      ...parent,
      ...leaf,
      'freezer/run/freezer.state': 'FROZEN',
      'freezer/run/c/freezer.state': 'FROZEN',
      'cpu/run/c/cpu.cfs_quota_us': '50000',
    });
    const meter = openMeter(v1Paths('run'));
    meter.openLeaf(v1Paths('run/c'));
    meter.letDie();
    const files = ['freezer/run/freezer.state', 'freezer/run/c/freezer.state', 'cpu/run/c/cpu.cfs_quota_us'];
    const states = files.map((file) => readFileSync(join(root, file), 'utf8'));
    meter.close();
    expect(states).toEqual(['THAWED', 'THAWED', '-1000']);
  });

  it('takes what the kernel keeps only at the container from there', () => {
    write({ ...parent, ...leaf });
    const meter = openMeter(v1Paths('run'));
    meter.openLeaf(v1Paths('run/c'));
    expect([meter.read(), meter.readSlow(), meter.populated(), meter.killAll(), meter.empty()]).toEqual([
      {
        cpuMs: 1_500,
        cpuThrottledMs: 3,
        memoryBytes: 8_192,
        memoryBytesPeak: 16_384,
        pids: 2,
        pidsPeak: 2,
        pidsRefusals: 6,
        oomKills: 1,
      },
      { inactiveFileBytes: 4_096, swapBytes: 512 },
      null,
      false,
      true,
    ]);
    meter.close();
  });

  it('believes a list of processes over an empty v2 tree beside it', () => {
    write({ ...parent, 'v2/cgroup.events': 'populated 0\nfrozen 0\n', 'v2/cgroup.procs': '' });
    const paths = v1Paths('run', 'v2');
    const meter = openMeter(paths);
    const before = meter.empty();
    write({ 'pids/run/c/cgroup.procs': '4242\n' });
    expect([before, meter.populated(), meter.empty()]).toEqual([true, false, false]);
    meter.close();
  });
});

describe('readLimits', () => {
  it.each([
    [
      'v2 with limits',
      {
        'c/memory.max': '268435456\n',
        'c/memory.swap.max': '0\n',
        'c/cpu.max': '150000 100000\n',
        'c/pids.max': '128\n',
      },
      {
        memoryBytesMax: 268_435_456,
        memorySwapBytesMax: 268_435_456,
        cpuMillis: 1_500,
        pidsMax: 128,
        socketBytesMax: 'absent',
      },
    ],
    [
      'v2 without limits',
      { 'c/memory.max': 'max\n', 'c/memory.swap.max': 'max\n', 'c/cpu.max': 'max 100000\n', 'c/pids.max': 'max\n' },
      {
        memoryBytesMax: 'unlimited',
        memorySwapBytesMax: 'unlimited',
        cpuMillis: 'unlimited',
        pidsMax: 'unlimited',
        socketBytesMax: 'absent',
      },
    ],
    [
      'v2 with swap that only the cgroup above holds',
      {
        'memory.swap.max': '0\n',
        'c/memory.max': '4096\n',
        'c/memory.swap.max': 'max\n',
        'c/cpu.max': '5000 100000\n',
        'c/pids.max': '1\n',
      },
      { memoryBytesMax: 4_096, memorySwapBytesMax: 4_096, cpuMillis: 50, pidsMax: 1, socketBytesMax: 'absent' },
    ],
    [
      'v2 without the swap controller',
      { 'c/memory.max': '4096\n', 'c/cpu.max': '5000 100000\n', 'c/pids.max': '1\n' },
      { memoryBytesMax: 4_096, memorySwapBytesMax: 'absent', cpuMillis: 50, pidsMax: 1, socketBytesMax: 'absent' },
    ],
    [
      'nothing at all',
      {},
      {
        memoryBytesMax: 'absent',
        memorySwapBytesMax: 'absent',
        cpuMillis: 'absent',
        pidsMax: 'absent',
        socketBytesMax: 'absent',
      },
    ],
  ] as const)('reads %s', (_, files, expected) => {
    write(files);
    expect(readLimits(v2Paths('c'))).toEqual(expected);
  });

  it('reads v1, and its two spellings of "no limit"', () => {
    write({
      'memory/c/memory.limit_in_bytes': '67108864\n',
      'memory/c/memory.memsw.limit_in_bytes': '9223372036854771712\n',
      'cpu/c/cpu.cfs_quota_us': '-1\n',
      'cpu/c/cpu.cfs_period_us': '100000\n',
      'pids/c/pids.max': '64\n',
      'memory/c/memory.kmem.tcp.limit_in_bytes': '67108864\n',
    });
    expect(readLimits(v1Paths('c'))).toEqual({
      memoryBytesMax: 67_108_864,
      memorySwapBytesMax: 'unlimited',
      cpuMillis: 'unlimited',
      pidsMax: 64,
      socketBytesMax: 67_108_864,
    });
  });
});
