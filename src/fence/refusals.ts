import { heldRequestKey } from '../core/approval.ts';
import type { HeldRequest } from '../core/approval.ts';
import { fail } from '../core/errors.ts';
import type { FenceGrant } from '../core/ports/fence.ts';
import { neverRangeOf } from '../policy/egress.ts';
import type { NeverRange } from '../policy/egress.ts';
import { overlaps } from '../profile/ipv4.ts';
import { coveredBy } from './grant.ts';
import { poolConflicts } from './host-networks.ts';
import type { HostNetwork } from './host-networks.ts';
import { parseNetwork } from './pool.ts';
import type { AddressPool } from './pool.ts';

/** What the fence does not do, with the reason for a person. */
export function refuseTakenPool(pool: AddressPool, networks: readonly HostNetwork[]): void {
  const conflicts = poolConflicts(pool.network, networks);
  if (conflicts.length === 0) return;
  throw fail('FENCE_FAILED', {
    detail: `the pool ${pool.text} overlaps ${conflicts.join(', ')}, which this host uses`,
    hint: 'give `fence.pool` in the configuration of the daemon a private network that nothing else uses',
    conflicts,
  });
}

export function refuseOwnPool(pool: AddressPool, grant: FenceGrant): void {
  const inside = grant.addresses.find(({ network, prefixLength }) => {
    const parsed = parseNetwork(`${network}/${prefixLength}`);
    return parsed === null || overlaps(parsed, pool.network);
  });
  if (inside === undefined) return;
  throw fail('FENCE_FAILED', {
    detail: `${inside.network}/${inside.prefixLength} reaches into ${pool.text}, where the other runs are`,
    hint: 'narrow the address in `egress.allow`, or give the fence another pool',
  });
}

/** Whoever approved it: not into a never-range, not to another run, and nothing that the profile does not ask about. */
export function refuseApproval(
  request: HeldRequest & { readonly kind: 'address' },
  given: {
    readonly never: readonly NeverRange[];
    readonly pool: AddressPool;
    readonly grant: FenceGrant | null;
  },
): void {
  const { address, port, protocol } = request;
  const refuse = (why: string): Error =>
    fail('FENCE_FAILED', { detail: `${heldRequestKey(request)} cannot be approved: ${why}` });
  const never = neverRangeOf(address, given.never);
  if (never !== null) throw refuse(`it is in ${never.cidr} (${never.what}), which nobody can open`);
  if (given.pool.contains(address)) throw refuse(`it is in ${given.pool.text}, where the other runs are`);
  if (given.grant === null || !coveredBy(given.grant, { destination: address, port, protocol }, 'ask')) {
    throw refuse('no address of `egress.ask` of the run holds it');
  }
}
