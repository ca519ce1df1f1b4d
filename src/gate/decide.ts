import { printable } from '../core/text.ts';
import { canonicaliseName } from '../policy/egress.ts';
import type { EgressRules } from '../policy/egress.ts';
import { judgeName } from './verdict.ts';
import type { NameRequest, OpenPort, Standing } from './verdict.ts';
import { CLASS_IN, RCODE, TYPE, typeName } from './wire.ts';
import type { Query } from './wire.ts';

/**
 * What becomes of one question, from the question, the run's rules and what a person has said. Only `resolve` ever
 * causes a query upstream, and that query holds nothing of the agent's but a canonical name that a rule lists.
 */
export type Decision =
  | {
      readonly kind: 'resolve';
      readonly name: string;
      readonly ports: readonly OpenPort[];
      /** Under a wildcard the agent chooses labels, so these are counted: the name that the wildcard stands before. */
      readonly wildcard: string | null;
    }
  /** Held until a person decides. */
  | { readonly kind: 'ask'; readonly request: NameRequest }
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

export type DecisionContext = {
  readonly rules: EgressRules;
  readonly standing: (name: string) => Standing;
  /** The run's address and its gateway, whose reverse names libraries look up unasked. */
  readonly ownAddresses: readonly string[];
};

export function decideQuery({ rules, standing, ownAddresses }: DecisionContext, query: Query): Decision {
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
  const { name } = canonical;
  const judgement = judgeName(rules, name, standing(name));
  if (judgement.kind === 'refuse') return refuse('egress', RCODE.refused, { shown: name, why: judgement.why });
  switch (query.type) {
    case TYPE.A:
      return judgement.kind === 'ask' ? judgement : { ...judgement, kind: 'resolve', name };
    // IPv6 is denied, and without the keys in a type 65 answer a client has to send the name in clear.
    case TYPE.AAAA:
    case TYPE.HTTPS:
    case TYPE.SVCB:
      // A client that hears of no address while its other question is held would take the name for one without any.
      return judgement.kind === 'ask' ? judgement : { kind: 'empty' };
    default:
      return refuse('dns.type', RCODE.refused, {
        shown: name,
        why: `"${name}" is listed, but a query of type ${typeName(query.type)} is never answered`,
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
