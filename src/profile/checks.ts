import type { Path } from './document.ts';
import { destinationOf, parseRule, RULES_MAX } from './rules.ts';
import type { EgressRule } from './spec.ts';

/**
 * What no field can see by itself: duplicates and contradictions. It reads the file as written, so that these problems
 * are told together with those of single fields; what has the wrong shape is skipped, as the schema has refused it.
 */
export type Finding = { readonly path: Path; readonly message: string; readonly hint: string | null };

export function findContradictions(raw: unknown, lineOf: (path: Path) => number): readonly Finding[] {
  return [
    ...egressFindings(raw, lineOf),
    ...repeated(raw, { list: ['mounts'], key: 'path' }, lineOf),
    ...repeated(raw, { list: ['secrets'], key: 'env' }, lineOf),
    ...repeated(raw, { list: ['warnAt'], key: null }, lineOf),
    ...repeated(raw, { list: ['alerts'], key: null }, lineOf),
    ...repeated(raw, { list: ['accept'], key: null }, lineOf),
    ...secretFindings(raw),
    ...gpuFindings(raw),
  ];
}

function egressFindings(raw: unknown, lineOf: (path: Path) => number): readonly Finding[] {
  const findings: Finding[] = [];
  const firstByGrant = new Map<string, Path>();
  for (const list of ['allow', 'ask'] as const) {
    entriesAt(raw, ['egress', list])
      .slice(0, RULES_MAX)
      .forEach((entry, index) => {
        const short = typeof entry === 'string';
        const text = short ? entry : at(entry, ['to']);
        if (typeof text !== 'string') return;
        const parsed = parseRule(text, { list, inspect: false });
        if (!parsed.ok) return;
        const path: Path = short ? ['egress', list, index] : ['egress', list, index, 'to'];
        if (!short && at(entry, ['inspect']) === true && parsed.rule.kind === 'address') {
          const message = 'must be a name to be inspected';
          findings.push({ path, message, hint: 'take `inspect` out, or write the name' });
        }
        findings.push(...repeatedGrants({ rule: parsed.rule, path, firstByGrant }, lineOf));
      });
  }
  return findings;
}

type Written = { readonly rule: EgressRule; readonly path: Path; readonly firstByGrant: Map<string, Path> };

// A wildcard and a name that it covers may stand together; the same port of the same destination may not.
function repeatedGrants({ rule, path, firstByGrant }: Written, lineOf: (path: Path) => number): readonly Finding[] {
  const destination = destinationOf(rule);
  for (const { port, protocol } of rule.ports) {
    const grant = `${destination} on ${port}/${protocol}`;
    const first = firstByGrant.get(grant);
    if (first !== undefined) {
      const where = `egress.${String(first[1])} in line ${lineOf(first)}`;
      const message = `must not repeat ${grant}, which is already under ${where}`;
      return [{ path, message, hint: 'delete one of the two lines' }];
    }
    firstByGrant.set(grant, path);
  }
  return [];
}

function secretFindings(raw: unknown): readonly Finding[] {
  const env = at(raw, ['env']);
  if (!isRecord(env)) return [];
  return entriesAt(raw, ['secrets']).flatMap((secret, index) => {
    const name = at(secret, ['env']);
    if (typeof name !== 'string' || !Object.hasOwn(env, name)) return [];
    const message = 'must not be a variable that is also under env';
    return [{ path: ['secrets', index, 'env'], message, hint: 'keep the one under secrets' }];
  });
}

function gpuFindings(raw: unknown): readonly Finding[] {
  const gpu = at(raw, ['limits', 'gpu']);
  if (!isRecord(gpu)) {
    if (at(raw, ['budget', 'gpu']) === undefined || gpu !== undefined) return [];
    const message = 'has nothing to count: the profile grants no GPU';
    return [{ path: ['budget', 'gpu'], message, hint: 'grant one with limits.gpu, or leave this out' }];
  }
  const ways = ['count', 'devices', 'mig'].filter((way) => Object.hasOwn(gpu, way));
  if (ways.length === 1) return [];
  const message = `must say exactly one of count, devices and mig, got ${ways.join(' and ') || 'none'}`;
  return [{ path: ['limits', 'gpu'], message, hint: 'for example { count: 1 }' }];
}

type ListKey = { readonly list: Path; readonly key: string | null };

function repeated(raw: unknown, { list, key }: ListKey, lineOf: (path: Path) => number): readonly Finding[] {
  const first = new Map<string, Path>();
  return entriesAt(raw, list).flatMap((entry, index) => {
    const value = key === null ? entry : at(entry, [key]);
    if (typeof value !== 'string') return [];
    const path: Path = key === null ? [...list, index] : [...list, index, key];
    const earlier = first.get(value);
    if (earlier === undefined) {
      first.set(value, path);
      return [];
    }
    const message = `must not be there twice: the first is in line ${lineOf(earlier)}`;
    return [{ path, message, hint: 'delete one of the two' }];
  });
}

/** The value at a path of a file as written, or undefined. */
export function at(raw: unknown, path: Path): unknown {
  let value = raw;
  for (const key of path) {
    if (Array.isArray(value)) value = (value as readonly unknown[])[Number(key)];
    else if (isRecord(value) && Object.hasOwn(value, key)) value = value[key];
    else return undefined;
  }
  return value;
}

function entriesAt(raw: unknown, path: Path): readonly unknown[] {
  const value = at(raw, path);
  return Array.isArray(value) ? value : [];
}

function isRecord(value: unknown): value is Readonly<Record<string | number, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
