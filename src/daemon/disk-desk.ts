import { closeSync, constants, fstatSync, openSync, readFileSync, statSync, statfsSync } from 'node:fs';
import type { Usage } from '../core/outcome.ts';
import type { Warden, WardenReport } from '../core/ports/warden.ts';
import { isGone } from '../meter/counters.ts';
import { parseMountInfo, type Mount } from '../run/mountinfo.ts';

/**
 * What runs have written: in scratch and in mounts with a size. The kernel holds these sizes; here they are only looked
 * at, for `ps`, for incidents, and to tell a run that failed on a full disk from one that failed. The kernel counts no
 * ENOSPC, so "full" is what there was no room in at the end or within the last seconds before it.
 */
export const SCRATCH_RULE = 'limits.disk';
const LOOK_EVERY_MS = 1_000;
/** The engine needs several times as long from making the mounts to the agent's first instruction. */
const SEEK_EVERY_MS = 10;
/** How long ago a place may have been full for an agent to have failed on that. */
const FULL_MS_MAX = 5_000;
/** What is left over when a write has been refused: a filesystem keeps back a few blocks for its own tables. */
const ROOM_BYTES_MIN = 64 * 1024;

/** `rule`: what in the profile bounds it, `limits.disk` or `mounts[0].size`. */
export type DiskPlace = { readonly path: string; readonly rule: string };

/** `fd`: held open here, where it is. */
type OpenPlace = { readonly rule: string; readonly statPath: string; readonly fd: number | null };
type DiskUse = Pick<Usage, 'diskBytes' | 'mountBytes' | 'diskFull'>;
type Watched = {
  readonly volumes: readonly OpenPlace[];
  scratch: readonly OpenPlace[];
  /** When each rule was last seen without room. */
  readonly fullAtMs: Map<string, number>;
};

export class DiskDesk {
  private readonly runs = new Map<string, Watched>();
  private readonly timer: NodeJS.Timeout;

  constructor() {
    this.timer = setInterval(() => this.lookAtAll(), LOOK_EVERY_MS).unref();
  }

  /** From before its container is made; volumes are looked at on the host, so that no agent is over too early for it. */
  begin(runId: string, volumes: readonly { readonly rule: string; readonly statPath: string }[]): void {
    this.forget(runId);
    const places = volumes.map((volume) => ({ ...volume, fd: null }));
    this.runs.set(runId, { volumes: places, scratch: [], fullAtMs: new Map() });
  }

  /**
   * Starts it and opens its scratch as soon as it is mounted, so that no agent is over too early for it: what is held
   * open stays as full as it was. `pidsOf`: the processes in the run's own cgroup, where only the engine puts any.
   */
  async starting(
    runId: string,
    { pidsOf, places }: { readonly pidsOf: () => readonly number[]; readonly places: readonly DiskPlace[] },
    start: () => Promise<void>,
  ): Promise<void> {
    const watched = this.runs.get(runId);
    const seek = (): void => {
      if (watched === undefined || this.runs.get(runId) !== watched) return;
      try {
        for (const pid of pidsOf()) if (watched.scratch.length === 0) watched.scratch = openMounted(pid, places);
      } catch {
        // The next look, or the one at the read-back, is another try; a launch does not fail on this.
      }
    };
    const timer = setInterval(seek, SEEK_EVERY_MS);
    try {
      await start();
      seek();
    } finally {
      clearInterval(timer);
    }
  }

  /**
   * Opens scratch by the mounts that the agent's first process has. None is a path that an agent could have led
   * elsewhere: each must be the very filesystem that its mount table names. One that is over leaves what was opened.
   */
  watch(runId: string, pid: number, places: readonly DiskPlace[]): void {
    const watched = this.runs.get(runId);
    if (watched === undefined) return;
    const opened = openPlaces(pid, places);
    if (opened.length > 0) {
      closeAll(watched.scratch);
      watched.scratch = opened;
    }
    now(watched);
  }

  /** The same warden, whose samples say what the disks hold. */
  over<Client extends Pick<Warden, 'sample'>>(warden: Client): Client {
    return { ...warden, sample: async (runId) => this.fill(runId, await warden.sample(runId)) };
  }

  /** The same usage, with what the disks hold now. */
  private fill(runId: string, usage: Usage): Usage {
    const watched = this.runs.get(runId);
    return watched === undefined ? usage : { ...usage, ...now(watched) };
  }

  /** The same report, and after the last one of a run nothing of it is held open any more. */
  fillReport(report: WardenReport): WardenReport {
    if (!('usage' in report)) return report;
    if (report.kind !== 'emptied') return { ...report, usage: this.fill(report.runId, report.usage) };
    const watched = this.runs.get(report.runId);
    if (watched === undefined) return report;
    const end = now(watched);
    this.forget(report.runId);
    // Files that were deleted and open are gone with their process, and with them the fullness that ended it.
    const since = performance.now() - FULL_MS_MAX;
    const diskFull = [...watched.fullAtMs].flatMap(([rule, atMs]) => (atMs >= since ? [rule] : []));
    return { ...report, usage: { ...report.usage, ...end, diskFull } };
  }

  forget(runId: string): void {
    closeAll(this.runs.get(runId)?.scratch ?? []);
    this.runs.delete(runId);
  }

  close(): void {
    clearInterval(this.timer);
    for (const runId of this.runs.keys()) this.forget(runId);
  }

  private lookAtAll(): void {
    for (const watched of this.runs.values()) now(watched);
  }
}

function now(watched: Watched): DiskUse {
  const found = look([...watched.scratch, ...watched.volumes]);
  for (const rule of found.diskFull) watched.fullAtMs.set(rule, performance.now());
  return found;
}

function closeAll(places: readonly OpenPlace[]): void {
  for (const { fd } of places) if (fd !== null) closeSync(fd);
}

/** All of them, or none while the process is still in the filesystem of the host, from where it makes its mounts. */
function openMounted(pid: number, places: readonly DiskPlace[]): readonly OpenPlace[] {
  const mounts = mountsInOwnRoot(pid);
  if (mounts === null) return [];
  const opened = openPlaces(pid, places, mounts);
  if (opened.length === places.length) return opened;
  closeAll(opened);
  return [];
}

/**
 * The mounts of a process in an agent's root, which is not that of this process, and is read-only: what the engine does
 * last before it lets it begin. Null as long as it is not there.
 */
function mountsInOwnRoot(pid: number): readonly Mount[] | null {
  try {
    if (statSync(`/proc/${pid}/root/`).dev === statSync('/').dev) return null;
    const mounts = mountsOf(pid);
    const root = mounts.findLast(({ target }) => target === '/');
    return root?.options.includes('ro') === true ? mounts : null;
  } catch (error) {
    if (isOver(error)) return null;
    throw error;
  }
}

function mountsOf(pid: number): readonly Mount[] {
  return parseMountInfo(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'));
}

/** What cannot be opened because the agent is over is not looked at. */
function openPlaces(pid: number, places: readonly DiskPlace[], known?: readonly Mount[]): readonly OpenPlace[] {
  const opened: OpenPlace[] = [];
  try {
    const devices = new Map((known ?? mountsOf(pid)).map((mount) => [mount.target, mount.device]));
    for (const { path, rule } of places) {
      const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
      const fd = openSync(`/proc/${pid}/root${path}`, flags);
      if (deviceText(fstatSync(fd).dev) === devices.get(path)) {
        opened.push({ rule, statPath: `/proc/self/fd/${fd}`, fd });
      } else closeSync(fd);
    }
  } catch (error) {
    if (!isOver(error)) {
      closeAll(opened);
      throw error;
    }
  }
  return opened;
}

/** It has ended, is just ending, or was another process. */
function isOver(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  return isGone(error) || code === 'ESRCH' || code === 'ENOTDIR' || code === 'EINVAL';
}

/** `0:45`, from the number that stat(2) gives (makedev(3)). */
function deviceText(dev: number): string {
  const major = (dev >>> 8) & 0xfff;
  return `${major}:${(dev & 0xff) | ((dev >>> 12) & 0xfff00)}`;
}

/** A call of microseconds that reads no disk. */
function look(places: readonly OpenPlace[]): DiskUse {
  let diskBytes = 0;
  const mountBytes: Record<string, number> = {};
  const diskFull = new Set<string>();
  for (const { rule, statPath } of places) {
    const { blocks, bfree, bavail, bsize, files, ffree } = statfsSync(statPath);
    const used = (blocks - bfree) * bsize;
    if (rule === SCRATCH_RULE) diskBytes += used;
    else mountBytes[rule] = used;
    if (bavail * bsize < ROOM_BYTES_MIN || (files > 0 && ffree === 0)) diskFull.add(rule);
  }
  return { diskBytes, mountBytes, diskFull: [...diskFull] };
}
