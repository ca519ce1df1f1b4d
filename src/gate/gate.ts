import { assertNever } from '../core/assert.ts';
import type { NameResolved } from '../core/ports/warden.ts';
import type { ApprovalLifetime } from '../core/approval.ts';
import type { CheckQuestion, CheckVerdict } from '../checker/messages.ts';
import { checkConnection } from './check.ts';
import { decideQuery, refusalOf } from './decide.ts';
import type { Refusal } from './decide.ts';
import type { DenialFeed, Refused } from './denials.ts';
import { HeldNames } from './held.ts';
import { RunLimits } from './limits.ts';
import { createLookup } from './lookup.ts';
import type { GateConfig, GateGrant, GateStats } from './messages.ts';
import { OpenedEntries } from './opened.ts';
import type { EntrySets } from './opened.ts';
import { failedReply, plainReply, refusedReply, TOO_MANY_TEXT, WAITS_TEXT } from './replies.ts';
import type { GateRun } from './run.ts';
import type { Resolution } from './upstream.ts';
import { ShownNames } from './shown.ts';
import { isUnderAsk, judgeName, judgeShown, rulesOf } from './verdict.ts';
import type { NameRequest, OpenPort } from './verdict.ts';
import { encodeFormatError, encodeReply, parseQuery, RCODE } from './wire.ts';
import type { Query, Reply } from './wire.ts';

/**
 * One question in, one answer or nothing out. The kernel's set is changed, and has acknowledged, before an answer with
 * an address leaves; whatever fails on the way opens nothing.
 *
 *   question ─▶ decide ─▶ ask ──held──▶ decide again
 *                 │
 *                 └─▶ resolve ─▶ looked up ─▶ decide again ─▶ opened ─▶ answered
 *
 * Everything that waits looks at the rules again afterwards: they may have changed, and the run may be gone.
 */
export type Gate = {
  /** The answer to send back to `source`, or null for silence. */
  handle(source: string, bytes: Buffer, transport: 'udp' | 'tcp'): Promise<Buffer | null>;
  /** May a connection that shows this name pass, and where does it lead? */
  check(question: CheckQuestion): Promise<CheckVerdict>;
  knows(source: string): boolean;
  grant(grant: GateGrant): void;
  /** When this returns, no question of the run that is still waiting will open anything. */
  revoke(address: string): void;
  /** When this returns, nothing is open that the new names do not list. Throws when the kernel does not let it go. */
  change(grant: GateGrant): void;
  /** `lifetime` null: denied. What does not ask about the name any more is not opened by it. */
  decide(address: string, request: NameRequest, lifetime: ApprovalLifetime | null): void;
  /** To be called a few times a second: ends what has waited or lasted long enough. */
  sweep(): void;
  stats(): GateStats;
};

export type GateParts = {
  readonly config: Pick<GateConfig, 'pool' | 'neverRanges' | 'holdMs'>;
  readonly ipset: EntrySets;
  readonly resolve: (name: string) => Promise<Resolution>;
  readonly isHost: (address: string) => boolean;
  readonly denials: Pick<DenialFeed, 'report' | 'forget'>;
  /** Milliseconds of a clock that nobody sets. */
  readonly now: () => number;
  readonly onAsked: (address: string, request: NameRequest) => void;
  /** Before the answer leaves: trying all addresses of one name is one attempt, and only the gate knows which they are. */
  readonly onResolved: (resolved: NameResolved) => void;
  /** Connections of a run to close: those that show one of these names, or all. */
  readonly onClose: (address: string, names: readonly string[] | null) => void;
};

export function createGate(parts: GateParts): Gate {
  const runs = new Map<string, GateRun>();
  const never = [...parts.config.neverRanges, { cidr: parts.config.pool, what: 'the networks of the runs' }];
  const lookup = createLookup({ ...parts, never });
  const stats = { queries: 0, answered: 0, refused: 0, malformed: 0, unknownSource: 0, limited: 0, failed: 0 };

  const refuse = (run: GateRun, refused: Refused): void => {
    stats.refused += 1;
    parts.denials.report(run.address, refused);
  };
  const isAlive = (run: GateRun): boolean => runs.get(run.address) === run;

  const portsOf = (run: GateRun, name: string): readonly OpenPort[] => {
    const judgement = judgeName(run.rules, name, run.held.standing(name));
    return judgement.kind === 'open' ? judgement.ports : [];
  };

  const resolve = async (
    run: GateRun,
    asked: { readonly name: string; readonly wildcard: string | null },
  ): Promise<Reply | null> => {
    const { name } = asked;
    const found = await lookup(run, asked);
    // The run may have been revoked, or its address given to another, while the upstream was asked.
    if (!isAlive(run)) return null;
    switch (found.kind) {
      case 'failed':
        return failedReply(found.why);
      case 'no-such-name':
        return plainReply(RCODE.nameError);
      case 'limited':
        return refusedBecause(run, RCODE.refused, refusalOf('dns.rate', { shown: name, why: found.why }));
      case 'never':
        return refusedBecause(run, RCODE.nameError, refusalOf('egress.never', { shown: name, why: found.why }));
      case 'addresses': {
        if (found.addresses.length === 0) return plainReply(RCODE.ok);
        const nowMs = parts.now();
        const ports = portsOf(run, name);
        if (ports.length === 0) return failedReply(`the rules for "${name}" have just changed`);
        if (!run.opened.open({ ...found, name, ports }, nowMs)) return failedReply('the address could not be opened');
        parts.onResolved({ kind: 'resolved', address: run.address, name, addresses: found.addresses });
        const ttlSeconds = Math.min(found.ttlSeconds, secondsOf(ports, nowMs));
        return { rcode: RCODE.ok, addresses: found.addresses, ttlSeconds, extended: null };
      }
      default:
        return assertNever(found);
    }
  };

  const refusedBecause = (run: GateRun, rcode: number, refusal: Refusal): Reply => {
    refuse(run, questionRefused(refusal));
    return refusedReply(rcode, refusal);
  };

  const answer = async (run: GateRun, query: Query, hasWaited = false): Promise<Reply | null> => {
    const { rules, ownAddresses } = run;
    const decision = decideQuery({ rules, ownAddresses, standing: (name) => run.held.standing(name) }, query);
    switch (decision.kind) {
      case 'empty':
        return plainReply(RCODE.ok);
      case 'refuse':
        if (decision.counts) refuse(run, questionRefused(decision.refusal));
        return refusedReply(decision.rcode, decision.refusal);
      case 'resolve':
        return await resolve(run, decision);
      case 'ask': {
        const { name } = decision.request;
        if (hasWaited) return failedReply(`"${name}" ${WAITS_TEXT}`);
        const waited = await run.held.wait(decision.request);
        if (!isAlive(run)) return null;
        if (waited === 'look-again') return await answer(run, query, true);
        const refusal = refusalOf('egress', { shown: name, why: TOO_MANY_TEXT });
        return refusedBecause(run, RCODE.refused, refusal);
      }
      default:
        return assertNever(decision);
    }
  };

  /** Takes away what the rules and decisions of now do not justify. */
  const retain = (run: GateRun): void => {
    // A name with many addresses is judged once: the rules may be a thousand.
    const judged = new Map<string, readonly OpenPort[]>();
    const portsNow = (name: string): readonly OpenPort[] => {
      const ports = judged.get(name) ?? portsOf(run, name);
      judged.set(name, ports);
      return ports;
    };
    run.opened.retain(portsNow, parts.now());
  };

  const close = (run: GateRun, names: readonly string[] | null): void => {
    if (names === null || names.length > 0) parts.onClose(run.address, names);
  };

  const grant = ({ address, names }: GateGrant): void => {
    const { now } = parts;
    runs.get(address)?.held.end();
    runs.set(address, {
      address,
      rules: rulesOf(names),
      ownAddresses: [address, gatewayOf(address)],
      limits: new RunLimits(now()),
      held: new HeldNames({ holdMs: parts.config.holdMs, now, onAsked: (asked) => parts.onAsked(address, asked) }),
      opened: new OpenedEntries(address, parts.ipset),
      shown: new ShownNames(),
      pending: 0,
    });
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
        parts.denials.report(source, questionRefused(refusal));
        // Answered, because a resolver that hears nothing waits for seconds and asks again.
        return parsed.ok ? encodeReply(parsed.query, refusedReply(RCODE.refused, refusal), transport) : null;
      }
      if (!parsed.ok) {
        stats.malformed += 1;
        const refusal = refusalOf('dns.malformed', { shown: '', why: `a message on port 53 ${parsed.problem}` });
        parts.denials.report(source, questionRefused(refusal));
        return parsed.id === null ? null : encodeFormatError(parsed.id);
      }
      const reply = await answer(run, parsed.query);
      if (reply === null) return null;
      if (reply.rcode === RCODE.serverFailure) stats.failed += 1;
      else if (reply.rcode === RCODE.ok) stats.answered += 1;
      return encodeReply(parsed.query, reply, transport);
    },
    check: (question) => {
      const run = runs.get(question.source);
      return checkConnection(question, run, { isAlive, refuse, lookup, now: parts.now });
    },
    knows: (source) => runs.has(source),
    grant,
    revoke: (address) => {
      const run = runs.get(address);
      runs.delete(address);
      run?.held.end();
      parts.denials.forget(address);
      parts.onClose(address, null);
    },
    change: ({ address, names }) => {
      const run = runs.get(address);
      // A gate that has started in the meantime begins with the new names.
      if (run === undefined) return grant({ address, names });
      const rules = rulesOf(names);
      run.rules = rules;
      run.held.retain((name) => isUnderAsk(rules, name));
      close(
        run,
        run.shown.takeChanged((shown) => judgeShown(rules, shown, run.held.standing(shown.name))),
      );
      retain(run);
      run.opened.removeUnknown();
    },
    decide: (address, request, lifetime) => {
      const run = runs.get(address);
      if (run === undefined || !isUnderAsk(run.rules, request.name)) return;
      const before = run.held.standing(request.name);
      run.held.decide(request, lifetime);
      if (before.kind !== 'approved') return;
      close(run, [request.name]);
      retain(run);
    },
    sweep: () => {
      // What an approval opened in the kernel ends there by itself, at the latest when the approval does.
      for (const run of runs.values()) close(run, run.held.sweep());
    },
    stats: () => ({ ...stats, denialsLost: 0 }),
  };
}

/** A run has a /30 of its own: the gateway is the other usable address of it. */
function gatewayOf(address: string): string {
  const octets = address.split('.').map(Number);
  return [...octets.slice(0, 3), ((octets[3] ?? 0) & ~3) + 1].join('.');
}

function questionRefused({ destination, rule, explanation }: Refusal): Refused {
  return { kind: 'name', destination, port: 53, protocol: 'dns', rule, explanation };
}

/** How long the answer may be used: to the end of an approval; a rule of `allow` has no end. */
function secondsOf(ports: readonly OpenPort[], nowMs: number): number {
  return Math.max(...ports.map(({ untilMs }) => (untilMs === null ? Infinity : Math.floor((untilMs - nowMs) / 1000))));
}
