import { assertNever } from '../core/assert.ts';
import { FENCE_SETS } from '../core/fence-names.ts';
import { fail } from '../core/errors.ts';
import type { FenceCounters, FenceDestination, FenceLease } from '../core/ports/fence.ts';
import { DESTINATIONS_MAX } from '../core/ports/fence.ts';
import type { Ipset, IpsetEntry } from '../kernel/ipset.ts';
import type { NeverRange } from '../policy/egress.ts';
import { runTool, tryTool } from './command.ts';
import { setDeclarations } from './declarations.ts';

/** The sets themselves, and what they hold for whom. What a grant puts into them is in `grant.ts`. */
const NEVER_NEXT = `${FENCE_SETS.never}-next`;

/** Makes the sets where they are missing; entries of runs stay. The never-ranges are swapped, so they are never empty. */
export async function makeSets(neverRanges: readonly NeverRange[]): Promise<void> {
  await refuseForeignSets();
  await restore([
    ...setDeclarations(),
    `create ${NEVER_NEXT} hash:net family inet maxelem 1024`,
    `flush ${NEVER_NEXT}`,
    ...neverRanges.map(({ cidr }) => `add ${NEVER_NEXT} ${cidr}`),
    `swap ${NEVER_NEXT} ${FENCE_SETS.never}`,
    `destroy ${NEVER_NEXT}`,
  ]);
}

async function refuseForeignSets(): Promise<void> {
  const kinds = await setKinds();
  for (const { name, kind } of declared()) {
    const found = kinds.get(name);
    if (found === undefined || found === kind) continue;
    throw fail('FENCE_FAILED', {
      detail: `a set ${name} of the kind ${found} is on this host, and it is not the fence’s (${kind})`,
      hint: `find out what uses it with \`ipset list ${name}\`, then rename or destroy it`,
    });
  }
}

export async function destroySets(): Promise<void> {
  // One by one: a set in use would otherwise keep all of them.
  for (const { name } of declared()) {
    const result = await tryTool('ipset', ['destroy', name]);
    if (result.exitCode !== 0 && !result.stderr.includes('does not exist')) {
      throw fail('FENCE_FAILED', { detail: `the set ${name} cannot be removed: ${result.stderr.trim()}` });
    }
  }
}

/** Which of our sets are missing or of another kind. */
export async function checkSets(): Promise<string[]> {
  const kinds = await setKinds();
  return declared().flatMap(({ name, kind }) => {
    const found = kinds.get(name);
    if (found === undefined) return [`ipset: the set ${name} is gone`];
    return found === kind ? [] : [`ipset: the set ${name} is of the kind ${found}, not ${kind}`];
  });
}

function declared(): { readonly name: string; readonly kind: string }[] {
  return setDeclarations().map((declaration) => {
    const [, name = '', kind = ''] = declaration.split(' ');
    return { name, kind };
  });
}

/** Entries of each of our sets. */
export async function countEntries(): Promise<Readonly<Record<string, number>>> {
  const text = await runTool('ipset', ['list', '-terse']);
  const ours = new Set(declared().map(({ name }) => name));
  const counts: Record<string, number> = {};
  for (const block of text.split('\n\n')) {
    const name = /^Name: (.*)$/m.exec(block)?.[1] ?? '';
    if (ours.has(name)) counts[name] = Number(/^Number of entries: (\d+)$/m.exec(block)?.[1] ?? 0);
  }
  return counts;
}

async function setKinds(): Promise<ReadonlyMap<string, string>> {
  const text = await runTool('ipset', ['list', '-terse']);
  const kinds = new Map<string, string>();
  for (const block of text.split('\n\n')) {
    const name = /^Name: (.*)$/m.exec(block)?.[1];
    const kind = /^Type: (.*)$/m.exec(block)?.[1];
    if (name !== undefined && kind !== undefined) kinds.set(name, kind);
  }
  return kinds;
}

export function bridgeEntry(lease: FenceLease): IpsetEntry {
  const network = lease.subnet.replace(/\/.*$/, '');
  return { kind: 'net,iface', network, prefixLength: 30, device: lease.bridge };
}

/** Step one of every end: from here on no packet of the run passes. */
export function silence(lease: FenceLease, ipset: Ipset): void {
  ipset.remove(FENCE_SETS.bridge, bridgeEntry(lease));
}

/**
 * Everything that any set holds for these addresses, so that the next run on one inherits nothing. Each set is read
 * once, however many addresses there are, and what is found goes in one batch. `written` is everything that the
 * profiles of these runs opened or asked about, when that is known: with hundreds of runs those two sets are long.
 */
export async function purgeAddresses(
  addresses: ReadonlySet<string>,
  ipset: Ipset,
  written: readonly { readonly set: string; readonly entry: IpsetEntry }[] | null,
): Promise<void> {
  if (addresses.size === 0) return;
  const lines = (written ?? []).map(({ set, entry }) => `del ${set} ${entryText(entry)}`);
  for (const address of addresses) for (const set of ADDRESS_SETS) lines.push(`del ${set} ${address}`);
  for (const set of written === null ? [...PROFILE_SETS, ...OPENED_SETS] : OPENED_SETS) {
    for (const { entry } of ipset.list(set)) {
      const source = sourceOf(entry);
      if (source !== null && addresses.has(source)) lines.push(`del ${set} ${entryText(entry)}`);
    }
  }
  await restore(lines);
}

/** Addresses of runs that any set still speaks of, and the bridges with their networks. */
export function knownEntries(ipset: Ipset): {
  readonly addresses: ReadonlySet<string>;
  readonly bridges: readonly { readonly device: string; readonly network: string; readonly prefixLength: number }[];
} {
  const addresses = new Set<string>();
  const bridges: { device: string; network: string; prefixLength: number }[] = [];
  for (const set of RUN_SETS) {
    for (const { entry } of ipset.list(set)) {
      const source = sourceOf(entry);
      if (source !== null) addresses.add(source);
      else if (entry.kind === 'net,iface') bridges.push(entry);
    }
  }
  return { addresses, bridges };
}

const PROFILE_SETS = [FENCE_SETS.written, FENCE_SETS.ask] as const;
/** One entry for each thing that came about while the run lived. */
const OPENED_SETS = [
  FENCE_SETS.learned,
  FENCE_SETS.checked,
  FENCE_SETS.approved,
  FENCE_SETS.refused,
  FENCE_SETS.flows,
] as const;
/** One entry for each run, which is its address. */
const ADDRESS_SETS = [
  FENCE_SETS.waiting,
  FENCE_SETS.budget,
  FENCE_SETS.ingressBudget,
  FENCE_SETS.connectionBudget,
  FENCE_SETS.connections,
  FENCE_SETS.egress,
  FENCE_SETS.ingress,
  FENCE_SETS.denied,
] as const;
const RUN_SETS = [FENCE_SETS.bridge, ...PROFILE_SETS, ...OPENED_SETS, ...ADDRESS_SETS] as const;

export function sourceOf(entry: IpsetEntry): string | null {
  switch (entry.kind) {
    case 'ip':
      return entry.address;
    case 'ip,port,ip':
    case 'ip,port,net':
      return entry.source;
    case 'net,iface':
      return null;
    default:
      return assertNever(entry);
  }
}

/** An entry as `ipset restore` takes it. */
export function entryText(entry: IpsetEntry): string {
  switch (entry.kind) {
    case 'ip':
      return entry.address;
    case 'ip,port,ip':
      return `${entry.source},${entry.protocol}:${entry.port},${entry.destination}`;
    case 'ip,port,net':
      return `${entry.source},${entry.protocol}:${entry.port},${entry.network}/${entry.prefixLength}`;
    case 'net,iface':
      return `${entry.network}/${entry.prefixLength},${entry.device}`;
    default:
      return assertNever(entry);
  }
}

export function readCounters(address: string, ipset: Ipset): FenceCounters {
  const of = (set: string): { readonly bytes: bigint; readonly packets: bigint } =>
    ipset.counters(set).get(address) ?? { bytes: 0n, packets: 0n };
  return {
    egressBytes: Number(of(FENCE_SETS.egress).bytes),
    ingressBytes: Number(of(FENCE_SETS.ingress).bytes),
    connections: Number(of(FENCE_SETS.connections).packets),
    deniedPackets: Number(of(FENCE_SETS.denied).packets),
  };
}

export function readDestinations(address: string, ipset: Ipset): FenceDestination[] {
  const found = ipset.list(FENCE_SETS.flows).flatMap(({ entry, bytes, packets }): FenceDestination[] => {
    if (entry.kind !== 'ip,port,ip' || entry.source !== address) return [];
    const { destination, port, protocol } = entry;
    return [{ address: destination, port, protocol, egressBytes: Number(bytes ?? 0n), packets: Number(packets ?? 0n) }];
  });
  return found.toSorted((one, other) => other.egressBytes - one.egressBytes).slice(0, DESTINATIONS_MAX);
}

export async function restore(lines: readonly string[]): Promise<void> {
  await runTool('ipset', ['-exist', 'restore'], `${lines.join('\n')}\n`);
}
