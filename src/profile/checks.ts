import type { Path } from './document.ts';
import { destinationKey, parseRule, RULES_MAX, sharedPort } from './rules.ts';
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

const LINES_COMPARED_MAX = 64;

type Written = { readonly rule: EgressRule; readonly path: Path };

function egressFindings(raw: unknown, lineOf: (path: Path) => number): readonly Finding[] {
  const findings: Finding[] = [];
  const byDestination = new Map<string, Written[]>();
  for (const list of ['allow', 'ask'] as const) {
    entriesAt(raw, ['egress', list])
      .slice(0, RULES_MAX)
      .forEach((entry, index) => {
        const text = typeof entry === 'string' ? entry : at(entry, ['to']);
        if (typeof text !== 'string') return;
        const parsed = parseRule(text, { list, inspect: false });
        if (!parsed.ok) return;
        const path: Path = typeof entry === 'string' ? ['egress', list, index] : ['egress', list, index, 'to'];
        if (typeof entry !== 'string' && at(entry, ['inspect']) === true && parsed.rule.kind === 'address') {
          const message = 'must be a name to be inspected';
          findings.push({ path, message, hint: 'take `inspect` out, or write the name' });
        }
        const same = byDestination.get(destinationKey(parsed.rule)) ?? [];
        for (const earlier of same) {
          const port = sharedPort(earlier.rule, parsed.rule);
          if (port === null) continue;
          const where = `${String(earlier.path[1])} in line ${lineOf(earlier.path)}`;
          const message = `must not repeat ${destinationKey(parsed.rule)} on ${port.port}/${port.protocol}: it is already under ${where}`;
          findings.push({ path, message, hint: 'delete one of the two lines' });
          break;
        }
        // The first few are enough to compare with: a destination has a handful of lines, or a hostile file many.
        if (same.length < LINES_COMPARED_MAX) same.push({ rule: parsed.rule, path });
        byDestination.set(destinationKey(parsed.rule), same);
      });
  }
  return findings;
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
