import type { ContainerPlan, EngineFacts } from '../core/ports/engine.ts';
import type { StrictDocument } from '../profile/document.ts';
import type { Spec } from '../profile/spec.ts';
import { boundsOf, type HostRungs } from '../run/bounds.ts';
import { SCRATCH_RULE, type DiskDesk, type DiskPlace } from './disk-desk.ts';
import { refuseUnheld } from './host-limits.ts';
import { FUTURE_DEVICE, holdIo, type IoHold } from './io-devices.ts';
import type { CheckedMount } from './mounts.ts';
import { placing } from './refusal.ts';
import type { VolumeStore } from '../volume/store.ts';

/** The disks of one run: its mounts with a size, the rate that it may read and write with, and what it has written. */
export type RunDisks = {
  readonly rungs: HostRungs;
  /** The mounts as they were checked; once staged, those with a size as the volumes that are mounted there. */
  mounts(): readonly CheckedMount[];
  /** Mounts the volumes. What it acquired until it failed goes with `release`. */
  stage(): Promise<void>;
  release(): Promise<void>;
  /** Known once staged: only then do volumes have their devices. */
  io(): ContainerPlan['io'];
  /** Starts the agent by `start`; its scratch is looked at from before its first instruction. */
  starting(plan: ContainerPlan, pidsOf: () => readonly number[], start: () => Promise<void>): Promise<void>;
  /** From now on the scratch of this very process is looked at. */
  watch(pid: number, plan: ContainerPlan): void;
};

export type DiskParts = {
  readonly volumes: VolumeStore;
  readonly desk: DiskDesk;
  readonly engineFacts: EngineFacts;
};

export type DiskRun = {
  readonly runId: string;
  /** One that an earlier daemon has launched was accepted then. */
  readonly adopted: boolean;
  readonly spec: Spec;
  readonly document: StrictDocument;
  /** In the order of `spec.mounts`. */
  readonly checked: readonly CheckedMount[];
};

const FUTURE_VOLUME = { device: FUTURE_DEVICE, path: '/', type: 'ext4' };

/** Refuses what this host cannot hold of it, with its place. Makes nothing. */
export async function disksFor(run: DiskRun, parts: DiskParts): Promise<RunDisks> {
  const { runId, spec, document, checked } = run;
  const sizes = spec.mounts.map(({ sizeBytesMax }) => sizeBytesMax);
  if (!run.adopted) {
    for (const [index, mount] of checked.entries()) {
      const sizeBytesMax = sizes[index] ?? null;
      if (sizeBytesMax === null) continue;
      await placing(['mounts', index, 'size'], document, () => parts.volumes.check({ ...mount, sizeBytesMax }));
    }
  }
  // Before it is mounted a volume is asked about as what it will be: its own disk is known only then.
  const asked = checked.map((mount, index) => (sizes[index] === null ? mount : { ...mount, location: FUTURE_VOLUME }));
  const hold = await holdOf({ spec, mounts: asked }, parts);
  const rungs: HostRungs = { io: hold?.rung ?? 'none' };
  if (!run.adopted) {
    const why = (path: string): string => (path === 'limits.io' ? (hold?.why ?? '') : 'nothing holds it');
    refuseUnheld(
      boundsOf(spec, rungs).filter(({ path }) => path === 'limits.io'),
      { spec, document, why },
    );
  }
  let mounts = checked;
  let io = hold?.plan ?? null;
  return {
    rungs,
    mounts: () => mounts,
    async stage() {
      const volumes = await Promise.all(
        checked.map(async (mount, index) => {
          const sizeBytesMax = sizes[index] ?? null;
          return sizeBytesMax === null ? null : await parts.volumes.acquire(runId, { ...mount, sizeBytesMax });
        }),
      );
      mounts = checked.map((mount, index) => {
        const volume = volumes[index] ?? null;
        if (volume === null) return mount;
        return { ...mount, device: volume.device, inode: volume.inode, location: volume.location };
      });
      parts.desk.begin(
        runId,
        volumes.flatMap((volume, index) =>
          volume === null ? [] : [{ rule: `mounts[${index}].size`, statPath: volume.statPath }],
        ),
      );
      if (io !== null) io = (await holdOf({ spec, mounts }, parts))?.plan ?? null;
    },
    async release() {
      parts.desk.forget(runId);
      await parts.volumes.release(runId);
    },
    io: () => io,
    starting: (plan, pids, start) => parts.desk.starting(runId, { pidsOf: pids, places: scratchOf(plan) }, start),
    watch: (pid, plan) => parts.desk.watch(runId, pid, scratchOf(plan)),
  };
}

async function holdOf(
  { spec, mounts }: { readonly spec: Spec; readonly mounts: readonly CheckedMount[] },
  { engineFacts }: DiskParts,
): Promise<IoHold | null> {
  const { ioBytesPerSecond: bytesPerSecond } = spec.limits;
  return bytesPerSecond === null ? null : await holdIo({ bytesPerSecond, engine: engineFacts, mounts });
}

function scratchOf(plan: ContainerPlan): readonly DiskPlace[] {
  return [...plan.tmpfs.map(({ path }) => path), '/dev/shm'].map((path) => ({ path, rule: SCRATCH_RULE }));
}
