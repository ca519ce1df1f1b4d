import type { Path } from './document.ts';
import { formatIpv4, networkOf, parseIpv4 } from './ipv4.ts';
import { requestCovers } from './requests.ts';
import { CHECKS, destinationOf, parseRule, RULES_MAX, treatmentRefusal, type WrittenCheck } from './rules.ts';
import type { EgressRule, RequestRule } from './spec.ts';
import { at, entriesAt, isRecord, type Finding } from './written.ts';

/**
 * What no line of `egress` can see by itself: repeats, contradictions, lines that can never decide anything. Two lines
 * that reach one port of one destination must say the same about it, so that no order of lines has a meaning.
 */
type Written = {
  readonly list: 'allow' | 'ask';
  readonly rule: EgressRule;
  readonly path: Path;
  /** `path` of `to`, or the whole short entry. */
  readonly textPath: Path;
};
type LineOf = (path: Path) => number;
type Judged = { readonly errors: readonly Finding[]; readonly warnings: readonly Finding[] };

export function judgeEgress(raw: unknown, lineOf: LineOf): Judged {
  const errors: Finding[] = [];
  const warnings: Finding[] = [];
  const written: Written[] = [];
  for (const list of ['allow', 'ask'] as const) {
    for (const [index, entry] of entriesAt(raw, ['egress', list]).slice(0, RULES_MAX).entries()) {
      const path: Path = ['egress', list, index];
      const read = readEntry(entry, list);
      if (read === null) continue;
      if (read.refusal !== null) errors.push({ path: [...path, ...read.refusal.path], ...read.refusal.finding });
      const textPath = typeof entry === 'string' ? path : [...path, 'to'];
      if (read.rule !== null) written.push({ list, rule: read.rule, path, textPath });
    }
  }
  const seen = new Map<string, Written>();
  for (const each of written) {
    const repeat = repeatedGrant(each, seen, lineOf);
    if (repeat !== null) errors.push(repeat);
  }
  for (const each of written) {
    const covered = coveredGrant(each, seen, lineOf);
    if (covered?.error !== undefined) errors.push(covered.error);
    if (covered?.warning !== undefined) warnings.push(covered.warning);
    errors.push(...repeatedRequests(raw, each, lineOf));
    warnings.push(...ownWarnings(each), ...coveredRequests(each, lineOf));
  }
  return { errors, warnings };
}

type Read = {
  readonly rule: EgressRule | null;
  readonly refusal: { readonly path: Path; readonly finding: Omit<Finding, 'path'> } | null;
};

/** Null for what the schema refuses by itself. */
function readEntry(entry: unknown, list: 'allow' | 'ask'): Read | null {
  const text = typeof entry === 'string' ? entry : at(entry, ['to']);
  if (typeof text !== 'string') return null;
  const plain = parseRule(text, { list, inspect: false });
  if (!plain.ok) return null;
  if (!isRecord(entry)) return { rule: plain.rule, refusal: null };
  const check = CHECKS.find((each): each is WrittenCheck => each === at(entry, ['check']));
  const inspect = at(entry, ['inspect']) === true;
  const requests = entriesAt(entry, ['requests']).filter((each) => typeof each === 'string');
  const refusal = treatmentRefusal(plain.rule, { check, inspect, requests });
  if (refusal !== null) {
    const { key, rule: message, hint } = refusal;
    return { rule: plain.rule, refusal: { path: [key], finding: { message, hint } } };
  }
  const parsed = parseRule(text, { list, check, inspect, requests });
  // A bad request is told by its own field; the rest of the entry is judged all the same.
  return { rule: parsed.ok ? parsed.rule : plain.rule, refusal: null };
}

function repeatedGrant({ rule, textPath, ...rest }: Written, seen: Map<string, Written>, lineOf: LineOf) {
  let repeat: Finding | null = null;
  for (const { port, protocol } of rule.ports) {
    const grant = `${destinationOf(rule)} on ${port}/${protocol}`;
    const first = seen.get(grant);
    if (first === undefined) {
      seen.set(grant, { rule, textPath, ...rest });
      continue;
    }
    const message = `must not repeat ${grant}, which is already under ${placeOf(first, lineOf)}`;
    repeat ??= { path: textPath, message, hint: 'delete one of the two lines' };
  }
  return repeat;
}

/** A wider line for the same port: `ask` below `allow` is never asked, and two of one list must agree. */
function coveredGrant({ rule, list, textPath }: Written, seen: ReadonlyMap<string, Written>, lineOf: LineOf) {
  const covers = rule.ports.map(({ port, protocol }) =>
    widerDestinations(rule)
      .map((destination) => seen.get(`${destination} on ${port}/${protocol}`))
      .find((wide) => wide !== undefined && (wide.list === 'allow' || wide.list === list)),
  );
  for (const [index, wide] of covers.entries()) {
    if (wide === undefined) continue;
    const { port = 0, protocol = 'tcp' } = rule.ports[index] ?? {};
    const shown = `${destinationOf(rule)} on ${port}/${protocol}`;
    const where = `${destinationOf(wide.rule)} under ${placeOf(wide, lineOf)}`;
    if (wide.list !== list) {
      const message = `must not ask about ${shown}, which is already allowed by ${where}`;
      return { error: { path: textPath, message, hint: 'delete one of the two, or allow less' } };
    }
    if (treatmentOf(rule, index) !== treatmentOf(wide.rule, portIndex(wide.rule, port, protocol))) {
      const message = `must say the same about ${shown} (check, inspect, requests) as ${where}, which covers it`;
      return { error: { path: textPath, message, hint: 'name each host instead of the wider line' } };
    }
  }
  const [first] = covers;
  if (first === undefined || covers.includes(undefined)) return null;
  const message = `opens nothing more than ${destinationOf(first.rule)} under ${placeOf(first, lineOf)}`;
  return { warning: { path: textPath, message, hint: 'delete one of the two lines' } };
}

function widerDestinations(rule: EgressRule): readonly string[] {
  if (rule.kind === 'name') {
    const labels = rule.name.split('.');
    return labels.slice(1).map((_, index) => `*.${labels.slice(index + 1).join('.')}`);
  }
  const network = parseIpv4(rule.network) ?? 0;
  return Array.from(
    { length: rule.prefixLength },
    (_, length) => `${formatIpv4(networkOf(network, length))}/${length}`,
  );
}

function portIndex(rule: EgressRule, port: number, protocol: string): number {
  return rule.ports.findIndex((grant) => grant.port === port && grant.protocol === protocol);
}

function treatmentOf(rule: EgressRule, index: number): string {
  if (rule.kind === 'address') return '';
  const check = rule.ports[index]?.check ?? null;
  if (check === null || !rule.inspect) return String(check);
  return [check, 'inspect', ...rule.requests.map(({ text }) => text).toSorted()].join('\n');
}

function repeatedRequests(raw: unknown, { path }: Written, lineOf: LineOf): readonly Finding[] {
  const first = new Map<unknown, Path>();
  return entriesAt(raw, [...path, 'requests']).flatMap((text, index) => {
    const place: Path = [...path, 'requests', index];
    const earlier = first.get(text);
    if (earlier === undefined) {
      first.set(text, place);
      return [];
    }
    const message = `must not be there twice: the first is in line ${lineOf(earlier)}`;
    return [{ path: place, message, hint: 'delete one of the two' }];
  });
}

function coveredRequests({ rule, path }: Written, lineOf: LineOf): readonly Finding[] {
  const requests = requestsOf(rule);
  return requests.flatMap((narrow, index) => {
    const wide = requests.findIndex((each) => each.text !== narrow.text && requestCovers(each, narrow));
    if (wide === -1) return [];
    const line = lineOf([...path, 'requests', wide]);
    const message = `lets nothing more pass than ${requests[wide]?.text ?? ''} in line ${line}`;
    return [{ path: [...path, 'requests', index], message, hint: 'delete it' }];
  });
}

function requestsOf(rule: EgressRule): readonly RequestRule[] {
  return rule.kind === 'name' ? rule.requests : [];
}

const WIDE_PREFIX_LENGTH = 16;

function ownWarnings({ rule, path, textPath }: Written): readonly Finding[] {
  if (rule.kind === 'address') {
    if (rule.prefixLength >= WIDE_PREFIX_LENGTH) return [];
    const count = (2 ** (32 - rule.prefixLength)).toLocaleString('en');
    return [{ path: textPath, message: `reaches ${count} addresses`, hint: 'name the hosts, or a narrower network' }];
  }
  const open = rule.ports.filter(({ port, protocol, check }) => {
    return check === null && protocol === 'tcp' && (port === 443 || port === 80);
  });
  if (open.length === 0) return [];
  const ports = open.map(({ port }) => port).join(' and ');
  const message = `opens port ${ports} of every site that shares an address with ${destinationOf(rule)}`;
  return [
    { path: [...path, 'check'], message, hint: 'leave `check` out unless something else than TLS or HTTP is spoken' },
  ];
}

function placeOf({ list, textPath }: Written, lineOf: LineOf): string {
  return `egress.${list} in line ${lineOf(textPath)}`;
}
