import { FENCE_SETS } from '../core/fence-names.ts';
import { messageOf } from '../core/errors.ts';
import type { FenceLease } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ipset } from '../kernel/ipset.ts';
import { leadUploads, makeBuckets, portsOf, removeShape, shapeFindings } from './bandwidth.ts';
import type { Shape } from './bandwidth.ts';
import { hostDevices } from './host-networks.ts';

/**
 * The bandwidths of all runs. A run's port on its bridge is made by the engine when the container starts, so until it
 * is there and leads through the bucket, the run is in the set of those that wait, and none of its packets passes:
 *
 *   shape ──(no port yet)──▶ waiting ──(the port appears)──▶ led ──▶ held
 *     └────────(a port is there: a change, a restart of the daemon)───────┘
 *
 * Should this process die in between, the run stays without network until the next one shapes it.
 */
export type ShaperParts = {
  readonly ipset: () => Ipset;
  /** Work for a run comes one after the other. */
  readonly inTurn: (runId: string, work: () => Promise<void>) => Promise<void>;
  readonly log: Log;
};

/** A port is looked for this often: much more often than a program takes from its start to its first packet. */
const LOOK_MS = 10;
/** An engine that takes longer is looked at less often. */
const PATIENT_AFTER_MS = 60_000;
const PATIENT_LOOK_MS = 250;

/** After a new device was seen, the ports of the bridge are asked for this long. */
const NEWS_MS = 2_000;

type Wait = { readonly sinceMs: number; readonly devices: ReadonlySet<string>; readonly newsAtMs: number };

export class Shaper {
  readonly #parts: ShaperParts;
  readonly #shapes = new Map<string, Shape>();
  readonly #waits = new Map<string, NodeJS.Timeout>();

  constructor(parts: ShaperParts) {
    this.#parts = parts;
  }

  /**
   * A bandwidth was promised: until it is in force nothing passes. What an earlier process put in force still holds.
   */
  async promise(lease: FenceLease, bitsPerSecond: number): Promise<void> {
    const { runId, bridge, address } = lease;
    if (this.#shapes.has(runId)) return;
    const ports = hostDevices().has(bridge) ? await portsOf(bridge) : [];
    if (ports.length > 0 && (await shapeFindings([{ bridge, bitsPerSecond, ports }])).length === 0) return;
    this.#parts.ipset().add(FENCE_SETS.waiting, { kind: 'ip', address });
  }

  /** In force when it resolves, or as soon as there is something to hold and not before that. */
  async apply(lease: FenceLease, bitsPerSecond: number): Promise<void> {
    const { runId, bridge, address } = lease;
    await makeBuckets({ bridge, bitsPerSecond });
    this.#shapes.set(runId, { bridge, bitsPerSecond, ports: [] });
    if (await this.#lead(lease)) return;
    this.#parts.ipset().add(FENCE_SETS.waiting, { kind: 'ip', address });
    this.#wait(lease, { sinceMs: performance.now(), devices: new Set(), newsAtMs: Number.NEGATIVE_INFINITY });
  }

  async remove(lease: FenceLease): Promise<void> {
    this.forget(lease.runId);
    await removeShape(lease.bridge);
    this.#parts.ipset().remove(FENCE_SETS.waiting, { kind: 'ip', address: lease.address });
  }

  forget(runId: string): void {
    clearTimeout(this.#waits.get(runId));
    this.#waits.delete(runId);
    this.#shapes.delete(runId);
  }

  async findings(): Promise<string[]> {
    return await shapeFindings([...this.#shapes.values()]);
  }

  /** Puts back what somebody took away. */
  async restore(): Promise<void> {
    for (const shape of this.#shapes.values()) {
      if ((await shapeFindings([shape])).length === 0) continue;
      await makeBuckets(shape);
      await leadUploads({ ...shape, ports: await portsOf(shape.bridge) });
    }
  }

  /** True when there is a port, and all there are lead through the bucket. */
  async #lead({ runId, bridge, address }: FenceLease): Promise<boolean> {
    const shape = this.#shapes.get(runId);
    const ports = shape === undefined ? [] : await portsOf(bridge);
    if (shape === undefined || ports.length === 0) return false;
    await leadUploads({ bridge, ports });
    this.#shapes.set(runId, { ...shape, ports });
    this.#parts.ipset().remove(FENCE_SETS.waiting, { kind: 'ip', address });
    return true;
  }

  #wait(lease: FenceLease, before: Wait): void {
    const { runId } = lease;
    clearTimeout(this.#waits.get(runId));
    const look = async (): Promise<void> => {
      const now = performance.now();
      const devices = hostDevices();
      const changed = devices.size !== before.devices.size || [...devices].some((each) => !before.devices.has(each));
      const wait: Wait = { ...before, devices, newsAtMs: changed ? now : before.newsAtMs };
      let led = false;
      await this.#parts.inTurn(runId, async () => {
        // A device comes first, and becomes a port of the bridge a moment later.
        if (this.#waits.get(runId) === timer && now - wait.newsAtMs < NEWS_MS) led = await this.#lead(lease);
      });
      if (this.#waits.get(runId) !== timer) return;
      if (led) this.#waits.delete(runId);
      else this.#wait(lease, wait);
    };
    const afterMs = performance.now() - before.sinceMs > PATIENT_AFTER_MS ? PATIENT_LOOK_MS : LOOK_MS;
    const timer = setTimeout(() => {
      look().catch((error: unknown) => {
        // Its packets go nowhere, which is what can be said for it; the next change or restart tries again.
        const facts = { runId, error: messageOf(error) };
        this.#parts.log.error(facts, 'the bandwidth of a run is not in force: it has no network');
      });
    }, afterMs);
    timer.unref();
    this.#waits.set(runId, timer);
  }
}
