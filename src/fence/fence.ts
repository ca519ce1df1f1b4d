import { fail, messageOf } from '../core/errors.ts';
import type { Fence, FenceGrant, FenceLease } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import { openIpset } from '../kernel/ipset.ts';
import type { Ipset, IpsetEntry } from '../kernel/ipset.ts';
import { NEVER_RANGES } from '../policy/egress.ts';
import type { NeverRange } from '../policy/egress.ts';
import { overlaps } from '../profile/ipv4.ts';
import { runTool, tryTool } from './command.ts';
import { engineNetworks, hostNetworks, poolConflicts } from './host-networks.ts';
import type { HostNetwork } from './host-networks.ts';
import { AddressPool, parseNetwork, runIdOf } from './pool.ts';
import { applyRouting, checkRouting, removeRouting } from './routing.ts';
import { baseRules, FENCE_MARKS, RULE_PIECES } from './rules.ts';
import type { FenceMarks, RulePiece } from './rules.ts';
import {
  checkSets,
  destroySets,
  knownEntries,
  makeSets,
  openGrant,
  purgeAddress,
  readCounters,
  silence,
  writtenEntries,
} from './sets.ts';
import { FenceStateFile } from './state-file.ts';
import { applyTable, assertInstalled, compareTable, detectBackend, removeTable, saveTable } from './tables.ts';
import type { SavedTable } from './tables.ts';

/**
 * The egress fence. The base rules are put in force once and name no run; a run is a lease of four addresses and
 * entries in sets.
 *
 *   lease ──arm──▶ open ──disarm──▶ silent ▶ forgotten by the gate ▶ purged ▶ connections cut ▶ free
 *
 * Everything that holds a run is in the kernel: the fence may die at any point and find its runs again by their
 * bridges. The state file only remembers leases that have no bridge yet, and where the circle of addresses stands.
 */
export type FenceOptions = {
  readonly pool: string;
  readonly gatePort: number;
  readonly nflogGroup: number;
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
};

export function createFence(options: FenceOptions): Fence {
  return new HostFence(options);
}

class HostFence implements Fence {
  readonly #options: FenceOptions;
  readonly #pool: AddressPool;
  readonly #rules: ReturnType<typeof baseRules>;
  readonly #routing: { readonly pool: string; readonly marks: FenceMarks };
  readonly #state: FenceStateFile;
  #ipset: Ipset | null = null;
  #installed: readonly SavedTable[] | null = null;
  #backend: string | null = null;
  #engineNetworks: readonly HostNetwork[] = [];
  /** What was written for each run that this process leased; runs of an earlier process are not in it. */
  readonly #written = new Map<string, IpsetEntry[]>();

  constructor(options: FenceOptions) {
    const marks = options.marks ?? FENCE_MARKS;
    this.#options = options;
    this.#pool = new AddressPool(options.pool);
    this.#routing = { pool: options.pool, marks };
    this.#rules = baseRules({ ...options, marks }, options.pieces ?? RULE_PIECES);
    this.#state = new FenceStateFile(options.stateDirectory);
    this.#pool.restore(this.#state.read().pool);
  }

  async install(): Promise<void> {
    await this.#readEngineNetworks();
    this.#refuseTakenPool();
    this.#backend = await backendOfBoth();
    await runTool('conntrack', ['--version']);
    await makeSets(this.#options.neverRanges ?? NEVER_RANGES);
    const srcValidMarkBefore = await applyRouting(this.#routing);
    if (srcValidMarkBefore !== null) this.#state.rememberSysctl(srcValidMarkBefore);
    const installed: SavedTable[] = [];
    for (const table of this.#rules) {
      const saved = await applyTable(table);
      assertInstalled(table, saved);
      installed.push(saved);
    }
    this.#installed = installed;
    this.#adoptRuns();
    this.#remember();
  }

  async verify(): ReturnType<Fence['verify']> {
    const installed = this.#installed;
    if (installed === null) return { kind: 'broken', findings: ['the base rules have not been put in force'] };
    const tables = this.#rules.map(async (rules, index) => {
      const saved = await saveTable(rules.family, rules.table);
      const before = installed[index];
      return before === undefined ? [] : compareTable(rules, saved, before);
    });
    const backend = backendOfBoth().then((now) =>
      now === this.#backend ? [] : [`iptables: the backend was ${this.#backend ?? ''} and is ${now}`],
    );
    const found = await Promise.all([...tables, checkRouting(this.#routing), checkSets(), backend]);
    const findings = found.flat();
    return findings.length === 0 ? { kind: 'in-force' } : { kind: 'broken', findings };
  }

  lease(runId: string): FenceLease {
    const isNew = this.#pool.lease(runId) === null;
    const lease = this.#pool.take(runId, [...hostNetworks(), ...this.#engineNetworks]);
    if (isNew) this.#written.set(runId, []);
    this.#remember();
    return lease;
  }

  async arm(grant: FenceGrant): Promise<void> {
    const held = this.#pool.lease(grant.lease.runId);
    if (held?.address !== grant.lease.address) {
      throw fail('FENCE_FAILED', {
        detail: `run ${grant.lease.runId} does not hold the address ${grant.lease.address}`,
      });
    }
    this.#refuseOwnPool(grant);
    this.#written.get(held.runId)?.push(...writtenEntries({ ...grant, lease: held }));
    await this.#options.gate.grant(held.address, grant.names);
    await openGrant({ ...grant, lease: held }, this.#sets());
  }

  // The port is asynchronous because other fences may have to ask; the kernel answers this one at once.
  async counters(runId: string): ReturnType<Fence['counters']> {
    const lease = this.#pool.lease(runId);
    if (lease === null)
      throw fail('FENCE_FAILED', { detail: `run ${runId} holds no network, so nothing counts its bytes` });
    return readCounters(lease.address, this.#sets());
  }

  async disarm(runId: string): Promise<void> {
    const lease = this.#pool.lease(runId);
    if (lease === null) return;
    silence(lease, this.#sets());
    // The gate first, or a question that is still waiting could open an address after the purge.
    await this.#options.gate.revoke(lease.address);
    purgeAddress(lease.address, this.#sets(), this.#written.get(runId) ?? null);
    await forgetConnections(lease.address);
    this.#pool.free(runId);
    this.#written.delete(runId);
    this.#remember();
    await this.#readEngineNetworks();
  }

  async collectGarbage(runIdsToKeep: ReadonlySet<string>): Promise<readonly string[]> {
    this.#adoptRuns();
    const removed: string[] = [];
    for (const { runId } of this.#pool.leases()) {
      if (runIdsToKeep.has(runId)) continue;
      await this.disarm(runId);
      removed.push(runId);
    }
    const held = new Set(this.#pool.leases().map(({ address }) => address));
    for (const address of knownEntries(this.#sets()).addresses) {
      if (held.has(address)) continue;
      await this.#options.gate.revoke(address);
      purgeAddress(address, this.#sets(), null);
      await forgetConnections(address);
    }
    return removed;
  }

  async uninstall(): Promise<void> {
    const [lease] = this.#pool.leases();
    if (lease !== undefined) {
      throw fail('FENCE_FAILED', {
        detail: `the fence cannot be removed while run ${lease.runId} holds ${lease.subnet}`,
        hint: 'end the runs first, then `ringfence gc`',
      });
    }
    for (const table of [...this.#rules].toReversed()) await removeTable(table);
    await removeRouting(this.#routing, this.#state.read().srcValidMarkBefore);
    await destroySets();
    this.#ipset?.close();
    this.#ipset = null;
    this.#installed = null;
    this.#state.remove();
  }

  /** The socket belongs to the network namespace of this process and is opened when it is first needed. */
  #sets(): Ipset {
    this.#ipset ??= openIpset();
    return this.#ipset;
  }

  #refuseTakenPool(): void {
    const conflicts = poolConflicts(this.#pool.network, [...hostNetworks(), ...this.#engineNetworks]);
    if (conflicts.length === 0) return;
    throw fail('FENCE_FAILED', {
      detail: `the pool ${this.#pool.text} overlaps ${conflicts.join(', ')}, which this host uses`,
      hint: 'give `fence.pool` in the configuration of the daemon a private network that nothing else uses',
      conflicts,
    });
  }

  #refuseOwnPool(grant: FenceGrant): void {
    const inside = grant.addresses.find(({ network, prefixLength }) => {
      const parsed = parseNetwork(`${network}/${prefixLength}`);
      return parsed === null || overlaps(parsed, this.#pool.network);
    });
    if (inside === undefined) return;
    throw fail('FENCE_FAILED', {
      detail: `${inside.network}/${inside.prefixLength} reaches into ${this.#pool.text}, where the other runs are`,
      hint: 'narrow the address in `egress.allow`, or give the fence another pool',
    });
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

async function backendOfBoth(): Promise<string> {
  const [four, six] = await Promise.all([detectBackend(4), detectBackend(6)]);
  return four === six ? four : `${four} and ${six}`;
}

/** Open connections outlive the entry that allowed them; without their record the next packet is judged anew. */
async function forgetConnections(address: string): Promise<void> {
  for (const side of ['-s', '-d']) {
    const result = await tryTool('conntrack', ['-D', '-f', 'ipv4', side, address]);
    const none = result.exitCode === 1 && result.stderr.includes('0 flow entries');
    if (result.exitCode !== 0 && !none) {
      throw fail('FENCE_FAILED', {
        detail: `conntrack did not forget the connections of ${address}: ${result.stderr.trim().split('\n')[0] ?? ''}`,
      });
    }
  }
}
