import { assertNever } from '../core/assert.ts';
import { printable } from '../core/text.ts';
import { isNever } from '../policy/egress.ts';
import type { EgressRules } from '../policy/egress.ts';
import type { FencePort } from '../core/ports/fence.ts';
import { FENCE_SETS } from '../core/fence-names.ts';
import type { IpsetEntry, Ipset } from '../kernel/ipset.ts';
import { entrySeconds } from './answer.ts';
import { NameCache } from './cache.ts';
import { decideQuery, refusalOf, rulesOf } from './decide.ts';
import type { Decision, Refusal } from './decide.ts';
import type { DenialFeed } from './denials.ts';
import { PENDING_MAX, RunLimits } from './limits.ts';
import type { GateConfig, GateGrant, GateStats } from './messages.ts';
import type { Resolution } from './upstream.ts';
import { encodeFormatError, encodeReply, parseQuery, RCODE } from './wire.ts';
import type { Query, Reply } from './wire.ts';

/**
 * One question in, one answer or nothing out. The kernel's set is changed, and has acknowledged, before an answer with
 * an address leaves; whatever fails on the way opens nothing.
 */
export type Gate = {
  /** The answer to send back to `source`, or null for silence. */
  handle(source: string, bytes: Buffer, transport: 'udp' | 'tcp'): Promise<Buffer | null>;
  knows(source: string): boolean;
  grant(grant: GateGrant): void;
  /** When this returns, no question of the run that is still waiting will open anything. */
  revoke(address: string): void;
  stats(): GateStats;
};

export type GateParts = {
  readonly config: Pick<GateConfig, 'pool' | 'neverRanges'>;
  readonly ipset: Pick<Ipset, 'add'>;
  readonly resolve: (name: string) => Promise<Resolution>;
  readonly denials: Pick<DenialFeed, 'report' | 'forget'>;
  readonly now: () => number;
};

type Run = {
  readonly address: string;
  readonly rules: EgressRules;
  readonly ownAddresses: readonly string[];
  readonly limits: RunLimits;
  pending: number;
};

/** All runs together: beyond this the resolver is slow and more waiting would only hold memory. */
const PENDING_TOTAL_MAX = 512;

export function createGate(parts: GateParts): Gate {
  const runs = new Map<string, Run>();
  const cache = new NameCache(parts);
  const never = [...parts.config.neverRanges, { cidr: parts.config.pool, what: 'the networks of the runs' }];
  const stats = { queries: 0, answered: 0, refused: 0, malformed: 0, unknownSource: 0, limited: 0, failed: 0 };

  const refuse = (run: Run, refusal: Refusal): void => {
    stats.refused += 1;
    parts.denials.report(run.address, refusal);
  };

  const resolve = async (run: Run, decision: Extract<Decision, { kind: 'resolve' }>): Promise<Reply | null> => {
    const { name } = decision;
    if (cache.peek(name) === null) {
      if (decision.wildcard && !run.limits.takeWildcardName(parts.now(), name)) {
        const refusal = refusalOf('dns.rate', {
          shown: name,
          why: 'too many new names under wildcards in this minute',
        });
        refuse(run, refusal);
        return refusedReply(RCODE.refused, refusal);
      }
      if (run.pending >= PENDING_MAX || cache.waiting >= PENDING_TOTAL_MAX)
        return failedReply('too many questions wait');
    }
    run.pending += 1;
    let resolution: Resolution;
    try {
      resolution = await cache.get(name);
    } finally {
      run.pending -= 1;
    }
    // The run may have been revoked, or its address given to another, while the upstream was asked.
    if (runs.get(run.address) !== run) return null;
    if (resolution.kind === 'failed') return failedReply(resolution.why);
    if (resolution.kind === 'no-such-name') return plainReply(RCODE.nameError);
    const addresses = resolution.addresses.filter((address) => !isNever(address, never));
    if (addresses.length === 0 && resolution.addresses.length > 0) {
      const where = printable(resolution.addresses[0] ?? '');
      const why = `"${name}" leads to ${where}, where no name may lead`;
      const refusal = refusalOf('egress.never', { shown: name, why });
      refuse(run, refusal);
      return refusedReply(RCODE.nameError, refusal);
    }
    if (addresses.length === 0) return plainReply(RCODE.ok);
    const opened = open(run, { addresses, ports: decision.ports, ttlSeconds: resolution.ttlSeconds });
    if (!opened) return failedReply('the address could not be opened');
    return { rcode: RCODE.ok, addresses, ttlSeconds: resolution.ttlSeconds, extended: null };
  };

  const open = (
    run: Run,
    what: { readonly addresses: readonly string[]; readonly ports: readonly FencePort[]; readonly ttlSeconds: number },
  ): boolean => {
    const timeoutSeconds = entrySeconds(what.ttlSeconds);
    const entries = what.addresses.flatMap((destination) =>
      what.ports.map(({ port, protocol }): IpsetEntry => ({
        kind: 'ip,port,ip',
        source: run.address,
        port,
        protocol,
        destination,
      })),
    );
    const keys = what.addresses.flatMap((address) =>
      what.ports.map((port) => `${address} ${port.port}/${port.protocol}`),
    );
    const nowMs = parts.now();
    if (!run.limits.takeEntries(nowMs, keys, nowMs + timeoutSeconds * 1000)) return false;
    try {
      for (const entry of entries) parts.ipset.add(FENCE_SETS.learned, entry, { timeoutSeconds });
      return true;
    } catch {
      // A set that is full or gone: the client hears of a failure and the door stays shut.
      return false;
    }
  };

  const answer = async (run: Run, query: Query): Promise<Reply | null> => {
    const decision = decideQuery(run.rules, query, run.ownAddresses);
    switch (decision.kind) {
      case 'empty':
        return plainReply(RCODE.ok);
      case 'refuse':
        if (decision.counts) refuse(run, decision.refusal);
        return refusedReply(decision.rcode, decision.refusal);
      case 'resolve':
        return await resolve(run, decision);
      default:
        return assertNever(decision);
    }
  };

  return {
    handle: async (source, bytes, transport) => {
      stats.queries += 1;
      const run = runs.get(source);
      if (run === undefined) {
        stats.unknownSource += 1;
        return null;
      }
      const limited = !run.limits.takeQuery(parts.now(), bytes.length);
      const parsed = parseQuery(bytes);
      if (limited) {
        stats.limited += 1;
        const refusal = refusalOf('dns.rate', { shown: '', why: 'too many queries in this minute' });
        parts.denials.report(source, refusal);
        // Answered, because a resolver that hears nothing waits for seconds and asks again.
        return parsed.ok ? encodeReply(parsed.query, refusedReply(RCODE.refused, refusal), transport) : null;
      }
      if (!parsed.ok) {
        stats.malformed += 1;
        parts.denials.report(
          source,
          refusalOf('dns.malformed', { shown: '', why: `a message on port 53 ${parsed.problem}` }),
        );
        return parsed.id === null ? null : encodeFormatError(parsed.id);
      }
      const reply = await answer(run, parsed.query);
      if (reply === null) return null;
      if (reply.rcode === RCODE.serverFailure) stats.failed += 1;
      else if (reply.rcode === RCODE.ok) stats.answered += 1;
      return encodeReply(parsed.query, reply, transport);
    },
    knows: (source) => runs.has(source),
    grant: ({ address, names }) => {
      runs.set(address, {
        address,
        rules: rulesOf(names),
        ownAddresses: [address, gatewayOf(address)],
        limits: new RunLimits(parts.now()),
        pending: 0,
      });
    },
    revoke: (address) => {
      runs.delete(address);
      parts.denials.forget(address);
    },
    stats: () => ({ ...stats, denialsLost: 0 }),
  };
}

/** A run has a /30 of its own: the gateway is the other usable address of it. */
function gatewayOf(address: string): string {
  const octets = address.split('.').map(Number);
  return [...octets.slice(0, 3), ((octets[3] ?? 0) & ~3) + 1].join('.');
}

function plainReply(rcode: number): Reply {
  return { rcode, addresses: [], ttlSeconds: 0, extended: null };
}

function refusedReply(rcode: number, refusal: Refusal): Reply {
  const text = `ringfence ${refusal.rule}: ${refusal.explanation}`;
  return { rcode, addresses: [], ttlSeconds: 0, extended: { code: refusal.extendedCode, text } };
}

const EXTENDED_OTHER = 0;

function failedReply(why: string): Reply {
  const extended = { code: EXTENDED_OTHER, text: `ringfence: ${why}` };
  return { rcode: RCODE.serverFailure, addresses: [], ttlSeconds: 0, extended };
}
