import type { RunIds } from '../core/ids.ts';
import type { ApprovalLifetime, HeldRequest } from '../core/approval.ts';
import { fail, messageOf } from '../core/errors.ts';
import { FENCE_SETS } from '../core/fence-names.ts';
import type { Fence, FenceGrant, FenceLease } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import { openIpset } from '../kernel/ipset.ts';
import type { Ipset, IpsetEntry } from '../kernel/ipset.ts';
import { NEVER_RANGES } from '../policy/egress.ts';
import type { NeverRange } from '../policy/egress.ts';
import { removeStrayShapes } from './bandwidth.ts';
import { BaseRules } from './base-rules.ts';
import { cutConnections, forgetConnections } from './connections.ts';
import { changeGrant, openGrant, profileEntries } from './grant.ts';
import { engineNetworks, hostDevices, hostNetworks } from './host-networks.ts';
import type { HostNetwork } from './host-networks.ts';
import { AddressPool, runIdOf } from './pool.ts';
import { refuseApproval, refuseOwnPool, refuseTakenPool } from './refusals.ts';
import type { RulePiece } from './rules.ts';
import { FENCE_MARKS } from './rules/words.ts';
import type { FenceMarks } from './rules/words.ts';
import {
  countEntries,
  knownEntries,
  makeSets,
  purgeAddresses,
  readCounters,
  readDestinations,
  silence,
} from './sets.ts';
import { Shaper } from './shaper.ts';
import { FenceStateFile } from './state-file.ts';
import { Batch, Turns } from '../core/turns.ts';

/**
 * The egress fence. The base rules are put in force once and name no run; a run is a lease of four addresses and
 * entries in sets.
 *
 *   lease ──arm──▶ open ──disarm──▶ silent ▶ forgotten by the gate ▶ purged ▶ connections cut ▶ free
 *                  ▲  │
 *                  └──┴─ change, approve, deny, shape: one after the other for each run; a change that fails silences
 *
 * Everything that holds a run is in the kernel: the fence may die at any point and find its runs again by their
 * bridges. The state file only remembers leases that have no bridge yet, and where the circle of addresses stands.
 */
export type FenceOptions = {
  readonly pool: string;
  readonly gatePort: number;
  readonly checkPort: number;
  readonly nflogGroup: number;
  readonly connectionsPerSecondMax?: number;
  readonly marks?: FenceMarks;
  readonly neverRanges?: readonly NeverRange[];
  /** Every subnet of every network of the container engine. */
  readonly listSubnets: () => Promise<readonly string[]>;
  readonly gate: FenceGate;
  /** Where to remember leases; null in tests of short life. */
  readonly stateDirectory: string | null;
  readonly log: Log;
  /** Which pieces of the base rules to install: all, but for tests that show what each one holds alone. */
  readonly pieces?: readonly RulePiece[];
};

/** What the fence asks of the DNS gate. */
export type FenceGate = {
  grant(address: string, names: FenceGrant['names']): Promise<void>;
  revoke(address: string): Promise<void>;
  /** Resolves when nothing that only the former names opened is open any more, in the sets and in the checker. */
  change(address: string, names: FenceGrant['names']): Promise<void>;
  /** null: denied. */
  decide(
    address: string,
    request: HeldRequest & { readonly kind: 'name' },
    lifetime: ApprovalLifetime | null,
  ): Promise<void>;
};

const CONNECTIONS_PER_SECOND_MAX = 200;
/** The longest time-out that the kernel keeps exactly for an entry. */
const TIMEOUT_SECONDS_MAX = 2_147_483;

export function createFence(options: FenceOptions): Fence {
  return new HostFence(options);
}

type HeldRun = {
  /** null until it is armed, also for a run of an earlier process. */
  readonly grant: FenceGrant | null;
  /** True when the sets hold for the profile of this run what its grant says, and nothing else. */
  readonly entriesKnown: boolean;
};

class HostFence implements Fence {
  readonly #options: FenceOptions;
  readonly #marks: FenceMarks;
  readonly #pool: AddressPool;
  readonly #rules: BaseRules;
  readonly #state: FenceStateFile;
  readonly #turns = new Turns();
  readonly #purges = new Batch<FenceLease>((leases) => this.#purge(leases));
  /** Whoever asks while the rules are being read waits for one reading more, together with all others who do. */
  readonly #readings = new Batch<null>(async () => {
    this.#findings = (await Promise.all([this.#rules.findings(), this.#shaper.findings()])).flat();
  });
  #findings: readonly string[] = [];
  readonly #runs = new Map<string, HeldRun>();
  readonly #shaper: Shaper;
  #ipset: Ipset | null = null;
  #engineNetworks: readonly HostNetwork[] = [];

  constructor(options: FenceOptions) {
    this.#options = options;
    this.#marks = options.marks ?? FENCE_MARKS;
    this.#pool = new AddressPool(options.pool);
    this.#state = new FenceStateFile(options.stateDirectory);
    this.#pool.restore(this.#state.read().pool);
    this.#shaper = new Shaper({
      ipset: () => this.#sets(),
      inTurn: (runId, work) => this.#turns.take(runId, work),
      log: options.log,
    });
    const connectionsPerSecondMax = options.connectionsPerSecondMax ?? CONNECTIONS_PER_SECOND_MAX;
    this.#rules = new BaseRules({ ...options, marks: this.#marks, connectionsPerSecondMax }, options.pieces);
  }

  async install(): Promise<void> {
    await this.#readEngineNetworks();
    refuseTakenPool(this.#pool, [...hostNetworks(), ...this.#engineNetworks]);
    await this.#rules.prepare();
    await makeSets(this.#options.neverRanges ?? NEVER_RANGES);
    const { bridges } = knownEntries(this.#sets());
    const srcValidMarkBefore = await this.#rules.install(bridges);
    if (srcValidMarkBefore !== null) this.#state.rememberSysctl(srcValidMarkBefore);
    await this.#shaper.restore();
    this.#adoptRuns();
    this.#remember();
  }

  async verify(): ReturnType<Fence['verify']> {
    await this.#readings.add(null);
    const findings = this.#findings;
    return findings.length === 0 ? { kind: 'in-force' } : { kind: 'broken', findings };
  }

  async figures(): ReturnType<Fence['figures']> {
    return { rules: this.#rules.count, entries: await countEntries() };
  }

  lease(runId: string): FenceLease {
    const isNew = this.#pool.lease(runId) === null;
    const lease = this.#pool.take(runId, [...hostNetworks(), ...this.#engineNetworks]);
    if (isNew && hostDevices().has(lease.bridge)) {
      this.#pool.free(runId);
      throw fail('FENCE_FAILED', { detail: `the host has a device ${lease.bridge} already`, bridge: lease.bridge });
    }
    if (isNew) this.#runs.set(runId, { grant: null, entriesKnown: true });
    this.#remember();
    return lease;
  }

  arm(given: FenceGrant): Promise<void> {
    return this.#turns.take(given.lease.runId, async () => {
      const grant = this.#held(given);
      const { runId, address } = grant.lease;
      const before = this.#runs.get(runId);
      // Armed twice with different addresses, a run has what both opened.
      this.#runs.set(runId, { grant, entriesKnown: before?.entriesKnown === true && before.grant === null });
      await this.#options.gate.grant(address, grant.names);
      if (grant.bandwidthBitsPerSecond !== null) await this.#shaper.promise(grant.lease, grant.bandwidthBitsPerSecond);
      await openGrant(grant, this.#sets());
    });
  }

  shape(given: FenceGrant): Promise<void> {
    return this.#turns.take(given.lease.runId, () => this.#shape(this.#held(given)));
  }

  change(given: FenceGrant): Promise<void> {
    return this.#turns.take(given.lease.runId, async () => {
      const grant = this.#held(given);
      const { runId, address } = grant.lease;
      const { grant: before = null, entriesKnown = false } = this.#runs.get(runId) ?? {};
      this.#runs.set(runId, { grant, entriesKnown: false });
      try {
        await changeGrant({ before: entriesKnown ? before : null, after: grant }, this.#sets());
        await this.#options.gate.change(address, grant.names);
        await this.#shape(grant);
        await cutConnections({ before, after: grant, marks: this.#marks }, this.#sets());
      } catch (error) {
        silence(grant.lease, this.#sets());
        const detail = `the grant of run ${runId} could not be changed, and the run is silenced: ${messageOf(error)}`;
        throw fail('FENCE_FAILED', { detail, runId }, { cause: error });
      }
      this.#runs.set(runId, { grant, entriesKnown: true });
    });
  }

  approve(runId: string, request: HeldRequest, lifetime: ApprovalLifetime): Promise<void> {
    return this.#turns.take(runId, async () => {
      const { address } = this.#leaseOf(runId);
      if (request.kind === 'name') return await this.#options.gate.decide(address, request, lifetime);
      const never = this.#options.neverRanges ?? NEVER_RANGES;
      refuseApproval(request, { never, pool: this.#pool, grant: this.#runs.get(runId)?.grant ?? null });
      const entry = decidedEntry(address, request);
      const seconds = Math.max(1, Math.ceil(lifetime.forMs / 1_000));
      this.#sets().remove(FENCE_SETS.refused, entry);
      this.#sets().add(FENCE_SETS.approved, entry, { timeoutSeconds: Math.min(seconds, TIMEOUT_SECONDS_MAX) });
    });
  }

  deny(runId: string, request: HeldRequest): Promise<void> {
    return this.#turns.take(runId, async () => {
      const { address } = this.#leaseOf(runId);
      if (request.kind === 'name') return await this.#options.gate.decide(address, request, null);
      const entry = decidedEntry(address, request);
      this.#sets().remove(FENCE_SETS.approved, entry);
      this.#sets().add(FENCE_SETS.refused, entry);
    });
  }

  // These two are asynchronous because other fences may have to ask; the kernel answers this one at once.
  async counters(runId: string): ReturnType<Fence['counters']> {
    return readCounters(this.#leaseOf(runId).address, this.#sets());
  }

  async destinations(runId: string): ReturnType<Fence['destinations']> {
    return readDestinations(this.#leaseOf(runId).address, this.#sets());
  }

  async disarm(runId: string): Promise<void> {
    await this.#end(runId);
    await this.#readEngineNetworks();
  }

  async collectGarbage(runIdsToKeep: RunIds): Promise<readonly string[]> {
    this.#adoptRuns();
    const ended = this.#pool.leases().filter(({ runId }) => !runIdsToKeep.has(runId));
    await Promise.all(ended.map(({ runId }) => this.#end(runId)));
    const held = new Set(this.#pool.leases().map(({ address }) => address));
    const nobodys = new Set([...knownEntries(this.#sets()).addresses].filter((address) => !held.has(address)));
    await Promise.all([...nobodys].map((address) => this.#options.gate.revoke(address)));
    await purgeAddresses(nobodys, this.#sets(), null);
    await forgetConnections(nobodys);
    await removeStrayShapes(new Set(this.#pool.leases().map(({ runId }) => runId)));
    return ended.map(({ runId }) => runId);
  }

  async uninstall(): Promise<void> {
    const [lease] = this.#pool.leases();
    if (lease !== undefined) {
      throw fail('FENCE_FAILED', {
        detail: `the fence cannot be removed while run ${lease.runId} holds ${lease.subnet}`,
        hint: 'end the runs first, then `ringfence gc`',
      });
    }
    await this.#rules.uninstall(this.#state.read().srcValidMarkBefore);
    this.#ipset?.close();
    this.#ipset = null;
    this.#state.remove();
  }

  async #end(runId: string): Promise<void> {
    const now = this.#pool.lease(runId);
    // At once, whatever else is under way for the run.
    if (now !== null) silence(now, this.#sets());
    await this.#turns.take(runId, async () => {
      const lease = this.#pool.lease(runId);
      if (lease === null) return;
      silence(lease, this.#sets());
      // The gate first, or a question that is still waiting could open an address after the purge.
      await this.#options.gate.revoke(lease.address);
      await this.#purges.add(lease);
      await this.#shaper.remove(lease);
      this.#forget(runId);
    });
  }

  /** The socket belongs to the network namespace of this process and is opened when it is first needed. */
  #sets(): Ipset {
    this.#ipset ??= openIpset();
    return this.#ipset;
  }

  #leaseOf(runId: string): FenceLease {
    const lease = this.#pool.lease(runId);
    if (lease === null) throw fail('FENCE_FAILED', { detail: `run ${runId} holds no network`, runId });
    return lease;
  }

  /** The grant with the lease as the pool has it. */
  #held(grant: FenceGrant): FenceGrant {
    const { runId, address } = grant.lease;
    const held = this.#pool.lease(runId);
    if (held?.address !== address) {
      throw fail('FENCE_FAILED', { detail: `run ${runId} does not hold the address ${address}` });
    }
    refuseOwnPool(this.#pool, grant);
    return { ...grant, lease: held };
  }

  async #shape({ lease, bandwidthBitsPerSecond: bitsPerSecond }: FenceGrant): Promise<void> {
    await (bitsPerSecond === null ? this.#shaper.remove(lease) : this.#shaper.apply(lease, bitsPerSecond));
  }

  async #purge(leases: readonly FenceLease[]): Promise<void> {
    const addresses = new Set(leases.map(({ address }) => address));
    const known = leases.map(({ runId }) => this.#runs.get(runId));
    const entries = known.flatMap((run) => {
      const grant = run?.grant ?? null;
      return grant === null ? [] : profileEntries(grant);
    });
    const allKnown = known.every((run) => run?.entriesKnown === true);
    await purgeAddresses(addresses, this.#sets(), allKnown ? entries : null);
    await forgetConnections(addresses);
  }

  #forget(runId: string): void {
    this.#pool.free(runId);
    this.#runs.delete(runId);
    this.#remember();
  }

  async #readEngineNetworks(): Promise<void> {
    try {
      this.#engineNetworks = engineNetworks(await this.#options.listSubnets(), this.#pool.network);
    } catch (error) {
      // What was known before still counts; bridges of the engine show in the routes of the host as well.
      this.#options.log.warn({ error: messageOf(error) }, 'the engine did not list its networks');
    }
  }

  /** Runs of an earlier daemon: their bridges name them. */
  #adoptRuns(): void {
    for (const { device, network } of knownEntries(this.#sets()).bridges) {
      const runId = runIdOf(device);
      if (runId !== null) this.#pool.adopt(runId, network);
    }
  }

  #remember(): void {
    this.#state.rememberPool(this.#pool.state());
  }
}

/** A person decides about one address, never about a network. */
function decidedEntry(source: string, request: HeldRequest & { readonly kind: 'address' }): IpsetEntry {
  const { address: destination, port, protocol } = request;
  return { kind: 'ip,port,ip', source, port, protocol, destination };
}
