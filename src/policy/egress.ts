import type { EgressRule, PortGrant, Spec } from '../profile/spec.ts';
import { contains, overlaps, parseCidr, parseIpv4 } from '../profile/ipv4.ts';
import { isBelow } from '../profile/names.ts';
import { NEVER_RANGES, type NeverRange } from '../profile/never.ts';
import { destinationOf, samePort } from '../profile/rules.ts';

// The gate and the warden compare names and addresses only in these canonical forms.
export { canonicaliseName } from '../profile/names.ts';
export { NEVER_RANGES, type NeverRange } from '../profile/never.ts';

/**
 * What the profile says about one destination. Deny is what remains: no rule, no answer. The texts hold canonical
 * names and addresses only, so they are fit to show.
 */
export type Verdict =
  | {
      readonly kind: 'allow';
      readonly rule: EgressRule;
      /** Every port that any matching rule opens. */
      readonly ports: readonly PortGrant[];
    }
  | { readonly kind: 'ask'; readonly rule: EgressRule; readonly ports: readonly PortGrant[] }
  | { readonly kind: 'deny'; readonly rule: 'egress' | 'egress.never'; readonly explanation: string };

export type EgressRules = Spec['egress'];

/** May this name be looked up, and which ports does it open? `canonicalName` comes from `canonicaliseName`. */
export function nameVerdict(rules: EgressRules, canonicalName: string): Verdict {
  const matches = (rule: EgressRule): boolean => rule.kind === 'name' && matchesName(rule, canonicalName);
  return (
    granted('allow', rules.allow.filter(matches)) ??
    granted('ask', rules.ask.filter(matches)) ?? {
      kind: 'deny',
      rule: 'egress',
      explanation: `"${canonicalName}" is not in egress.allow`,
    }
  );
}

export type Destination = PortGrant & { readonly address: string };

/** May this address be reached on this port without a name? Only a rule written as an address says yes. */
export function addressVerdict(rules: EgressRules, destination: Destination): Verdict {
  const address = parseIpv4(destination.address);
  if (address === null) {
    return { kind: 'deny', rule: 'egress.never', explanation: 'the destination is not an IPv4 address' };
  }
  const matches = (rule: EgressRule): boolean =>
    rule.kind === 'address' &&
    contains({ network: parseIpv4(rule.network) ?? -1, prefixLength: rule.prefixLength }, address) &&
    rule.ports.some((grant) => samePort(grant, destination));
  const verdict = granted('allow', rules.allow.filter(matches)) ?? granted('ask', rules.ask.filter(matches));
  if (verdict !== null) return verdict;
  const where = `${destination.address}:${destination.port}/${destination.protocol}`;
  const never = neverRangeOf(destination.address);
  if (never !== null) {
    const explanation = `${where} is in ${never.cidr} (${never.what}), reachable only when written as an address`;
    return { kind: 'deny', rule: 'egress.never', explanation };
  }
  return { kind: 'deny', rule: 'egress', explanation: `${where} is not in egress.allow` };
}

function granted(kind: 'allow' | 'ask', rules: readonly EgressRule[]): Verdict | null {
  const [rule] = rules;
  if (rule === undefined) return null;
  const ports: PortGrant[] = [];
  for (const grant of rules.flatMap((match) => match.ports)) {
    if (!ports.some((other) => samePort(other, grant))) ports.push(grant);
  }
  return { kind, rule, ports };
}

function matchesName(rule: EgressRule & { readonly kind: 'name' }, canonicalName: string): boolean {
  return rule.wildcard ? isBelow(canonicalName, rule.name) : canonicalName === rule.name;
}

/** The never-range that holds the address, or null. What is not canonical IPv4 is in all of them. */
export function neverRangeOf(address: string, ranges: readonly NeverRange[] = NEVER_RANGES): NeverRange | null {
  const value = parseIpv4(address);
  if (value === null) return { cidr: '::/0', what: 'not IPv4' };
  return ranges.find((range) => contains(parseCidr(range.cidr), value)) ?? null;
}

/** May a name lead here? An answer with such an address is dropped before the agent sees it. */
export function isNever(address: string, ranges: readonly NeverRange[] = NEVER_RANGES): boolean {
  return neverRangeOf(address, ranges) !== null;
}

/** Does a written rule share an address with this network, as a pool of ours that must stay closed to agents? */
export function ruleReaches(rule: EgressRule, cidr: string): boolean {
  return rule.kind === 'address' && overlaps(parseCidr(destinationOf(rule)), parseCidr(cidr));
}
