import { ACTIONS, BUDGETS } from '../core/outcome.ts';
import { printable } from '../core/text.ts';
import { formatBytes, formatDuration } from '../core/units.ts';
import type { DenialBudget, EgressRule, GpuGrant, MountGrant, Spec, SpecChange } from './spec.ts';

/**
 * What changes from one profile to another, in the order of a profile, in words and values that people write. What only
 * reads differently (`2GiB` and `2048MiB`, a comment, the order of rules) is no change.
 */
export function diffSpecs({ from, to }: { readonly from: Spec; readonly to: Spec }): readonly SpecChange[] {
  return [
    ...plain('name', from.name, to.name),
    ...plain('description', from.description, to.description),
    ...plain('owner', from.owner, to.owner),
    ...plain('image', from.image, to.image),
    ...plain('command', commandOf(from), commandOf(to)),
    ...plain('user', `${from.user.uid}:${from.user.gid}`, `${to.user.uid}:${to.user.gid}`),
    ...environment(from.env, to.env),
    ...entries('secrets', from.secrets.map(showSecret), to.secrets.map(showSecret)),
    ...entries('mounts', from.mounts.map(showMount), to.mounts.map(showMount)),
    ...limits(from.limits, to.limits),
    ...budgets(from.budget, to.budget),
    ...rules('egress.allow', from.egress.allow, to.egress.allow),
    ...rules('egress.ask', from.egress.ask, to.egress.ask),
    ...BUDGETS.flatMap((budget) => ranked(`on.budget.${budget}`, ACTIONS, from.on[budget], to.on[budget])),
    ...amount('on.grace', from.graceMs, to.graceMs, formatDuration),
    ...ranked('on.quarantine', ['false', 'true'], String(from.quarantine), String(to.quarantine)),
    ...whenLost('on.supervisor.lost', from.supervisorLost, to.supervisorLost),
    ...whenLost('on.telemetry.lost', from.telemetryLost, to.telemetryLost),
    ...plain('warnAt', from.warnAt.map(showShare).join(', '), to.warnAt.map(showShare).join(', ')),
    ...plain('alerts', from.alerts.join(', '), to.alerts.join(', ')),
    ...entries('accept', from.accept, to.accept),
  ];
}

/** `budget.cpu: 20m → 30m (wider)`. */
export function describeChange(found: SpecChange): string {
  return `${found.path}: ${describeValues(found)}${found.effect === 'other' ? '' : ` (${found.effect})`}`;
}

/** `20m → 30m`. */
export function describeValues({ before, after }: SpecChange): string {
  if (before === null) return `added ${after ?? ''}`;
  return after === null ? `removed ${before}` : `${before} → ${after}`;
}

type Effect = SpecChange['effect'];

function change(path: string, before: string | null, after: string | null, effect: Effect): SpecChange {
  return { path, before: shown(before), after: shown(after), effect };
}

const VALUE_CHARS_MAX = 200;

function shown(value: string | null): string | null {
  return value === null ? null : printable(value, VALUE_CHARS_MAX);
}

function plain(path: string, before: string, after: string): readonly SpecChange[] {
  return before === after ? [] : [change(path, quoted(before), quoted(after), 'other')];
}

function quoted(value: string): string {
  return value === '' ? '(empty)' : value;
}

function commandOf(spec: Spec): string {
  return spec.commandFromCaller ? 'any' : JSON.stringify(spec.command);
}

/** Values are not repeated: somebody will have put a secret there. */
function environment(before: Spec['env'], after: Spec['env']): readonly SpecChange[] {
  const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return keys.flatMap((key) => {
    const path = `env.${key}`;
    if (before[key] === after[key]) return [];
    if (before[key] === undefined) return [change(path, null, 'a value', 'other')];
    if (after[key] === undefined) return [change(path, 'a value', null, 'other')];
    return [change(path, 'a value', 'another value', 'other')];
  });
}

/** Each entry by itself: what comes is more for the agent, what goes is less. */
function entries(path: string, before: readonly string[], after: readonly string[]): readonly SpecChange[] {
  return [
    ...before.filter((each) => !after.includes(each)).map((each) => change(path, each, null, 'tighter')),
    ...after.filter((each) => !before.includes(each)).map((each) => change(path, null, each, 'wider')),
  ];
}

function showSecret({ env, file }: Spec['secrets'][number]): string {
  return `${env} from ${file}`;
}

function showMount({ hostPath, path, mode, sizeBytesMax }: MountGrant): string {
  return `${hostPath} at ${path} (${mode}${sizeBytesMax === null ? '' : `, ${formatBytes(sizeBytesMax)}`})`;
}

function limits(before: Spec['limits'], after: Spec['limits']): readonly SpecChange[] {
  return [
    ...amount('limits.cpu', before.cpuMillis, after.cpuMillis, (millis) => `${millis / 1000} cores`),
    ...amount('limits.memory', before.memoryBytesMax, after.memoryBytesMax, formatBytes),
    ...ranked('limits.onOom', ['process', 'agent'], before.onOom, after.onOom),
    ...amount('limits.pids', before.pidsMax, after.pidsMax, String),
    ...amount('limits.disk', before.diskBytesMax, after.diskBytesMax, formatBytes),
    ...amount('limits.files', before.filesMax, after.filesMax, String),
    ...amount('limits.bandwidth', before.bandwidthBitsPerSecond, after.bandwidthBitsPerSecond, showBitRate),
    ...amount('limits.io', before.ioBytesPerSecond, after.ioBytesPerSecond, (bytes) => `${formatBytes(bytes)}/s`),
    ...plain('limits.gpu', showGpu(before.gpu), showGpu(after.gpu)),
  ];
}

function budgets(before: Spec['budget'], after: Spec['budget']): readonly SpecChange[] {
  return [
    ...amount('budget.wall', before.wallMs, after.wallMs, formatDuration),
    ...amount('budget.cpu', before.cpuMs, after.cpuMs, formatDuration),
    ...amount('budget.gpu', before.gpuMs, after.gpuMs, formatDuration),
    ...amount('budget.egress', before.egressBytes, after.egressBytes, formatBytes),
    ...amount('budget.ingress', before.ingressBytes, after.ingressBytes, formatBytes),
    ...amount('budget.connections', before.connections, after.connections, String),
    ...denials(before.denials, after.denials),
  ];
}

/** A higher bound is wider, and none at all is the widest. */
function amount(
  path: string,
  before: number | null,
  after: number | null,
  show: (value: number) => string,
): readonly SpecChange[] {
  if (before === after) return [];
  const effect = (after ?? Number.POSITIVE_INFINITY) > (before ?? Number.POSITIVE_INFINITY) ? 'wider' : 'tighter';
  return [change(path, before === null ? 'none' : show(before), after === null ? 'none' : show(after), effect)];
}

function denials(before: DenialBudget | null, after: DenialBudget | null): readonly SpecChange[] {
  const show = (budget: DenialBudget): string =>
    budget.windowMs === null ? String(budget.count) : `${budget.count} in ${formatDuration(budget.windowMs)}`;
  if (before === null || after === null || before.windowMs === after.windowMs) {
    const windowed = (count: number): string => show({ count, windowMs: (before ?? after)?.windowMs ?? null });
    return amount('budget.denials', before?.count ?? null, after?.count ?? null, windowed);
  }
  // More in a longer time can be either.
  return [change('budget.denials', show(before), show(after), 'other')];
}

/** `mildestFirst`: going towards the end of the list binds the agent harder. */
function ranked(path: string, mildestFirst: readonly string[], before: string, after: string): readonly SpecChange[] {
  if (before === after) return [];
  const tighter = mildestFirst.indexOf(after) > mildestFirst.indexOf(before);
  return [change(path, before, after, tighter ? 'tighter' : 'wider')];
}

function whenLost(path: string, before: Spec['supervisorLost'], after: Spec['supervisorLost']): readonly SpecChange[] {
  const show = ({ action, forMs }: Spec['supervisorLost']): string =>
    action === 'keep' ? 'keep' : `kill after ${formatDuration(forMs)}`;
  if (show(before) === show(after)) return [];
  const limit = ({ action, forMs }: Spec['supervisorLost']): number =>
    action === 'keep' ? Number.POSITIVE_INFINITY : forMs;
  const effect = limit(after) > limit(before) ? 'wider' : 'tighter';
  return [change(path, show(before), show(after), effect)];
}

/** Rules are compared by what they grant; the line that a person wrote is what is shown. */
function rules(path: string, before: readonly EgressRule[], after: readonly EgressRule[]): readonly SpecChange[] {
  const had = new Map(before.map((rule) => [grantKey(rule), rule]));
  const has = new Map(after.map((rule) => [grantKey(rule), rule]));
  return [
    ...[...had].filter(([key]) => !has.has(key)).map(([, rule]) => change(path, showRule(rule), null, 'tighter')),
    ...[...has].filter(([key]) => !had.has(key)).map(([, rule]) => change(path, null, showRule(rule), 'wider')),
  ];
}

function grantKey(rule: EgressRule): string {
  const { text: _text, ports, ...grant } = rule;
  const sorted = ports.map((port) => JSON.stringify(port)).toSorted();
  if (grant.kind === 'address') return JSON.stringify([grant, sorted]);
  const requests = grant.requests.map(({ text }) => text).toSorted();
  return JSON.stringify([{ ...grant, requests }, sorted]);
}

function showRule(rule: EgressRule): string {
  if (rule.kind === 'address' || !rule.inspect) return rule.text;
  const requests = rule.requests.map(({ text }) => text).join(', ');
  return `${rule.text} (inspected${requests === '' ? '' : `: ${requests}`})`;
}

function showShare(fraction: number): string {
  return `${Number((fraction * 100).toFixed(2))}%`;
}

function showBitRate(bits: number): string {
  return `${bits / 1e6} Mbit/s`;
}

function showGpu(gpu: GpuGrant | null): string {
  return gpu === null ? 'none' : JSON.stringify(gpu);
}
