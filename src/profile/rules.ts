import { nearest } from '../core/text.ts';
import type { EgressRule, NameCheck, PortGrant, RequestRule } from './spec.ts';
import { formatIpv4, networkOf, overlaps, parseCidr, parseIpv4, type Ipv4Network } from './ipv4.ts';
import { canonicaliseName, nameRefusal, sharedSuffixBelow, wildcardRefusal } from './names.ts';
import { NEVER_RANGES } from './never.ts';
import { parseRequestRule } from './requests.ts';

/**
 * One line of `egress.allow` or `egress.ask`: `host`, `*.host:443,8443`, `host:22/tcp`, `10.20.0.5/32:5432`. What is
 * written is what is compared: no address in another spelling, no scheme, no path, nothing that a reader could take
 * for something else.
 */
export type ParsedRule =
  | { readonly ok: true; readonly rule: EgressRule }
  | { readonly ok: false; readonly rule: string; readonly hint: string | null };

export const RULES_MAX = 1_000;
// The longest name, a wildcard, and every port that one rule may name.
export const RULE_CHARS_MAX = 600;
const PORTS_MAX = 32;
const PREFIX_LENGTH_MIN = 8;
const DEFAULT_PORTS: readonly PortGrant[] = [{ port: 443, protocol: 'tcp' }];

// Nobody may write these: the machine itself, its metadata, and what is no destination of one connection. The private
// ranges are missing on purpose: a database at a private address is what address rules are for.
const FORBIDDEN_NETWORKS: readonly (readonly [what: string, network: string, prefixLength: number])[] = [
  ['this network', '0.0.0.0', 8],
  ['the machine itself', '127.0.0.0', 8],
  ['link-local, with the metadata service of the cloud', '169.254.0.0', 16],
  ['a metadata service', '100.100.100.200', 32],
  ['a metadata service', '168.63.129.16', 32],
  ['a metadata service', '192.0.0.192', 32],
  ['multicast', '224.0.0.0', 4],
  ['reserved', '240.0.0.0', 4],
];

export const CHECKS = ['tls', 'http', 'off'] as const;
export type WrittenCheck = (typeof CHECKS)[number];

export type RuleOptions = {
  /** What a person is asked about may be wider than what is open for the whole run, and is never private. */
  readonly list: 'allow' | 'ask';
  readonly inspect: boolean;
  /** Left out: by the port. */
  readonly check?: WrittenCheck | undefined;
  readonly requests?: readonly string[] | undefined;
};

export function parseRule(text: string, options: RuleOptions = { list: 'allow', inspect: false }): ParsedRule {
  const spelling = spellingRefusal(text);
  if (spelling !== null) return spelling;
  const slash = text.indexOf('/');
  const colon = text.indexOf(':');
  const isAddress = slash !== -1 && (colon === -1 || slash < colon);
  const host = colon === -1 ? text : text.slice(0, colon);
  const ports = colon === -1 ? { ok: true as const, ports: DEFAULT_PORTS } : parsePorts(text.slice(colon + 1));
  const bare = parseIpv4(host);
  if (bare !== null) {
    const cure = `${host}/32${text.slice(host.length)}`;
    return refused('must say how wide an address is', `for this one address write ${cure}`);
  }
  if (!isAddress) {
    const name = nameRule({ text, host, ports: ports.ok ? ports.ports : DEFAULT_PORTS, options });
    if (!name.ok) return name;
    if (!ports.ok) return ports;
    const refusal = treatmentRefusal(name.rule, options);
    return refusal === null ? name : refused(refusal.rule, refusal.hint);
  }
  if (!ports.ok) return ports;
  const address = addressRule({ text, host, ports: ports.ports, options });
  const refusal = address.ok ? treatmentRefusal(address.rule, options) : null;
  return refusal === null ? address : refused(refusal.rule, refusal.hint);
}

export type TreatmentRefusal = {
  /** Which key of the entry is wrong. */
  readonly key: 'check' | 'inspect' | 'requests';
  readonly rule: string;
  readonly hint: string | null;
};

/** Why this rule cannot be checked or inspected as the entry says, or null. */
export function treatmentRefusal(rule: EgressRule, options: Omit<RuleOptions, 'list'>): TreatmentRefusal | null {
  const { check, inspect, requests = [] } = options;
  if (requests.length > 0 && !inspect) {
    const why = 'must stand beside `inspect: true`: nothing else sees a request';
    return { key: 'requests', rule: why, hint: 'add `inspect: true`' };
  }
  if (rule.kind === 'address') {
    if (inspect) {
      return { key: 'inspect', rule: NAME_TO_INSPECT, hint: 'take `inspect` out, or write the name' };
    }
    if (check === undefined || check === 'off') return null;
    const why = 'must not be checked: an address shows no name';
    return { key: 'check', rule: why, hint: 'take `check` out, or write the name' };
  }
  if (check !== undefined && !rule.ports.some(({ protocol }) => protocol === 'tcp')) {
    return { key: 'check', rule: 'must have a tcp port to be checked', hint: 'take `check` out' };
  }
  if (inspect && check === 'off') {
    return { key: 'inspect', rule: 'must not stand beside `check: off`', hint: 'take one of the two out' };
  }
  if (inspect && !rule.ports.some((grant) => checkOf(grant, check) !== null)) {
    const why = 'must have a port whose connections are checked for their name';
    return { key: 'inspect', rule: why, hint: 'say what is spoken there: `check: tls` or `check: http`' };
  }
  return null;
}
const NAME_TO_INSPECT = 'must be a name to be inspected';

/** What a rule opens, without the ports, in canonical form: two rules for one destination have the same text. */
export function destinationOf(rule: EgressRule): string {
  if (rule.kind === 'name') return rule.wildcard ? `*.${rule.name}` : rule.name;
  return `${rule.network}/${rule.prefixLength}`;
}

export function samePort(left: PortGrant, right: PortGrant): boolean {
  return left.port === right.port && left.protocol === right.protocol;
}

function spellingRefusal(text: string): ParsedRule | null {
  if (text === '') return refused('must not be empty', 'for no egress at all write `egress: {}`');
  if (text.length > RULE_CHARS_MAX) return refused(`must be at most ${RULE_CHARS_MAX} characters long`, null);
  // oxlint-disable-next-line no-control-regex -- the control characters are what is looked for
  if (/[\u0000-\u001f\u007f\s]/.test(text)) return refused('must have no spaces or control characters', null);
  // oxlint-disable-next-line no-control-regex -- everything beyond ASCII
  if (/[^\u0000-\u007f]/.test(text)) return refused('must be written in ASCII', punycodeHint(text));
  const scheme = /^([a-z][a-z0-9+.-]*):\/\/([^/:?#@]*)/i.exec(text);
  if (scheme !== null) {
    return refused('must be a host and ports, not an address of a page', `write ${scheme[2] || 'the host alone'}`);
  }
  if (text.includes('@')) return refused('must have no user name before the host', `write ${afterLast(text, '@')}`);
  if (text.includes('%')) return refused('must have no % (escapes and zone ids mean nothing here)', null);
  if (/[?#\\]/.test(text)) return refused('must be a host and ports, without a path or a question', null);
  if (
    text.includes('[') ||
    text.includes(']') ||
    text.includes('::') ||
    /^[0-9a-f]*(:[0-9a-f.]*){2,}(\/|$)/i.test(text)
  ) {
    return refused('must be a name or an IPv4 network: IPv6 is denied by this version', null);
  }
  return null;
}

// The hint shows what a look-alike letter turns into, so that the writer sees which name it is.
function punycodeHint(text: string): string {
  try {
    const host = new URL(`http://${text.replace(/^\*\./, '').replace(/[:/].*$/s, '')}`).hostname;
    return /^[a-z0-9.-]+$/.test(host) ? `an international name is written as ${host}` : ASCII_HINT;
  } catch {
    return ASCII_HINT;
  }
}
const ASCII_HINT = 'write an international name in its xn-- spelling';

type RuleParts = {
  readonly text: string;
  readonly host: string;
  readonly ports: readonly PortGrant[];
  readonly options: RuleOptions;
};

function nameRule({ text, host, ports, options }: RuleParts): ParsedRule {
  if (host === '*' || host === '*.') {
    return refused('must name a host: everything at once cannot be allowed', 'name each host the agent needs');
  }
  const wildcard = host.startsWith('*.');
  const written = wildcard ? host.slice(2) : host;
  if (written.includes('*')) {
    return refused('must have its * as the whole first label only', 'write *.example.com, or each name');
  }
  if (written.startsWith('.')) return refused('must not start with a dot', `write *${written} for the names below it`);
  const canonical = canonicaliseName(written);
  if (!canonical.ok) return refused(canonical.rule, nameHint(written));
  const { name } = canonical;
  // For a wildcard the suffix comes first: `*.com` is no host without a dot, it is everybody's.
  const refusal = wildcard ? (wildcardRefusal(name) ?? nameRefusal(name)) : nameRefusal(name);
  if (refusal !== null) return refused(refusal, wildcard ? 'name the domain: *.example.com' : null);
  const shared = wildcard && options.list === 'allow' ? sharedSuffixBelow(name) : null;
  if (shared !== null) {
    return refused(
      `must not reach "${shared}", below which anyone can rent a name`,
      'name the hosts, or write it under egress.ask',
    );
  }
  const requests: RequestRule[] = [];
  for (const request of options.requests ?? []) {
    const parsed = parseRequestRule(request);
    if (!parsed.ok) return parsed;
    requests.push(parsed.rule);
  }
  const { inspect, check } = options;
  const checked = ports.map((grant) => ({ ...grant, check: checkOf(grant, check) }));
  return { ok: true, rule: { kind: 'name', text, name, wildcard, ports: checked, inspect, requests } };
}

/** By the port, as everybody uses it: what is spoken elsewhere is not known, so there a name opens its addresses. */
function checkOf({ port, protocol }: PortGrant, written: WrittenCheck | undefined): NameCheck {
  if (protocol !== 'tcp' || written === 'off') return null;
  if (written !== undefined) return written;
  if (port === 443) return 'tls';
  return port === 80 ? 'http' : null;
}

function nameHint(written: string): string | null {
  if (/^[0-9a-fx.]+$/i.test(written) && /\d/.test(written)) {
    return 'an address is written in full, with its width: 192.0.2.7/32:443';
  }
  if (written.includes('_')) return 'host names have no underscore; write the name that the agent connects to';
  return null;
}

function addressRule({ text, host, ports, options }: RuleParts): ParsedRule {
  const [address = '', length = '', ...more] = host.split('/');
  const value = parseIpv4(address);
  if (value === null && canonicaliseName(address).ok) {
    return refused('must be a host and ports, without a path', `write ${address}`);
  }
  if (value === null) {
    return refused('must be an IPv4 network in dotted decimal without leading zeros', 'for example 10.20.0.5/32:5432');
  }
  if (more.length > 0 || !/^(?:0|[1-9][0-9]?)$/.test(length) || Number(length) > 32) {
    return refused('must have a width from /8 to /32', `for one address write ${address}/32`);
  }
  const network: Ipv4Network = { network: value, prefixLength: Number(length) };
  if (network.prefixLength < PREFIX_LENGTH_MIN) {
    return refused(`must not be wider than /${PREFIX_LENGTH_MIN}`, 'name the hosts, or a narrower network');
  }
  const first = networkOf(value, network.prefixLength);
  if (first !== value) {
    const cure = `write ${formatIpv4(first)}/${length} for the network, or ${address}/32 for the address`;
    return refused('must have no bits set to the right of its width', cure);
  }
  for (const [what, forbidden, prefixLength] of FORBIDDEN_NETWORKS) {
    if (overlaps(network, { network: parseIpv4(forbidden) ?? 0, prefixLength })) {
      return refused(`must not reach ${forbidden}/${prefixLength} (${what}), which no agent may`, null);
    }
  }
  const never =
    options.list === 'ask' ? NEVER_RANGES.find(({ cidr }) => overlaps(network, parseCidr(cidr))) : undefined;
  if (never !== undefined) {
    const why = `must not reach ${never.cidr} (${never.what}): nobody is asked about what no name may lead to`;
    return refused(why, 'write it under egress.allow, or take it out');
  }
  return {
    ok: true,
    rule: { kind: 'address', text, network: address, prefixLength: network.prefixLength, ports },
  };
}

type ParsedPorts = { readonly ok: true; readonly ports: readonly PortGrant[] } | (ParsedRule & { readonly ok: false });

function parsePorts(text: string): ParsedPorts {
  const written = text.split(',');
  if (written.length > PORTS_MAX) return refused(`must name at most ${PORTS_MAX} ports`, null);
  const ports: PortGrant[] = [];
  for (const item of written) {
    const [number = '', protocol = 'tcp', ...more] = item.split('/');
    if (/^[0-9]+-[0-9]+$/.test(number)) return refused('must name each port by itself, no ranges', 'write 8000,8001');
    if (!/^[1-9][0-9]{0,4}$/.test(number) || Number(number) > 65_535) {
      return refused('must have ports from 1 to 65535 after the colon', 'for example example.com:22,443');
    }
    if ((protocol !== 'tcp' && protocol !== 'udp') || more.length > 0) {
      const near = nearest(protocol, ['tcp', 'udp']);
      return refused('must have tcp or udp as its protocol', `write ${number}/${near ?? 'tcp'}`);
    }
    const grant: PortGrant = { port: Number(number), protocol };
    if (ports.some((other) => samePort(other, grant))) {
      return refused('must name each port once', null);
    }
    ports.push(grant);
  }
  return { ok: true, ports };
}

function refused(rule: string, hint: string | null): ParsedRule & { readonly ok: false } {
  return { ok: false, rule, hint };
}

function afterLast(text: string, mark: string): string {
  return text.slice(text.lastIndexOf(mark) + 1);
}
