import { assert } from '../core/assert.ts';
import { BUDGETS, type Action, type BudgetName } from '../core/outcome.ts';
import type { Problem } from '../core/errors.ts';
import { parseBitRate, parseByteRate, parseDuration, parseSize, type ParsedQuantity } from '../core/units.ts';
import { MOUNT_HINT } from './fields.ts';
import { hostPathRefusal, resolvePath } from './mounts.ts';
import type { ParsedProfile } from './parse.ts';
import { problemAtPath } from './problems.ts';
import { parseRule } from './rules.ts';
import type { Profile } from './schema.ts';
import type { DenialBudget, EgressRule, GpuGrant, Spec, SpecBudget, SpecLimits } from './spec.ts';
import { parseDenials, parseShare, parseUser } from './values.ts';

export type ResolveInput = {
  readonly parsed: ParsedProfile;
  /** `sha256:` and 64 hex digits over the bytes of the file. */
  readonly digest: string;
  /** The absolute folder of the profile: what its host paths resolve against. */
  readonly folder: string;
};

export type ResolveResult =
  | { readonly ok: true; readonly spec: Spec }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/**
 * Every value explicit and in base units. Fails only where a relative host path leads to a forbidden folder. With
 * `command: any` the command of the Spec is empty until the caller's is put in its place.
 */
export function resolveProfile({ parsed, digest, folder }: ResolveInput): ResolveResult {
  assert(folder.startsWith('/'), 'the folder of a profile is absolute');
  assert(/^sha256:[0-9a-f]{64}$/.test(digest), 'the digest of a profile is sha256');
  const { profile } = parsed;
  const mounts = profile.mounts.map((mount) => ({
    hostPath: resolvePath({ folder, path: mount.host }),
    path: mount.path,
    mode: mount.mode,
    sizeBytesMax: optional(mount.size, parseSize),
  }));
  const problems = mounts.flatMap(({ hostPath }, index) => {
    const rule = hostPathRefusal(hostPath);
    if (rule === null) return [];
    const message = `${rule}, got ${hostPath}`;
    return [problemAtPath(['mounts', index, 'host'], { message, hint: MOUNT_HINT }, parsed.document)];
  });
  if (problems.length > 0) return { ok: false, problems };
  const spec: Spec = {
    name: profile.name,
    description: profile.description,
    owner: profile.owner,
    profileDigest: digest,
    image: profile.image,
    command: profile.command === 'any' ? [] : profile.command,
    commandFromCaller: profile.command === 'any',
    user: parseUser(profile.user),
    env: profile.env,
    secrets: profile.secrets.map(({ env, file }) => ({ env, file: resolvePath({ folder, path: file }) })),
    mounts,
    limits: resolveLimits(profile.limits),
    budget: resolveBudget(profile.budget),
    egress: { allow: resolveRules(profile, 'allow'), ask: resolveRules(profile, 'ask') },
    on: resolveActions(profile.on),
    graceMs: known(parseDuration(profile.on.grace)),
    quarantine: profile.on.quarantine,
    supervisorLost: resolveLost(profile.on['supervisor.lost'], SUPERVISOR_LOST_MS),
    telemetryLost: resolveLost(profile.on['telemetry.lost'], TELEMETRY_LOST_MS),
    warnAt: profile.warnAt.map(parseShare).toSorted((left, right) => left - right),
    alerts: profile.alerts,
    accept: profile.accept,
  };
  return { ok: true, spec };
}

function resolveLimits(limits: Profile['limits']): SpecLimits {
  return {
    cpuMillis: Math.round(limits.cpu * 1000),
    memoryBytesMax: known(parseSize(limits.memory)),
    onOom: limits.onOom,
    pidsMax: limits.pids,
    diskBytesMax: known(parseSize(limits.disk)),
    filesMax: limits.files,
    bandwidthBitsPerSecond: optional(limits.bandwidth, parseBitRate),
    ioBytesPerSecond: optional(limits.io, parseByteRate),
    gpu: limits.gpu === undefined ? null : resolveGpu(limits.gpu),
  };
}

function resolveGpu(gpu: NonNullable<Profile['limits']['gpu']>): GpuGrant {
  return {
    count: gpu.count ?? null,
    vendor: gpu.vendor ?? null,
    devices: gpu.devices ?? [],
    mig: gpu.mig ?? null,
    memoryBytesMax: optional(gpu.memory, parseSize),
    share: gpu.share,
  };
}

function resolveBudget(budget: Profile['budget']): SpecBudget {
  return {
    wallMs: known(parseDuration(budget.wall)),
    cpuMs: optional(budget.cpu, parseDuration),
    gpuMs: optional(budget.gpu, parseDuration),
    egressBytes: optional(budget.egress, parseSize),
    ingressBytes: optional(budget.ingress, parseSize),
    connections: budget.connections ?? null,
    denials: budget.denials === undefined ? null : resolveDenials(String(budget.denials)),
  };
}

function resolveDenials(text: string): DenialBudget {
  const parsed = parseDenials(text);
  assert(parsed.ok, 'the schema has checked the denials');
  return parsed.value;
}

function resolveRules(profile: Profile, list: 'allow' | 'ask'): readonly EgressRule[] {
  return profile.egress[list].map((entry) => {
    const { to, ...treatment } = typeof entry === 'string' ? { to: entry, inspect: false } : entry;
    const parsed = parseRule(to, { list, ...treatment });
    assert(parsed.ok, 'the schema has checked the rule');
    return parsed.rule;
  });
}

function resolveActions(on: Profile['on']): Readonly<Record<BudgetName, Action>> {
  const actions = BUDGETS.map((budget) => [budget, on[`budget.${budget}`]] as const);
  return Object.fromEntries(actions) as Record<BudgetName, Action>;
}

const SUPERVISOR_LOST_MS = 60_000;
const TELEMETRY_LOST_MS = 10_000;

function resolveLost(lost: Profile['on']['supervisor.lost'], forMs: number): Spec['supervisorLost'] {
  if (typeof lost === 'string') return { action: lost, forMs };
  return { action: lost.action, forMs: known(parseDuration(lost.for)) };
}

function optional(text: string | undefined, parse: (text: string) => ParsedQuantity): number | null {
  return text === undefined ? null : known(parse(text));
}

function known(parsed: ParsedQuantity): number {
  assert(parsed.ok, 'the schema has checked the quantity');
  return parsed.value;
}
