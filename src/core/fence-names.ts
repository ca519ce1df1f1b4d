/**
 * Names that the fence gives things in the kernel, shared with whoever reads or cuts them there: the warden removes
 * the `FENCE_SETS.bridge` entry of a run to silence it at once and reads its counters, the gate adds to
 * `FENCE_SETS.learned`.
 */
export const FENCE_SETS = {
  /** `hash:net,iface`: which source network may come from which bridge. Without its entry a run is silent. */
  bridge: 'rf-bridge',
  /** `hash:ip,port,ip` with time-outs: run, port, address learned from a DNS answer. */
  learned: 'rf-learned',
  /** `hash:ip,port,net`: run, port, network written in the profile. */
  written: 'rf-written',
  /** `hash:net`: where a name never leads. */
  never: 'rf-never',
  /** `hash:ip` with counters that start at `FENCE_BUDGET_BASE` minus the budget; runs without a budget have no entry. */
  budget: 'rf-budget',
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
  /** The budget of bytes is used up. */
  budget: 'rf:budget',
  /** A service of the host itself. */
  host: 'rf:host',
} as const;

/** Every bridge of ours begins so; the base rules match it as `rf-+`. */
export const FENCE_BRIDGE_PREFIX = 'rf-';
