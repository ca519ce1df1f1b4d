import { printable } from '../core/text.ts';
import { isNever } from '../policy/egress.ts';
import type { NeverRange } from '../policy/egress.ts';
import { NameCache } from './cache.ts';
import { PENDING_MAX, WILDCARD_LABEL_CHARS_MAX } from './limits.ts';
import type { RunLimits } from './limits.ts';
import type { Resolution } from './upstream.ts';

/** Where a listed name leads, for one run: what the upstream said, less what no name may lead to. */
export type LookupResult =
  | { readonly kind: 'addresses'; readonly addresses: readonly string[]; readonly ttlSeconds: number }
  | { readonly kind: 'no-such-name' }
  /** The run made up more under a wildcard than it may: nothing was asked. */
  | { readonly kind: 'limited'; readonly why: string }
  /** Every address is in a never-range, or the host's own. */
  | { readonly kind: 'never'; readonly why: string }
  | { readonly kind: 'failed'; readonly why: string };

/** The part of a run that a look-up counts against. */
export type LookupRun = { readonly limits: RunLimits; pending: number };

export type Lookup = (
  run: LookupRun,
  asked: { readonly name: string; readonly wildcard: string | null },
) => Promise<LookupResult>;

export type LookupParts = {
  readonly resolve: (name: string) => Promise<Resolution>;
  readonly never: readonly NeverRange[];
  /** Throws when it cannot tell. */
  readonly isHost: (address: string) => boolean;
  readonly now: () => number;
};

/** All runs together: beyond this the resolver is slow and more waiting would only hold memory. */
const PENDING_TOTAL_MAX = 512;

/** Answers come from one cache for all runs; what a run may cause upstream is its own. */
export function createLookup(parts: LookupParts): Lookup {
  const cache = new NameCache(parts);
  return async (run, { name, wildcard }) => {
    // What is known already goes to nobody, so it is no channel either.
    if (cache.peek(name) === null) {
      const excess = wildcard === null ? null : wildcardExcess(run.limits, { name, wildcard }, parts.now());
      if (excess !== null) return { kind: 'limited', why: excess };
      if (run.pending >= PENDING_MAX || cache.waiting >= PENDING_TOTAL_MAX) {
        return { kind: 'failed', why: 'too many questions wait' };
      }
    }
    run.pending += 1;
    let resolution: Resolution;
    try {
      resolution = await cache.get(name);
    } finally {
      run.pending -= 1;
    }
    if (resolution.kind !== 'addresses') return resolution;
    let addresses: readonly string[];
    try {
      addresses = resolution.addresses.filter((address) => !isNever(address, parts.never) && !parts.isHost(address));
    } catch {
      return { kind: 'failed', why: 'the addresses of the host could not be read' };
    }
    if (addresses.length === 0 && resolution.addresses.length > 0) {
      const where = printable(resolution.addresses[0] ?? '');
      return { kind: 'never', why: `"${name}" leads to ${where}, where no name may lead` };
    }
    return { kind: 'addresses', addresses, ttlSeconds: resolution.ttlSeconds };
  };
}

function wildcardExcess(
  limits: RunLimits,
  asked: { readonly name: string; readonly wildcard: string },
  nowMs: number,
): string | null {
  const labels = asked.name.slice(0, -asked.wildcard.length - 1).split('.');
  if (labels.some((label) => label.length > WILDCARD_LABEL_CHARS_MAX)) {
    return `a label under "*.${asked.wildcard}" is longer than ${WILDCARD_LABEL_CHARS_MAX} characters`;
  }
  if (!limits.takeWildcardName(nowMs, asked.name)) return 'too many new names under wildcards in this minute';
  return null;
}
