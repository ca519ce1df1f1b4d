import type { Path } from './document.ts';
import { judgeEgress } from './egress-checks.ts';
import { at, entriesAt, isRecord, type Finding } from './written.ts';

/**
 * What no field can see by itself: duplicates and contradictions. It reads the file as written, so that these problems
 * are told together with those of single fields; what has the wrong shape is skipped, as the schema has refused it.
 */
export type Findings = {
  /** The profile is refused. */
  readonly errors: readonly Finding[];
  /** It may run, and says something that its writer may not have meant. */
  readonly warnings: readonly Finding[];
};

export function findContradictions(raw: unknown, lineOf: (path: Path) => number): Findings {
  const egress = judgeEgress(raw, lineOf);
  return { errors: [...egress.errors, ...otherErrors(raw, lineOf)], warnings: egress.warnings };
}

function otherErrors(raw: unknown, lineOf: (path: Path) => number): readonly Finding[] {
  return [
    ...repeated(raw, { list: ['mounts'], key: 'path' }, lineOf),
    ...repeated(raw, { list: ['secrets'], key: 'env' }, lineOf),
    ...repeated(raw, { list: ['warnAt'], key: null }, lineOf),
    ...repeated(raw, { list: ['alerts'], key: null }, lineOf),
    ...repeated(raw, { list: ['accept'], key: null }, lineOf),
    ...secretFindings(raw),
    ...mountFindings(raw),
    ...gpuFindings(raw),
  ];
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

/** A size bounds what is written. */
function mountFindings(raw: unknown): readonly Finding[] {
  return entriesAt(raw, ['mounts']).flatMap((mount, index) => {
    if (at(mount, ['size']) === undefined || at(mount, ['mode']) === 'rw') return [];
    const message = 'bounds nothing: the agent cannot write to this mount';
    return [{ path: ['mounts', index, 'size'], message, hint: 'add mode: rw, or leave the size out' }];
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
  if (ways.length === 1) return vendorFindings(gpu);
  const message = `must say exactly one of count, devices and mig, got ${ways.join(' and ') || 'none'}`;
  return [{ path: ['limits', 'gpu'], message, hint: 'for example { count: 1 }' }];
}

/** An id and a slice have a vendor by themselves. */
function vendorFindings(gpu: Readonly<Record<string, unknown>>): readonly Finding[] {
  if (!Object.hasOwn(gpu, 'vendor') || Object.hasOwn(gpu, 'count')) return [];
  const message = 'goes with count only';
  return [{ path: ['limits', 'gpu', 'vendor'], message, hint: 'leave it out: devices and mig say it by themselves' }];
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
