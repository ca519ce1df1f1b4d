import type { HeldRequest } from '../core/approval.ts';
import type { FenceGrant, FencePort, FenceRequestRule } from '../core/ports/fence.ts';
import { nameVerdict } from '../policy/egress.ts';
import type { EgressRules } from '../policy/egress.ts';
import type { EgressRule } from '../profile/spec.ts';
import { samePort } from '../profile/rules.ts';

/**
 * What the rules of a run, and what a person has said so far, make of one canonical name. PURE.
 *
 * Several rules may list one name. What they give adds up: a port is open when any of them gives it, unchecked when any
 * of them leaves it unchecked, uninspected when any of them does not inspect it.
 */
export type NameRule = Extract<EgressRule, { kind: 'name' }>;

export type NameRequest = Extract<HeldRequest, { kind: 'name' }>;

/** `untilMs`: when the approval that opens the port ends; null for a rule of `allow`. */
export type OpenPort = FencePort & { readonly check: 'tls' | 'http' | null; readonly untilMs: number | null };

/** What a person has said about one name of one run. */
export type Standing =
  | { readonly kind: 'undecided' }
  | { readonly kind: 'denied' }
  | { readonly kind: 'approved'; readonly ports: readonly FencePort[]; readonly untilMs: number };

export type NameJudgement =
  /** `wildcard`: what stands behind the labels that the agent chose; null when a rule or a person named all of it. */
  | { readonly kind: 'open'; readonly ports: readonly OpenPort[]; readonly wildcard: string | null }
  | { readonly kind: 'ask'; readonly request: NameRequest }
  | { readonly kind: 'refuse'; readonly why: string };

/** What a connection shows: the name must be listed for its port, and for a check that it passes. */
export type ShownName = { readonly name: string; readonly port: number; readonly protocol: 'tls' | 'http' };

export type ShownJudgement =
  | {
      readonly kind: 'open';
      readonly wildcard: string | null;
      readonly inspect: boolean;
      readonly requests: readonly FenceRequestRule[];
    }
  | { readonly kind: 'ask'; readonly request: NameRequest }
  | { readonly kind: 'refuse'; readonly rule: 'egress' | 'check.name'; readonly why: string };

/** The run's names as rules of the policy: the gate and `review` decide by the same code. */
export function rulesOf(names: FenceGrant['names']): EgressRules {
  const listed = (ask: boolean): NameRule[] =>
    names.filter((name) => name.ask === ask).map((name) => ({ ...name, kind: 'name' as const }));
  return { allow: listed(false), ask: listed(true) };
}

export function judgeName(rules: EgressRules, name: string, standing: Standing): NameJudgement {
  const verdict = nameVerdict(rules, name);
  if (verdict.kind === 'deny') return { kind: 'refuse', why: verdict.explanation };
  const asked = portsOf(matching(rules.ask, name));
  const approved = approvedOf(asked, standing);
  if (verdict.kind === 'ask') {
    if (standing.kind === 'undecided') return { kind: 'ask', request: requestOf(rules, name) };
    if (standing.kind === 'denied') return { kind: 'refuse', why: deniedText(name) };
    if (approved.length === 0) return { kind: 'refuse', why: `"${name}" was approved for other ports` };
    return { kind: 'open', ports: approved, wildcard: null };
  }
  const allowed = matching(rules.allow, name);
  const ports = portsOf(allowed);
  // The name is answered because `allow` lists it. What `ask` adds to it is asked when the checker sees the connection,
  // and a port without a check opens when a person has said so.
  const more = [...approved, ...asked.filter(({ check }) => check !== null)];
  for (const port of more) if (!ports.some((other) => samePort(other, port))) ports.push(port);
  return { kind: 'open', ports, wildcard: wildcardOf(allowed) };
}

/** A rule that leaves the port unchecked lets a connection with this name through as well. */
export function judgeShown(rules: EgressRules, shown: ShownName, standing: Standing): ShownJudgement {
  const { name, port, protocol } = shown;
  const speaks = (rule: EgressRule): boolean =>
    rule.kind === 'name' && rule.ports.some((each) => each.protocol === 'tcp' && fits(each, port, protocol));
  const narrowed = { allow: rules.allow.filter(speaks), ask: rules.ask.filter(speaks) };
  const verdict = nameVerdict(narrowed, name);
  if (verdict.kind === 'allow') {
    const allowed = matching(narrowed.allow, name);
    return { ...openOf(allowed), wildcard: wildcardOf(allowed) };
  }
  if (verdict.kind === 'ask') {
    if (standing.kind === 'undecided') return { kind: 'ask', request: requestOf(rules, name) };
    if (standing.kind === 'denied') return { kind: 'refuse', rule: 'egress', why: deniedText(name) };
    if (standing.ports.some((each) => samePort(each, { port, protocol: 'tcp' }))) {
      return { ...openOf(matching(narrowed.ask, name)), wildcard: null };
    }
    return { kind: 'refuse', rule: 'egress', why: `"${name}" was approved for other ports` };
  }
  const listed = nameVerdict(rules, name).kind !== 'deny';
  const where = `port ${port} with ${protocol === 'tls' ? 'TLS' : 'HTTP'}`;
  const why = listed ? `"${name}" is listed, but not for ${where}` : verdict.explanation;
  return { kind: 'refuse', rule: 'check.name', why };
}

/** Does `ask` list this name? An approval without such a rule means nothing. */
export function isUnderAsk(rules: EgressRules, name: string): boolean {
  return nameVerdict({ allow: [], ask: rules.ask }, name).kind === 'ask';
}

/** What approval would open: every port that any matching rule of `ask` gives. */
function requestOf(rules: EgressRules, name: string): NameRequest {
  const matches = matching(rules.ask, name);
  const ports = portsOf(matches).map(({ port, protocol }) => ({ port, protocol }));
  return { kind: 'name', name, ports, rule: matches[0]?.text ?? '' };
}

function matching(rules: readonly EgressRule[], name: string): NameRule[] {
  return rules.filter(
    (rule): rule is NameRule => rule.kind === 'name' && nameVerdict({ allow: [rule], ask: [] }, name).kind === 'allow',
  );
}

function portsOf(rules: readonly NameRule[]): OpenPort[] {
  const ports: OpenPort[] = [];
  for (const { port, protocol, check } of rules.flatMap((rule) => rule.ports)) {
    const at = ports.findIndex((other) => samePort(other, { port, protocol }));
    const known = ports[at];
    if (known === undefined) ports.push({ port, protocol, check, untilMs: null });
    else if (check === null) ports[at] = { ...known, check: null };
  }
  return ports;
}

function approvedOf(asked: readonly OpenPort[], standing: Standing): OpenPort[] {
  if (standing.kind !== 'approved') return [];
  return asked
    .filter((port) => standing.ports.some((approved) => samePort(approved, port)))
    .map((port) => ({ ...port, untilMs: standing.untilMs }));
}

function fits(grant: NameRule['ports'][number], port: number, protocol: 'tls' | 'http'): boolean {
  return grant.port === port && (grant.check === null || grant.check === protocol);
}

function wildcardOf(matches: readonly NameRule[]): string | null {
  return matches.every((rule) => rule.wildcard) ? (matches[0]?.name ?? null) : null;
}

function openOf(matches: readonly NameRule[]): Omit<Extract<ShownJudgement, { kind: 'open' }>, 'wildcard'> {
  const inspect = matches.every((rule) => rule.inspect);
  // A rule without requests lets every request pass, whatever its neighbours list.
  const every = matches.some((rule) => rule.requests.length === 0);
  return { kind: 'open', inspect, requests: inspect && !every ? matches.flatMap((rule) => rule.requests) : [] };
}

function deniedText(name: string): string {
  return `"${name}" is under egress.ask, and nobody approved it`;
}
