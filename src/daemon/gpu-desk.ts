import { fail } from '../core/errors.ts';
import type { Bound } from '../core/outcome.ts';
import type { GpuPlan } from '../core/ports/engine.ts';
import type { GpuDevice, GpuReading, Gpus, GpuSourceName, GpuView } from '../core/ports/gpu.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { Warden } from '../core/ports/warden.ts';
import {
  GPU_METER_NONE,
  integrate,
  usedBy,
  withoutRun,
  withUsed,
  type GpuMeterState,
  type GpuUse,
} from '../gpu/integrate.ts';
import { chooseDevices, type GpuLease } from '../gpu/leases.ts';
import { mpsWords } from '../gpu/mps.ts';
import { miningSign, withMoment, type DeniedDestination, type GpuSeries, type MiningSign } from '../gpu/pattern.ts';
import type { GpuGrant, Spec } from '../profile/spec.ts';
import { readKept, writeKept, type KeptLease } from './gpu-kept.ts';

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
  /** Why this host has no GPUs at all; null where there is something to ask. */
  readonly absent: string | null;
  /** How the engine is asked for these devices. */
  requestFor(devices: readonly string[]): GpuPlan['request'];
  /** Processes of NVIDIA's multi-process server on this host. */
  mpsPids(): readonly number[];
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
/** A source that has told nothing for so long is being replaced. */
const FRESH_MS_MAX = 4_500;
const KEEP_EVERY_MS = 1_000;
const MISUSES_TOLD_MAX = 1_024;

export class GpuDesk {
  private readonly options: GpuDeskOptions;
  private gpus: Gpus | null = null;
  private runOf: (runId: string) => GpuRun | null = () => null;
  /** One for each source, and one for what earlier daemons counted. */
  private readonly meters = new Map<GpuSourceName | 'earlier', GpuMeterState>();
  private readonly readings = new Map<GpuSourceName, GpuReading>();
  private readonly leases = new Map<string, Held>();
  /** Of an earlier daemon, until their runs are taken over. */
  private readonly earlier: Map<string, KeptLease>;
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
    const trouble = this.options.absent ?? this.gpus?.problem() ?? null;
    const nothingRead = (this.gpus?.latest() ?? null) === null;
    if (this.options.absent !== null || nothingRead)
      return { keys: ['limits', 'gpu'], message: `cannot be held on this host: ${trouble ?? UNREAD}` };
    const choice = this.choose(grant);
    if (choice.ok) return null;
    // What one source cannot tell of may be just what the profile asks for.
    const message = trouble === null ? choice.message : `${choice.message} (${trouble})`;
    return { keys: ['limits', 'gpu', ...choice.keys], message };
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
    this.meters.set('earlier', withUsed(this.meterOf('earlier'), runId, kept.busyMs));
    this.hold(runId, kept);
  }

  planOf(runId: string): GpuPlan | null {
    const held = this.leases.get(runId);
    if (held === undefined) return null;
    const devices = held.devices.filter((id) => !id.startsWith(PLACE));
    const groupIds = [...new Set(held.nodes.flatMap(({ groupId }) => groupId ?? []))];
    const nodes = held.nodes.map(({ source, target }) => ({ source, target }));
    return { request: this.options.requestFor(devices), devices, nodes, groupIds };
  }

  /** The card whose memory the kernel could bound for this run: of several, nothing bounds the sum. */
  boundedCardOf(runId: string): string | null {
    const [id = '', ...more] = this.leases.get(runId)?.devices ?? [];
    return id.startsWith(PLACE) && more.length === 0 ? id.slice(PLACE.length) : null;
  }

  /**
   * Bounds with what holds them for this run: a slice that is no larger than the limit holds it by itself.
   * `inKernel`: whether the kernel was read back to hold it.
   */
  rungsOf(runId: string, bounds: readonly Bound[], inKernel: boolean): readonly Bound[] {
    const devices = this.devicesOf(runId);
    const memoryBytes = devices.reduce((sum, device) => sum + device.memoryBytes, 0);
    const bySlice = devices.length > 0 && devices.every(({ migProfile }) => migProfile !== null);
    return bounds.map((bound) => {
      if (bound.path !== 'limits.gpu.memory') return bound;
      if (inKernel) return { ...bound, rung: 'kernel' as const };
      return bySlice && memoryBytes <= (bound.value ?? 0) ? { ...bound, rung: 'driver' as const } : bound;
    });
  }

  /** A label for the incident of a run; it decides nothing. */
  signOf(runId: string): MiningSign | null {
    return miningSign(this.series.get(runId) ?? [], this.runOf(runId)?.denied ?? []);
  }

  /** What is known of the host's devices, for `doctor`. */
  state(): {
    readonly problem: string | null;
    readonly reading: GpuView | null;
    readonly suspect: readonly string[];
  } {
    const problem = this.options.absent ?? this.gpus?.problem() ?? null;
    const latest = this.gpus?.latest() ?? null;
    const reading = latest === null ? null : { ...latest, devices: this.withMps(latest.devices) };
    return { problem, reading, suspect: [...this.suspect] };
  }

  take(reading: GpuReading): void {
    this.meters.set(reading.source, integrate(this.meterOf(reading.source), reading));
    this.readings.set(reading.source, reading);
    const devices = this.devicesNow();
    for (const [runId, held] of this.leases) if (this.isOver(runId, held)) this.giveBack(runId, held, devices);
    const told = new Set([...this.leases.keys()].filter((runId) => this.tell(runId, reading, devices)));
    this.tellUngranted(reading, told);
    for (const uuid of this.suspect) if (!this.isHaunted(uuid, devices)) this.suspect.delete(uuid);
    this.keep();
  }

  /** Of every source that has told something lately; what is missing is not read. */
  private devicesNow(): readonly GpuDevice[] {
    const fresh = [...this.readings.values()].filter(({ atMs }) => this.options.now() - atMs < FRESH_MS_MAX);
    return fresh.flatMap(({ devices }) => devices);
  }

  private meterOf(source: GpuSourceName | 'earlier'): GpuMeterState {
    return this.meters.get(source) ?? GPU_METER_NONE;
  }

  /** Whether it was told: what another source says is no news of this run's devices. */
  private tell(runId: string, reading: GpuReading, devices: readonly GpuDevice[]): boolean {
    const granted = this.leases.get(runId)?.devices ?? [];
    if (!granted.some((uuid) => reading.devices.some((device) => device.uuid === uuid))) return false;
    // A device that cannot be read is silence, whatever the others of the run say.
    if (granted.some((uuid) => isUnread(uuid, devices))) return false;
    const use = usedBy(this.meters.values(), runId);
    const ungranted = ungrantedOf(devices, runId, granted);
    this.send(runId, use, ungranted);
    const moment = { atMs: reading.atMs, percent: use.percent, trafficBytes: this.runOf(runId)?.trafficBytes ?? 0 };
    this.series.set(runId, withMoment(this.series.get(runId) ?? [], moment));
    return true;
  }

  /** Runs whose processes are on a device that they were not granted, with or without one of their own. */
  private tellUngranted(reading: GpuReading, told: ReadonlySet<string>): void {
    const runIds = new Set(reading.devices.flatMap(({ processes }) => processes.map(({ runId }) => runId)));
    for (const runId of runIds) {
      if (runId === null || told.has(runId)) continue;
      const ungranted = ungrantedOf(reading.devices, runId, this.leases.get(runId)?.devices ?? []);
      if (this.runOf(runId)?.state !== 'alive' || ungranted === null) continue;
      this.send(runId, usedBy(this.meters.values(), runId), ungranted);
    }
  }

  private send(runId: string, { busyMs, memoryBytes, hostMemoryBytes }: GpuUse, ungranted: string | null): void {
    if (ungranted !== null) this.recordMisuse(runId, ungranted);
    this.options.warden.send({ kind: 'gpu', runId, busyMs, memoryBytes, hostMemoryBytes, ungranted });
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
  private giveBack(runId: string, held: Held, devices: readonly GpuDevice[]): void {
    const now = this.options.now();
    held.overAtMs ??= now;
    const unread = held.devices.filter((uuid) => isUnread(uuid, devices));
    const left = held.devices.filter((uuid) => isOn(uuid, devices, runId));
    if (unread.length + left.length > 0 && now - held.overAtMs < CLEAR_MS_MAX) return;
    for (const uuid of left) this.tellSurvivor(runId, uuid, devices);
    for (const uuid of [...unread, ...left]) this.suspect.add(uuid);
    this.leases.delete(runId);
    this.series.delete(runId);
    for (const [source, meter] of this.meters) this.meters.set(source, withoutRun(meter, runId));
    this.pace();
    this.keep(true);
  }

  private tellSurvivor(runId: string, uuid: string, devices: readonly GpuDevice[]): void {
    const device = devices.find((each) => each.uuid === uuid);
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
  private isHaunted(uuid: string, devices: readonly GpuDevice[]): boolean {
    if (isUnread(uuid, devices)) return true;
    const device = devices.find((each) => each.uuid === uuid);
    return (device?.processes ?? []).some(({ runId }) => runId !== null && !this.leases.has(runId));
  }

  private hold(runId: string, { devices, share, nodes }: GpuLease): void {
    this.leases.set(runId, { devices, share, nodes, takenAtMs: this.options.now(), overAtMs: null });
    this.pace();
    this.keep(true);
  }

  private pace(): void {
    this.gpus?.setPace(this.leases.size > 0 ? 'watching' : 'idle');
  }

  private choose(grant: GpuGrant): ReturnType<typeof chooseDevices> {
    const devices = this.withMps(this.gpus?.latest()?.devices ?? []);
    return chooseDevices(grant, { devices, leases: this.leases, suspect: this.suspect });
  }

  /** A multi-process server takes its clients from any card of its vendor. */
  private withMps(devices: readonly GpuDevice[]): readonly GpuDevice[] {
    const pids = devices.some(({ vendor }) => vendor === 'nvidia') ? this.options.mpsPids() : [];
    if (pids.length === 0) return devices;
    return devices.map((device) => (device.vendor === 'nvidia' ? { ...device, withheld: mpsWords(pids) } : device));
  }

  private devicesOf(runId: string): readonly GpuDevice[] {
    const uuids = this.leases.get(runId)?.devices ?? [];
    return (this.gpus?.latest()?.devices ?? []).filter(({ uuid }) => uuids.includes(uuid));
  }

  private keep(now = false): void {
    const { options, leases, meters } = this;
    if (!now && (leases.size === 0 || options.now() - this.keptAtMs < KEEP_EVERY_MS)) return;
    this.keptAtMs = options.now();
    const kept = [...leases].map(([runId, { devices, share, nodes }]): [string, KeptLease] => {
      return [runId, { devices, share, nodes, busyMs: usedBy(meters.values(), runId).busyMs }];
    });
    try {
      writeKept(options.file, kept);
    } catch (error) {
      // Runs stay held; only a daemon that starts again would end them instead of taking them over.
      options.log.error({ err: error }, 'the leases of GPUs could not be kept');
    }
  }
}

const UNREAD = 'the driver has not answered yet';
/** How the id of a card begins that goes by its place. */
const PLACE = 'pci:';

function ungrantedOf(devices: readonly GpuDevice[], runId: string, granted: readonly string[]): string | null {
  return devices.find(({ uuid }) => !granted.includes(uuid) && isOn(uuid, devices, runId))?.uuid ?? null;
}

function isOn(uuid: string, devices: readonly GpuDevice[], runId: string): boolean {
  const device = devices.find((each) => each.uuid === uuid);
  if (device === undefined) return false;
  // A card lists the processes of its slices as its own.
  if (device.mig === 'on' && device.parentUuid === null) return false;
  return device.processes.some((process) => process.runId === runId);
}

function isUnread(uuid: string, devices: readonly GpuDevice[]): boolean {
  const device = devices.find((each) => each.uuid === uuid);
  return device === undefined || device.problem !== null;
}
