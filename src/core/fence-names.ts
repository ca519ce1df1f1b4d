/**
 * Names that the fence gives things in the kernel, shared with whoever reads or cuts them there: the warden removes
 * the `FENCE_SETS.bridge` entry of a run to silence it at once and reads its counters, the gate adds to
 * `FENCE_SETS.learned`.
 */
export const FENCE_SETS = {
  /** `hash:net,iface`: which source network may come from which bridge. Without its entry a run is silent. */
  bridge: 'rf-bridge',
  /** `hash:ip`: runs whose bandwidth is not in force yet. Their packets are dropped and nobody is told. */
  waiting: 'rf-waiting',
  /** `hash:ip,port,ip` with time-outs: run, port, address learned from a DNS answer. */
  learned: 'rf-learned',
  /** `hash:ip,port,ip` with time-outs: like `learned`, but the connection is led to the checker, which looks at its name. */
  checked: 'rf-checked',
  /** `hash:ip,port,net`: run, port, network written in the profile. */
  written: 'rf-written',
  /** `hash:ip,port,net`: run, port, network that a person is asked about. Its packets wait, they are not refused. */
  ask: 'rf-ask',
  /** `hash:ip,port,ip` with time-outs: run, port, address that a person approved. */
  approved: 'rf-approved',
  /** `hash:ip,port,ip`: like `approved`, but denied. Refused at once, and not asked about again. */
  refused: 'rf-refused',
  /** `hash:net`: where a name never leads. */
  never: 'rf-never',
  /** `hash:ip` with counters that start at `FENCE_BUDGET_BASE` minus the budget; runs without a budget have no entry. */
  budget: 'rf-budget',
  /** `hash:ip`, the same for bytes that come in and for new connections (its packets are connections). */
  ingressBudget: 'rf-budget-in',
  connectionBudget: 'rf-budget-conn',
  /** `hash:ip,port,ip` with counters: bytes that left per destination, for the report alone. */
  flows: 'rf-flows',
  /** `hash:ip` with counters from zero: connections admitted. */
  connections: 'rf-connections',
  /** `hash:ip` with counters from zero: bytes that left, bytes that came in, packets refused. */
  egress: 'rf-egress',
  ingress: 'rf-ingress',
  denied: 'rf-denied',
} as const;

/** The kernel drops a run's packets when its `FENCE_SETS.budget` counter is greater than this. */
export const FENCE_BUDGET_BASE = 2n ** 62n;

/** Prefixes of the denied-packet feed: which rule refused. A `spoof` packet is told by its bridge, not by its source. */
export const FENCE_PREFIXES = {
  /** Nothing in the profile opens this destination. */
  deny: 'rf:deny',
  /** A range that no name may lead to, another run, or multicast. */
  never: 'rf:never',
  /** A source address that is not the run's, or that has been silenced. */
  spoof: 'rf:spoof',
  /** The budget of bytes that leave, of bytes that come in, of connections is used up. */
  budget: 'rf:budget',
  ingress: 'rf:ingress',
  connections: 'rf:conns',
  /** More new connections in a second, or at a time, than any run may make. */
  rate: 'rf:rate',
  /** Nobody has decided yet: the packet waits for a person, by being sent again. */
  ask: 'rf:ask',
  /** A service of the host itself. */
  host: 'rf:host',
} as const;

/** Every bridge of ours begins so; the base rules match it as `rf-+`. */
export const FENCE_BRIDGE_PREFIX = 'rf-';
