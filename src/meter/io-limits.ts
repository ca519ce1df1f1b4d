import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isGone } from './counters.ts';
import { detectLayout, type CgroupLayout } from './layout.ts';

/** Bytes a second, both ways, of each disk (`254:0`), as the kernel holds them for the cgroup of a process. */
export type HeldIo = Readonly<Record<string, { readonly read: number | null; readonly write: number | null }>>;

/** null: the process is gone, or nothing limits disks here. */
export function readIoLimits(pid: number, layout: CgroupLayout = detectLayout()): HeldIo | null {
  try {
    const path = pathOf(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), layout.version === 1 ? 'blkio' : '');
    const mount = layout.byController.get(layout.version === 1 ? 'blkio' : '');
    if (path === null || mount === undefined) return null;
    const folder = join(mount, path);
    if (layout.version === 2) return fromIoMax(readFileSync(join(folder, 'io.max'), 'latin1'));
    return fromThrottle({
      read: readFileSync(join(folder, 'blkio.throttle.read_bps_device'), 'latin1'),
      write: readFileSync(join(folder, 'blkio.throttle.write_bps_device'), 'latin1'),
    });
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

function pathOf(procCgroup: string, controller: string): string | null {
  for (const line of procCgroup.split('\n')) {
    const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (match?.[1]?.split(',').includes(controller) === true) return match[2] ?? null;
  }
  return null;
}

/** `254:0 rbps=1048576 wbps=max riops=max wiops=max` (cgroup-v2.rst, io.max). */
export function fromIoMax(text: string): HeldIo {
  return Object.fromEntries(
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => {
        const [device = '', ...pairs] = line.split(' ');
        const values = new Map(pairs.map((pair) => pair.split('=') as [string, string]));
        return [device, { read: rate(values.get('rbps')), write: rate(values.get('wbps')) }];
      }),
  );
}

/** A line `254:0 1048576` a device in each of the two files (blkio-controller.rst). */
export function fromThrottle(files: { readonly read: string; readonly write: string }): HeldIo {
  const read = byDevice(files.read);
  const write = byDevice(files.write);
  const devices = new Set([...read.keys(), ...write.keys()]);
  return Object.fromEntries(
    [...devices].map((device) => [device, { read: read.get(device) ?? null, write: write.get(device) ?? null }]),
  );
}

function byDevice(text: string): ReadonlyMap<string, number | null> {
  const lines = text.split('\n').filter((line) => line !== '');
  return new Map(lines.map((line) => [line.split(' ')[0] ?? '', rate(line.split(' ')[1])]));
}

function rate(text: string | undefined): number | null {
  return text === undefined || !/^\d+$/.test(text) ? null : Number(text);
}
