import { closeSync, existsSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../core/errors.ts';
import type { CgroupPaths } from '../core/ports/warden.ts';
import { closeDescriptor, openEventfd } from '../kernel/libc.ts';
import { isGone, openCounter } from './counters.ts';
import type { Counter, CounterForm } from './counters.ts';
import { pidsOf } from './processes.ts';

/**
 * What a run uses, from its parent cgroup: that one outlives the container. The few counters that the kernel keeps
 * only in the container's own cgroup (v1: OOM kills, refused forks; both: throttling) are read there once it is known,
 * and keep their last value when it goes.
 */
export type Meter = {
  read(): CgroupReading;
  /**
   * CPU time, memory and processes alone, the rest as it was read last: what decides and is told by no event. A third of
   * the system calls, which are what supervising costs.
   */
  readMoving(): CgroupReading;
  /** What costs more than all of `read`, because the kernel adds it up for every reader: asked for seldom. */
  readSlow(): SlowReading;
  /** The container's own cgroup is known. */
  openLeaf(paths: CgroupPaths): void;
  /** What the v2 tree says, at next to no cost; null where there is none. */
  populated(): boolean | null;
  /** True when no process is left in any hierarchy. */
  empty(): boolean;
  /** Kills every process of the tree with one write; false where the kernel has no such file. */
  killAll(): boolean;
  /** Stops every process of the tree; frozen processes still die by SIGKILL on v2. False on v1 without a v2 tree. */
  freeze(): boolean;
  /**
   * Lets processes die of the signal they have: on v1 a frozen one waits to be thawed, and one whose CPU quota is used up
   * waits for the next period, which is up to 100 ms away.
   */
  letDie(): void;
  /** Descriptors that become ready when something happened; what each is polled for. Changes with `openLeaf`. */
  events(): readonly MeterEvent[];
  /** To be called when such a descriptor was ready, so that it is quiet until the next event. */
  rearm(event: MeterEvent): void;
  close(): void;
};

export type MeterEvent = {
  readonly fd: number;
  /** `priority`: a file of a v2 hierarchy that changed; `input`: an eventfd of v1. */
  readonly on: 'priority' | 'input';
  readonly about: 'population' | 'memory' | 'pids';
};

export type CgroupReading = {
  readonly cpuMs: number;
  readonly cpuThrottledMs: number;
  readonly memoryBytes: number;
  readonly memoryBytesPeak: number;
  readonly pids: number;
  readonly pidsPeak: number;
  readonly pidsRefusals: number;
  readonly oomKills: number;
};

export const READING_NONE: CgroupReading = {
  cpuMs: 0,
  cpuThrottledMs: 0,
  memoryBytes: 0,
  memoryBytesPeak: 0,
  pids: 0,
  pidsPeak: 0,
  pidsRefusals: 0,
  oomKills: 0,
};

export type SlowReading = {
  /** File cache that reclaim would drop first. */
  readonly inactiveFileBytes: number;
  readonly swapBytes: number;
};

const KILL = Buffer.from('1');
const THAWED = Buffer.from('THAWED');
const NO_QUOTA_V1 = Buffer.from('-1');
const NO_QUOTA_V2 = Buffer.from('max');
const EVENT_BYTES = Buffer.alloc(256);

/** Throws METER_FAILED when CPU time, memory or the number of processes cannot be read. */
export function openMeter(parent: CgroupPaths): Meter {
  const closers: (() => void)[] = [];
  try {
    return buildMeter(parent, closers);
  } catch (error) {
    for (const close of closers) close();
    throw error;
  }
}

function buildMeter(parent: CgroupPaths, closers: (() => void)[]): Meter {
  const keep = (counter: Counter | null): Counter | null => {
    if (counter !== null) closers.push(() => counter.close());
    return counter;
  };
  const need = (what: string, forms: readonly CounterForm[]): Counter => {
    const counter = keep(openCounter(forms));
    if (counter === null) {
      const files = forms.map((form) => form.file);
      throw fail('METER_FAILED', { detail: `the ${what} of a run cannot be read from ${files.join(' or ')}`, files });
    }
    return counter;
  };
  const cpu = need('CPU time', cpuForms(parent));
  const memory = need('memory use', memoryForms(parent));
  const pids = need('number of processes', [whole(parent.pids, 'pids.current')]);
  const memoryPeak = keep(openCounter(memoryPeakForms(parent)));
  const swap = keep(openCounter(swapForms(parent)));
  const pidsPeak = keep(openCounter([whole(parent.pids, 'pids.peak')]));
  const inactive = keep(openCounter(inactiveForms(parent)));
  const oom: Counter[] = [];
  const refusals: Counter[] = [];
  const throttled: Counter[] = [];
  const events: MeterEvent[] = [];
  const openShared = (paths: CgroupPaths): void => {
    collect(oom, keep(openCounter(oomForms(paths))));
    collect(refusals, keep(openCounter([keyed(paths.pids, 'pids.events', 'max')])));
    collect(throttled, keep(openCounter(throttledForms(paths))));
  };
  const brakes: { readonly file: number; readonly bytes: Uint8Array }[] = [];
  const openBrakes = (paths: CgroupPaths): void => {
    const candidates = [
      // Whoever has the engine's socket can pause a container; a kill must not wait for whoever resumes it.
      { file: openFile(paths.freezer, 'freezer.state', 'r+'), bytes: THAWED },
      { file: openFile(paths.cpu, 'cpu.cfs_quota_us', 'r+'), bytes: NO_QUOTA_V1 },
      { file: openFile(paths.cpu, 'cpu.max', 'r+'), bytes: NO_QUOTA_V2 },
    ];
    for (const { file, bytes } of candidates) {
      if (file === null) continue;
      brakes.push({ file, bytes });
      closers.push(() => closeSync(file));
    }
  };
  openShared(parent);
  openBrakes(parent);
  const killFile = openFile(parent.unified, 'cgroup.kill', 'w');
  const freezeFile = openFile(parent.unified, 'cgroup.freeze', 'r+');
  for (const file of [killFile, freezeFile]) if (file !== null) closers.push(() => closeSync(file));
  const populated = keep(openCounter(populatedForms(parent)));
  watchV2(parent, { populated, events, closers });

  let last = READING_NONE;
  const readMoving = (): CgroupReading => {
    const memoryBytes = memory.read();
    const pidsRead = pids.gone() ? 0 : pids.read();
    const pidsNow = pids.gone() ? 0 : pidsRead;
    return {
      ...last,
      cpuMs: cpu.read(),
      memoryBytes,
      memoryBytesPeak: Math.max(last.memoryBytesPeak, memoryBytes),
      pids: pidsNow,
      pidsPeak: Math.max(last.pidsPeak, pidsRead),
    };
  };
  return {
    readMoving: () => (last = readMoving()),
    read: () => {
      const moving = readMoving();
      last = {
        ...moving,
        cpuThrottledMs: largest(throttled),
        memoryBytesPeak: Math.max(moving.memoryBytesPeak, memoryPeak?.read() ?? 0),
        pidsPeak: Math.max(moving.pidsPeak, pidsPeak?.read() ?? 0),
        pidsRefusals: largest(refusals),
        oomKills: largest(oom),
      };
      return last;
    },
    readSlow: () => ({ inactiveFileBytes: inactive?.read() ?? 0, swapBytes: swap?.read() ?? 0 }),
    openLeaf: (paths) => {
      openShared(paths);
      openBrakes(paths);
      const oomEvent = openOomEvent(paths, closers);
      if (oomEvent !== null) events.push(oomEvent);
      // Kernels before 6.11 count a refused fork in the cgroup of who forked alone, and systemd removes that one with the
      // container; so it is read when it happens.
      if (paths.pids === paths.unified)
        watchFile({ directory: paths.pids, file: 'pids.events', about: 'pids' }, { events, closers });
    },
    populated: () => (populated === null || populated.gone() ? null : populated.read() !== 0),
    // The v2 tree answers at once; only when it says nothing is left, the slower list of v1 has the last word, because
    // an engine need not put its containers into the v2 tree of a hybrid host.
    empty: () => (populated === null || populated.read() === 0 || populated.gone()) && pidsOf(parent).length === 0,
    killAll: () => killFile !== null && writeOne(killFile),
    letDie: () => {
      for (const { file, bytes } of brakes) writeTo(file, bytes);
    },
    freeze: () => freezeFile !== null && writeOne(freezeFile),
    events: () => events,
    rearm: (event) => rearm(event),
    close: () => {
      for (const close of closers.splice(0)) close();
      events.length = 0;
    },
  };
}

function whole(directory: string, file: string, scale = 1): CounterForm {
  return { file: join(directory, file), key: null, scale };
}

function keyed(directory: string, file: string, key: string, scale = 1): CounterForm {
  return { file: join(directory, file), key, scale };
}

const NS = 1e-6;
const US = 1e-3;

function cpuForms(paths: CgroupPaths): CounterForm[] {
  return [whole(paths.cpuacct, 'cpuacct.usage', NS), keyed(paths.cpu, 'cpu.stat', 'usage_usec', US)];
}

function throttledForms(paths: CgroupPaths): CounterForm[] {
  return [keyed(paths.cpu, 'cpu.stat', 'throttled_time', NS), keyed(paths.cpu, 'cpu.stat', 'throttled_usec', US)];
}

function memoryForms(paths: CgroupPaths): CounterForm[] {
  return [whole(paths.memory, 'memory.usage_in_bytes'), whole(paths.memory, 'memory.current')];
}

function memoryPeakForms(paths: CgroupPaths): CounterForm[] {
  return [whole(paths.memory, 'memory.max_usage_in_bytes'), whole(paths.memory, 'memory.peak')];
}

/** v1 counts memory and swap together; where it matters the plan leaves no swap at all. */
function swapForms(paths: CgroupPaths): CounterForm[] {
  return [keyed(paths.memory, 'memory.stat', 'total_swap'), whole(paths.memory, 'memory.swap.current')];
}

function inactiveForms(paths: CgroupPaths): CounterForm[] {
  return [
    keyed(paths.memory, 'memory.stat', 'total_inactive_file'),
    keyed(paths.memory, 'memory.stat', 'inactive_file'),
  ];
}

function oomForms(paths: CgroupPaths): CounterForm[] {
  return [keyed(paths.memory, 'memory.oom_control', 'oom_kill'), keyed(paths.memory, 'memory.events', 'oom_kill')];
}

function populatedForms(paths: CgroupPaths): CounterForm[] {
  return paths.unified === null ? [] : [keyed(paths.unified, 'cgroup.events', 'populated')];
}

/** v2 files notify whoever polls them for priority data; each has its own descriptor, read again after every event. */
function watchV2(
  parent: CgroupPaths,
  into: { readonly populated: Counter | null; readonly events: MeterEvent[]; readonly closers: (() => void)[] },
): void {
  if (into.populated !== null) into.events.push({ fd: into.populated.fd, on: 'priority', about: 'population' });
  const watched = [
    { directory: parent.memory, file: 'memory.events', about: 'memory' },
    { directory: parent.pids, file: 'pids.events', about: 'pids' },
  ] as const;
  for (const { directory, file, about } of watched) {
    // On v1 such a file never notifies; its directory is another than that of the v2 tree.
    if (directory !== parent.unified) continue;
    watchFile({ directory, file, about }, into);
  }
}

type Watched = { readonly directory: string; readonly file: string; readonly about: MeterEvent['about'] };

function watchFile(
  { directory, file, about }: Watched,
  into: { readonly events: MeterEvent[]; readonly closers: (() => void)[] },
): void {
  const fd = openFile(directory, file, 'r');
  if (fd === null) return;
  into.closers.push(() => closeSync(fd));
  const event: MeterEvent = { fd, on: 'priority', about };
  rearm(event);
  into.events.push(event);
}

/** v1 tells of an OOM through an eventfd that is named to the cgroup together with a descriptor of the file. */
function openOomEvent(paths: CgroupPaths, closers: (() => void)[]): MeterEvent | null {
  if (!existsSync(join(paths.memory, 'cgroup.event_control'))) return null;
  const control = openFile(paths.memory, 'memory.oom_control', 'r');
  const registrar = openFile(paths.memory, 'cgroup.event_control', 'w');
  if (control === null || registrar === null) {
    for (const fd of [control, registrar]) if (fd !== null) closeSync(fd);
    return null;
  }
  const fd = openEventfd();
  closers.push(
    () => closeDescriptor(fd),
    () => closeSync(control),
  );
  try {
    writeSync(registrar, `${fd} ${control}`);
  } catch (error) {
    if (!isGone(error)) throw error;
    return null;
  } finally {
    closeSync(registrar);
  }
  return { fd, on: 'input', about: 'memory' };
}

function rearm(event: MeterEvent): void {
  try {
    readSync(event.fd, EVENT_BYTES, 0, event.on === 'input' ? 8 : EVENT_BYTES.length, event.on === 'input' ? null : 0);
  } catch (error) {
    const again = error instanceof Error && 'code' in error && error.code === 'EAGAIN';
    if (!again && !isGone(error)) throw error;
  }
}

function openFile(directory: string | null, file: string, flags: 'r' | 'w' | 'r+'): number | null {
  if (directory === null || !existsSync(join(directory, file))) return null;
  try {
    return openSync(join(directory, file), flags);
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

function writeOne(fd: number): boolean {
  return writeTo(fd, KILL);
}

function writeTo(fd: number, bytes: Uint8Array): boolean {
  try {
    writeSync(fd, bytes, 0, bytes.length, 0);
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

function collect(list: Counter[], counter: Counter | null): void {
  if (counter !== null) list.push(counter);
}

function largest(counters: readonly Counter[]): number {
  let value = 0;
  for (const counter of counters) value = Math.max(value, counter.read());
  return value;
}
