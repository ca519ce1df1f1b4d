import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fail } from '../core/errors.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import type { Bound } from '../core/outcome.ts';
import type { GpuPlan } from '../core/ports/engine.ts';
import type { GpuDevice, GpuReading, Gpus } from '../core/ports/gpu.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { Warden } from '../core/ports/warden.ts';
import { GPU_METER_NONE, integrate, withoutRun, withUsed, type GpuMeterState } from '../gpu/integrate.ts';
import { chooseDevices, type GpuLease } from '../gpu/leases.ts';
import { miningSign, withMoment, type DeniedDestination, type GpuSeries, type MiningSign } from '../gpu/pattern.ts';
import type { GpuGrant, Spec } from '../profile/spec.ts';

/**
 * Who has which device, and what became of it. A device is leased before anything of its run is made and comes back
 * when the run is over and the driver lists none of its processes on it any more: one that is still there then is a
 * breach, and its device is given to nobody. What a run used stands in a file, so that a daemon that starts again
 * counts on. The warden judges; this desk forwards each reading to it at once.
 */
export type GpuDeskOptions = {
  /** Where leases and GPU-seconds are kept over a restart. */
  readonly file: string;
  readonly warden: Pick<Warden, 'send'>;
  readonly ledger: Pick<Ledger, 'append'>;
  readonly log: Log;
  /** Why this host has no GPUs at all; null where there is a library to ask. */
  readonly absent: string | null;
  /** How the engine is asked for these devices. */
  requestFor(devices: readonly string[]): GpuPlan['request'];
  /** Milliseconds since boot. */
  now(): number;
};

export type GpuRun = {
  readonly profile: string;
  /** Whether anything of the run is left; `unknown`: it is being launched, or was never heard of. */
  readonly state: 'alive' | 'over';
  readonly trafficBytes: number;
  readonly denied: readonly DeniedDestination[];
};

type Held = GpuLease & { readonly takenAtMs: number; overAtMs: number | null };

/** A launch that takes longer than this has failed. */
const LAUNCH_MS_MAX = 90_000;
/** How long the driver may take to let go of a process that has ended. */
const CLEAR_MS_MAX = 5_000;
const KEEP_EVERY_MS = 1_000;
const MISUSES_TOLD_MAX = 1_024;

export class GpuDesk {
  private readonly options: GpuDeskOptions;
  private gpus: Gpus | null = null;
  private runOf: (runId: string) => GpuRun | null = () => null;
  private meter: GpuMeterState = GPU_METER_NONE;
  private readonly leases = new Map<string, Held>();
  /** Of an earlier daemon, until their runs are taken over. */
  private readonly earlier: Map<string, Kept>;
  private readonly suspect = new Set<string>();
  private readonly series = new Map<string, GpuSeries>();
  private readonly misusesTold = new Set<string>();
  private keptAtMs = 0;

  constructor(options: GpuDeskOptions) {
    this.options = options;
    this.earlier = readKept(options.file);
  }

  /** What reads, and who knows the runs: both come after the desk. */
  connect(parts: { readonly gpus: Gpus | null; runOf(runId: string): GpuRun | null }): void {
    this.gpus = parts.gpus;
    this.runOf = (runId) => parts.runOf(runId);
  }

  /** Why this profile gets no GPU here and now, below `limits.gpu` or `budget`; null when it does, or wants none. */
  refusal(spec: Spec): { readonly keys: readonly (string | number)[]; readonly message: string } | null {
    const grant = spec.limits.gpu;
    if (grant === null) return null;
    const unread = (this.gpus?.latest() ?? null) === null ? UNREAD : null;
    const why = this.options.absent ?? this.gpus?.problem() ?? unread;
    if (why !== null) return { keys: ['limits', 'gpu'], message: `cannot be held on this host: ${why}` };
    const choice = this.choose(grant);
    return choice.ok ? null : { keys: ['limits', 'gpu', ...choice.keys], message: choice.message };
  }

  /** Leases what the profile asks for. Throws HOST_CANNOT_ENFORCE when it went to another run since it was looked at. */
  lease(runId: string, spec: Spec): void {
    const refused = this.refusal(spec);
    if (refused !== null) throw fail('HOST_CANNOT_ENFORCE', { detail: `${refused.keys.join('.')} ${refused.message}` });
    const grant = spec.limits.gpu;
    if (grant === null) return;
    const choice = this.choose(grant);
    if (!choice.ok) throw fail('HOST_CANNOT_ENFORCE', { detail: choice.message });
    this.hold(runId, choice.lease);
  }

  /** The lease and the GPU-seconds of a run that an earlier daemon launched. Throws METER_FAILED where there are none. */
  adopt(runId: string, spec: Spec): void {
    if (spec.limits.gpu === null) return;
    const kept = this.earlier.get(runId);
    if (kept === undefined) throw fail('METER_FAILED', { detail: 'it is not known which GPUs the run has', runId });
    this.meter = withUsed(this.meter, runId, kept.busyMs);
    this.hold(runId, kept);
  }

  planOf(runId: string): GpuPlan | null {
    const held = this.leases.get(runId);
    if (held === undefined) return null;
    return { request: this.options.requestFor(held.devices), devices: held.devices };
  }

  /** Bounds with what holds them for this run: a slice that is no larger than the limit holds it by itself. */
  rungsOf(runId: string, bounds: readonly Bound[]): readonly Bound[] {
    const devices = this.devicesOf(runId);
    const memoryBytes = devices.reduce((sum, device) => sum + device.memoryBytes, 0);
    const bySlice = devices.length > 0 && devices.every(({ migProfile }) => migProfile !== null);
    return bounds.map((bound) =>
      bound.path === 'limits.gpu.memory' && bySlice && memoryBytes <= (bound.value ?? 0)
        ? { ...bound, rung: 'driver' as const }
        : bound,
    );
  }

  /** A label for the incident of a run; it decides nothing. */
  signOf(runId: string): MiningSign | null {
    return miningSign(this.series.get(runId) ?? [], this.runOf(runId)?.denied ?? []);
  }

  /** What is known of the host's devices, for `doctor`. */
  state(): {
    readonly problem: string | null;
    readonly reading: GpuReading | null;
    readonly suspect: readonly string[];
  } {
    const problem = this.options.absent ?? this.gpus?.problem() ?? null;
    return { problem, reading: this.gpus?.latest() ?? null, suspect: [...this.suspect] };
  }

  take(reading: GpuReading): void {
    this.meter = integrate(this.meter, reading);
    for (const [runId, held] of this.leases) {
      if (this.isOver(runId, held)) this.giveBack(runId, held, reading);
      else this.tell(runId, held, reading);
    }
    this.tellUngranted(reading);
    for (const uuid of this.suspect) if (!this.isHaunted(uuid, reading)) this.suspect.delete(uuid);
    this.keep();
  }

  private tell(runId: string, { devices }: Held, reading: GpuReading): void {
    const seen = devices.map((uuid) => reading.devices.find((device) => device.uuid === uuid));
    // A device that cannot be read is silence, whatever the others of the run say.
    if (!seen.every((device) => device !== undefined && device.problem === null)) return;
    const use = this.meter.runs.get(runId) ?? { busyMs: 0, memoryBytes: 0, percent: 0 };
    const ungranted = ungrantedOf(reading, runId, devices);
    if (ungranted !== null) this.recordMisuse(runId, ungranted);
    const { busyMs, memoryBytes } = use;
    this.options.warden.send({ kind: 'gpu', runId, busyMs, memoryBytes, ungranted });
    const moment = { atMs: reading.atMs, percent: use.percent, trafficBytes: this.runOf(runId)?.trafficBytes ?? 0 };
    this.series.set(runId, withMoment(this.series.get(runId) ?? [], moment));
  }

  /** Runs without any device, whose processes are on one all the same. */
  private tellUngranted(reading: GpuReading): void {
    const runIds = new Set(reading.devices.flatMap(({ processes }) => processes.map(({ runId }) => runId)));
    for (const runId of runIds) {
      if (runId === null || this.leases.has(runId)) continue;
      const use = this.meter.runs.get(runId) ?? { busyMs: 0, memoryBytes: 0 };
      const ungranted = ungrantedOf(reading, runId, []);
      if (this.runOf(runId)?.state !== 'alive' || ungranted === null) continue;
      this.recordMisuse(runId, ungranted);
      this.options.warden.send({ kind: 'gpu', runId, busyMs: use.busyMs, memoryBytes: use.memoryBytes, ungranted });
    }
  }

  private recordMisuse(runId: string, uuid: string): void {
    if (this.misusesTold.has(runId)) return;
    if (this.misusesTold.size >= MISUSES_TOLD_MAX) this.misusesTold.clear();
    this.misusesTold.add(runId);
    this.options.log.warn({ runId, device: uuid }, 'a run uses a GPU that it was not granted');
  }

  private isOver(runId: string, held: Held): boolean {
    const run = this.runOf(runId);
    if (run !== null) return run.state === 'over';
    return this.options.now() - held.takenAtMs > LAUNCH_MS_MAX;
  }

  /** A process that the driver still lists keeps the device from the next run. */
  private giveBack(runId: string, held: Held, reading: GpuReading): void {
    const now = this.options.now();
    held.overAtMs ??= now;
    const unread = held.devices.filter((uuid) => isUnread(uuid, reading));
    const left = held.devices.filter((uuid) => isOn(uuid, reading, runId));
    if (unread.length + left.length > 0 && now - held.overAtMs < CLEAR_MS_MAX) return;
    for (const uuid of left) this.tellSurvivor(runId, uuid, reading);
    for (const uuid of [...unread, ...left]) this.suspect.add(uuid);
    this.leases.delete(runId);
    this.series.delete(runId);
    this.meter = withoutRun(this.meter, runId);
    this.pace();
    this.keep(true);
  }

  private tellSurvivor(runId: string, uuid: string, reading: GpuReading): void {
    const device = reading.devices.find((each) => each.uuid === uuid);
    const processes = (device?.processes ?? []).filter((process) => process.runId === runId);
    const pids = processes.map(({ pid }) => pid);
    const breach = {
      reason: 'limit.gpu',
      rule: 'limits.gpu',
      measured: pids.length,
      limit: 0,
      unit: 'processes',
      action: 'warn',
      denial: null,
    };
    const profile = this.runOf(runId)?.profile;
    const detail = `${uuid} still has ${pids.length} processes of the run after its end; it is given to nobody until they are gone`;
    const draft = { kind: 'breach' as const, runId, breach, detail, pids };
    this.options.ledger.append(profile === undefined ? draft : { ...draft, profile }).flushed.catch(() => undefined);
    this.options.log.error({ runId, device: uuid, pids }, 'a run is over and still on its GPU');
  }

  /** Something of a run that is over is still there, or nobody can say. */
  private isHaunted(uuid: string, reading: GpuReading): boolean {
    if (isUnread(uuid, reading)) return true;
    const device = reading.devices.find((each) => each.uuid === uuid);
    return (device?.processes ?? []).some(({ runId }) => runId !== null && !this.leases.has(runId));
  }

  private hold(runId: string, { devices, share }: GpuLease): void {
    this.leases.set(runId, { devices, share, takenAtMs: this.options.now(), overAtMs: null });
    this.pace();
    this.keep(true);
  }

  private pace(): void {
    this.gpus?.setPace(this.leases.size > 0 ? 'watching' : 'idle');
  }

  private choose(grant: GpuGrant): ReturnType<typeof chooseDevices> {
    const devices = this.gpus?.latest()?.devices ?? [];
    return chooseDevices(grant, { devices, leases: this.leases, suspect: this.suspect });
  }

  private devicesOf(runId: string): readonly GpuDevice[] {
    const uuids = this.leases.get(runId)?.devices ?? [];
    return (this.gpus?.latest()?.devices ?? []).filter(({ uuid }) => uuids.includes(uuid));
  }

  private keep(now = false): void {
    const { options, leases, meter } = this;
    if (!now && (leases.size === 0 || options.now() - this.keptAtMs < KEEP_EVERY_MS)) return;
    this.keptAtMs = options.now();
    const kept = [...leases].map(([runId, { devices, share }]) => {
      return [runId, { devices, share, busyMs: meter.runs.get(runId)?.busyMs ?? 0 }];
    });
    try {
      mkdirSync(dirname(options.file), { recursive: true, mode: 0o700 });
      writeFileSync(`${options.file}.new`, JSON.stringify(Object.fromEntries(kept)), { mode: 0o600 });
      renameSync(`${options.file}.new`, options.file);
    } catch (error) {
      // Runs stay held; only a daemon that starts again would end them instead of taking them over.
      options.log.error({ err: error }, 'the leases of GPUs could not be kept');
    }
  }
}

const UNREAD = 'the driver has not answered yet';

type Kept = GpuLease & { readonly busyMs: number };

/** Written by a daemon of ours; what is torn or foreign is no lease. */
function readKept(file: string): Map<string, Kept> {
  const found = new Map<string, Kept>();
  let entries: [string, unknown][];
  try {
    entries = Object.entries(JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>);
  } catch {
    return found;
  }
  for (const [runId, value] of entries) {
    const { devices, share, busyMs } = (value ?? {}) as Partial<Kept>;
    const isLease = Array.isArray(devices) && devices.every((uuid) => typeof uuid === 'string');
    if (!RUN_ID_PATTERN.test(runId) || !isLease || typeof busyMs !== 'number') continue;
    found.set(runId, { devices, share: share === true, busyMs });
  }
  return found;
}

function ungrantedOf(reading: GpuReading, runId: string, granted: readonly string[]): string | null {
  return reading.devices.find(({ uuid }) => !granted.includes(uuid) && isOn(uuid, reading, runId))?.uuid ?? null;
}

function isOn(uuid: string, reading: GpuReading, runId: string): boolean {
  const device = reading.devices.find((each) => each.uuid === uuid);
  if (device === undefined) return false;
  // A card lists the processes of its slices as its own.
  if (device.mig === 'on' && device.parentUuid === null) return false;
  return device.processes.some((process) => process.runId === runId);
}

function isUnread(uuid: string, reading: GpuReading): boolean {
  const device = reading.devices.find((each) => each.uuid === uuid);
  return device === undefined || device.problem !== null;
}
