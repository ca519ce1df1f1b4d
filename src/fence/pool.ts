import { contains, formatIpv4, networkOf, overlaps, parseIpv4 } from '../profile/ipv4.ts';
import type { Ipv4Network } from '../profile/ipv4.ts';
import { FENCE_BRIDGE_PREFIX } from '../core/fence-names.ts';
import { fail } from '../core/errors.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import type { FenceLease } from '../core/ports/fence.ts';

/**
 * Networks of four addresses, one for each run: the network itself, the gateway, the agent, the broadcast. They are
 * given out in a circle, so that the one given out next is the one that has been free the longest.
 */
const LEASE_PREFIX_LENGTH = 30;
const LEASE_ADDRESSES = 4;
const POOL_PREFIX_LENGTH_MIN = 12;
const POOL_PREFIX_LENGTH_MAX = 28;

export type PoolState = {
  readonly cursor: number;
  readonly leases: readonly { readonly runId: string; readonly index: number }[];
};

export class AddressPool {
  readonly network: Ipv4Network;
  readonly text: string;
  readonly #size: number;
  #cursor = 0;
  readonly #leases = new Map<string, number>();
  readonly #taken = new Set<number>();

  constructor(pool: string) {
    this.network = parsePool(pool);
    this.text = pool;
    this.#size = 2 ** (LEASE_PREFIX_LENGTH - this.network.prefixLength);
  }

  state(): PoolState {
    return { cursor: this.#cursor, leases: [...this.#leases].map(([runId, index]) => ({ runId, index })) };
  }

  restore(state: PoolState): void {
    this.#cursor = Math.min(Math.max(0, Math.trunc(state.cursor)), this.#size - 1);
    for (const { runId, index } of state.leases) this.#hold(runId, index);
  }

  /** Takes the free network that has not been used for longest and that touches none of these. */
  take(runId: string, occupied: readonly Ipv4Network[]): FenceLease {
    const held = this.lease(runId);
    if (held !== null) return held;
    if (!RUN_ID_PATTERN.test(runId)) throw fail('FENCE_FAILED', { detail: `not a run id: ${runId.slice(0, 32)}` });
    for (let step = 0; step < this.#size; step += 1) {
      const index = (this.#cursor + step) % this.#size;
      if (this.#taken.has(index)) continue;
      const candidate = this.#networkAt(index);
      if (occupied.some((network) => overlaps(network, candidate))) continue;
      this.#cursor = (index + 1) % this.#size;
      this.#hold(runId, index);
      return this.#leaseAt(runId, index);
    }
    throw fail('FENCE_FAILED', {
      detail: `no free network is left in the pool ${this.text} (${this.#size} networks, ${this.#taken.size} in use)`,
      hint: 'end runs, remove left-overs with `ringfence gc`, or give the fence a wider `pool`',
    });
  }

  lease(runId: string): FenceLease | null {
    const index = this.#leases.get(runId);
    return index === undefined ? null : this.#leaseAt(runId, index);
  }

  leases(): FenceLease[] {
    return [...this.#leases].map(([runId, index]) => this.#leaseAt(runId, index));
  }

  /** Takes note of a network that the kernel still ties to a run. */
  adopt(runId: string, network: string): void {
    const address = parseIpv4(network);
    if (address === null || !contains(this.network, address) || this.#leases.has(runId)) return;
    this.#hold(runId, (address - this.network.network) / LEASE_ADDRESSES);
  }

  free(runId: string): void {
    const index = this.#leases.get(runId);
    if (index === undefined) return;
    this.#leases.delete(runId);
    this.#taken.delete(index);
  }

  contains(address: string): boolean {
    const value = parseIpv4(address);
    return value !== null && contains(this.network, value);
  }

  #hold(runId: string, index: number): void {
    if (!RUN_ID_PATTERN.test(runId) || !Number.isInteger(index) || index < 0 || index >= this.#size) return;
    if (this.#taken.has(index)) return;
    this.#leases.set(runId, index);
    this.#taken.add(index);
  }

  #networkAt(index: number): Ipv4Network {
    return { network: this.network.network + index * LEASE_ADDRESSES, prefixLength: LEASE_PREFIX_LENGTH };
  }

  #leaseAt(runId: string, index: number): FenceLease {
    const first = this.#networkAt(index).network;
    return {
      runId,
      bridge: bridgeOf(runId),
      subnet: `${formatIpv4(first)}/${LEASE_PREFIX_LENGTH}`,
      gateway: formatIpv4(first + 1),
      address: formatIpv4(first + 2),
    };
  }
}

/** `r` and twelve characters become `rf-` and the same twelve: 15 in all, the most that a device name may have. */
export function bridgeOf(runId: string): string {
  return `${FENCE_BRIDGE_PREFIX}${runId.slice(1)}`;
}

export function runIdOf(bridge: string): string | null {
  const runId = `r${bridge.slice(FENCE_BRIDGE_PREFIX.length)}`;
  return bridge.startsWith(FENCE_BRIDGE_PREFIX) && RUN_ID_PATTERN.test(runId) ? runId : null;
}

function parsePool(pool: string): Ipv4Network {
  const network = parseNetwork(pool);
  const fits =
    network !== null &&
    network.prefixLength >= POOL_PREFIX_LENGTH_MIN &&
    network.prefixLength <= POOL_PREFIX_LENGTH_MAX &&
    networkOf(network.network, network.prefixLength) === network.network;
  if (fits) return network;
  throw fail('FENCE_FAILED', {
    detail: `the pool ${pool.slice(0, 64)} is not an IPv4 network from /${POOL_PREFIX_LENGTH_MIN} to /${POOL_PREFIX_LENGTH_MAX} without host bits`,
    hint: 'write a private network that nothing else uses, such as 10.213.0.0/16',
  });
}

/** `10.20.0.0/16`, or an address alone; null for anything else. */
export function parseNetwork(text: string): Ipv4Network | null {
  const [address = '', length = '32', ...more] = text.split('/');
  const network = parseIpv4(address);
  if (network === null || more.length > 0 || !/^[0-9]{1,2}$/.test(length) || Number(length) > 32) return null;
  return { network, prefixLength: Number(length) };
}
