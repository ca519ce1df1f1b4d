import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { canThrottle, throttleCpu } from './throttle.ts';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'rf-throttle-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function write(files: Readonly<Record<string, string>>): void {
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  }
}

function read(file: string): string {
  return readFileSync(join(root, file), 'utf8').trim();
}

it('lowers on v2 the parent alone, because the kernel takes the least of the two', () => {
  write({ 'cpu.max': 'max 100000\n', 'c/cpu.max': '150000 100000\n' });
  const throttle = throttleCpu(root, 375);
  expect([throttle?.cpuMillis, read('cpu.max'), read('c/cpu.max')]).toEqual([375, '37500 100000', '150000 100000']);
  throttle?.lift();
  expect(read('cpu.max')).toBe('max');
});

it('lowers on v1 every cgroup that has more, each by its own period, and puts back what it found', () => {
  write({
    'cpu.cfs_quota_us': '-1\n',
    'cpu.cfs_period_us': '100000\n',
    'c/cpu.cfs_quota_us': '75000\n',
    'c/cpu.cfs_period_us': '50000\n',
    'c/little/cpu.cfs_quota_us': '1000\n',
    'c/little/cpu.cfs_period_us': '100000\n',
  });
  const quotas = (): readonly string[] => ['', 'c/', 'c/little/'].map((place) => read(`${place}cpu.cfs_quota_us`));
  const throttle = throttleCpu(root, 375);
  expect([throttle?.cpuMillis, quotas()]).toEqual([375, ['37500', '18750', '1000']]);
  throttle?.lift();
  expect(quotas()).toEqual(['-1', '75000', '1000']);
});

it('lowers it again when somebody has raised it, and says so when that is not possible', () => {
  write({ 'cpu.max': 'max 100000\n' });
  const throttle = throttleCpu(root, 375);
  expect([throttle?.keep(), read('cpu.max')]).toEqual([true, '37500 100000']);
  write({ 'cpu.max': 'max 100000\n' });
  expect([throttle?.keep(), read('cpu.max')]).toEqual([true, '37500 100000']);
  rmSync(join(root, 'cpu.max'));
  expect(throttle?.keep()).toBe(false);
  // A cgroup that is gone holds nobody.
  rmSync(root, { recursive: true });
  expect(throttle?.keep()).toBe(true);
});

it('leaves a parent as it is that was lowered before', () => {
  write({ 'cpu.max': '25000 100000\n' });
  const throttle = throttleCpu(root, 60);
  expect([throttle?.cpuMillis, read('cpu.max')]).toEqual([250, '25000 100000']);
});

it('goes no lower than the kernel does', () => {
  write({ 'cpu.max': 'max 100000\n' });
  expect([throttleCpu(root, 1)?.cpuMillis, read('cpu.max')]).toEqual([10, '1000 100000']);
});

it('says so where nothing holds the run to it', () => {
  expect([canThrottle(root), throttleCpu(root, 100)]).toEqual([false, null]);
  write({ 'cpu.max': 'max 100000\n' });
  expect(canThrottle(root)).toBe(true);
});
