import { printable } from '../core/text.ts';
import { canonicaliseName, nameVerdict } from '../policy/egress.ts';
import type { EgressRules } from '../policy/egress.ts';
import type { FenceGrant, FencePort } from '../core/ports/fence.ts';
import { CLASS_IN, RCODE, TYPE, typeName } from './wire.ts';
import type { Query } from './wire.ts';

/**
 * What becomes of one question, from the question and the run's rules alone. Only `resolve` ever causes a query
 * upstream, and that query holds nothing of the agent's but a canonical name that a rule lists.
 */
export type Decision =
  | {
      readonly kind: 'resolve';
      readonly name: string;
      readonly ports: readonly FencePort[];
      /** Under a wildcard the agent chooses labels, so these are counted. */
      readonly wildcard: boolean;
    }
  /** The name is listed but has nothing of this type for agents. No denial: resolvers ask for these on their own. */
  | { readonly kind: 'empty' }
  | { readonly kind: 'refuse'; readonly rcode: number; readonly refusal: Refusal; readonly counts: boolean };

/** Why a question was refused: what the agent reads in the extended error, and what the operator reads in the record. */
export type Refusal = {
  /** RFC 8914: 15 is blocked by policy, 18 is prohibited for this client. */
  readonly extendedCode: number;
  readonly destination: string;
  readonly rule: 'egress' | 'egress.never' | 'dns.type' | 'dns.name' | 'dns.malformed' | 'dns.rate';
  readonly explanation: string;
};

const EXTENDED_BLOCKED = 15;
const EXTENDED_PROHIBITED = 18;
const OPCODE_QUERY = 0;

/** The run's names as rules of the policy: the gate and `review` decide by the same code. */
export function rulesOf(names: FenceGrant['names']): EgressRules {
  return { allow: names.map((name) => ({ ...name, kind: 'name' as const, inspect: false })), ask: [] };
}

/** `ownAddresses`: the run's address and its gateway, whose reverse names libraries look up unasked. */
export function decideQuery(rules: EgressRules, query: Query, ownAddresses: readonly string[]): Decision {
  const shown = printable(query.labels.join('.'), 253);
  if (query.opcode !== OPCODE_QUERY) {
    return refuse('dns.malformed', RCODE.notImplemented, { shown, why: `opcode ${query.opcode} is not a query` });
  }
  if (query.class !== CLASS_IN) {
    return refuse('dns.type', RCODE.refused, { shown, why: `class ${query.class} is never answered` });
  }
  if (query.type === TYPE.PTR && isReverseOf(query.labels, ownAddresses)) {
    const refusal = refusalOf('dns.type', { shown, why: 'the run has no name in the reverse zone' });
    return { kind: 'refuse', rcode: RCODE.nameError, refusal, counts: false };
  }
  // A dot inside a label would read as two labels once joined.
  const joined = query.labels.some((label) => label.includes('.')) ? '' : query.labels.join('.');
  const canonical = canonicaliseName(joined);
  if (!canonical.ok) return refuse('dns.name', RCODE.refused, { shown, why: `a name ${canonical.rule}` });
  const verdict = nameVerdict(rules, canonical.name);
  if (verdict.kind !== 'allow') {
    const why = verdict.kind === 'deny' ? verdict.explanation : `"${canonical.name}" waits for a person`;
    return refuse('egress', RCODE.refused, { shown: canonical.name, why });
  }
  switch (query.type) {
    case TYPE.A: {
      const wildcard = verdict.rule.kind === 'name' && verdict.rule.wildcard;
      return { kind: 'resolve', name: canonical.name, ports: verdict.ports, wildcard };
    }
    // IPv6 is denied, and without the keys in a type 65 answer a client has to send the name in clear.
    case TYPE.AAAA:
    case TYPE.HTTPS:
    case TYPE.SVCB:
      return { kind: 'empty' };
    default:
      return refuse('dns.type', RCODE.refused, {
        shown: canonical.name,
        why: `"${canonical.name}" is listed, but a query of type ${typeName(query.type)} is never answered`,
      });
  }
}

function refuse(
  rule: Refusal['rule'],
  rcode: number,
  text: { readonly shown: string; readonly why: string },
): Decision {
  return { kind: 'refuse', rcode, refusal: refusalOf(rule, text), counts: true };
}

export function refusalOf(rule: Refusal['rule'], text: { readonly shown: string; readonly why: string }): Refusal {
  const blocked = rule === 'egress' || rule === 'egress.never';
  return {
    extendedCode: blocked ? EXTENDED_BLOCKED : EXTENDED_PROHIBITED,
    destination: text.shown === '' ? '.' : text.shown,
    rule,
    explanation: text.why,
  };
}

function isReverseOf(labels: readonly string[], addresses: readonly string[]): boolean {
  const name = labels.join('.').toLowerCase();
  return addresses.some((address) => name === `${address.split('.').toReversed().join('.')}.in-addr.arpa`);
}
