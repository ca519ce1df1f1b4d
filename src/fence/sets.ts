import { assertNever } from '../core/assert.ts';
import { FENCE_BUDGET_BASE, FENCE_SETS } from '../core/fence-names.ts';
import { fail } from '../core/errors.ts';
import type { FenceCounters, FenceGrant, FenceLease } from '../core/ports/fence.ts';
import type { Ipset, IpsetEntry } from '../kernel/ipset.ts';
import type { NeverRange } from '../policy/egress.ts';
import { runTool, tryTool } from './command.ts';
import { setDeclarations } from './rules.ts';

/** What the sets hold for each run: made in one batch before the container exists, taken away in one go after it. */
const COUNTER_SETS = [FENCE_SETS.egress, FENCE_SETS.ingress, FENCE_SETS.denied] as const;
const NEVER_NEXT = `${FENCE_SETS.never}-next`;

/** Makes the sets where they are missing; entries of runs stay. The never-ranges are swapped, so they are never empty. */
export async function makeSets(neverRanges: readonly NeverRange[]): Promise<void> {
  const lines = [
    ...setDeclarations(),
    `create ${NEVER_NEXT} hash:net family inet maxelem 1024`,
    `flush ${NEVER_NEXT}`,
    ...neverRanges.map(({ cidr }) => `add ${NEVER_NEXT} ${cidr}`),
    `swap ${NEVER_NEXT} ${FENCE_SETS.never}`,
    `destroy ${NEVER_NEXT}`,
  ];
  await restore(lines);
}

export async function destroySets(): Promise<void> {
  // One by one: a set in use would otherwise keep all of them.
  for (const set of Object.values(FENCE_SETS)) {
    const result = await tryTool('ipset', ['destroy', set]);
    if (result.exitCode !== 0 && !result.stderr.includes('does not exist')) {
      throw fail('FENCE_FAILED', { detail: `the set ${set} cannot be removed: ${result.stderr.trim()}` });
    }
  }
}

/** Which of our sets are missing or of another kind. */
export async function checkSets(): Promise<string[]> {
  const text = await runTool('ipset', ['list', '-terse']);
  const kinds = new Map<string, string>();
  for (const block of text.split('\n\n')) {
    const name = /^Name: (.*)$/m.exec(block)?.[1];
    const kind = /^Type: (.*)$/m.exec(block)?.[1];
    if (name !== undefined && kind !== undefined) kinds.set(name, kind);
  }
  const findings: string[] = [];
  for (const declaration of setDeclarations()) {
    const [, name = '', kind = ''] = declaration.split(' ');
    const found = kinds.get(name);
    if (found === undefined) findings.push(`ipset: the set ${name} is gone`);
    else if (found !== kind) findings.push(`ipset: the set ${name} is of the kind ${found}, not ${kind}`);
  }
  return findings;
}

/** Opens what a grant says, the bridge last: until then the run is silent. Counters that exist go on counting. */
export async function openGrant(grant: FenceGrant, ipset: Ipset): Promise<void> {
  const { address } = grant.lease;
  const lines: string[] = [];
  for (const set of COUNTER_SETS) if (!ipset.counters(set).has(address)) lines.push(`add ${set} ${address}`);
  // A run that is armed again after a restart of the daemon must not get its budget a second time.
  if (grant.egressBytesMax !== null && !ipset.counters(FENCE_SETS.budget).has(address)) {
    const start = FENCE_BUDGET_BASE - BigInt(grant.egressBytesMax);
    lines.push(`add ${FENCE_SETS.budget} ${address} packets 0 bytes ${start}`);
  }
  for (const entry of writtenEntries(grant)) {
    if (entry.kind !== 'ip,port,net') continue;
    const where = `${entry.source},${entry.protocol}:${entry.port},${entry.network}/${entry.prefixLength}`;
    lines.push(`add ${FENCE_SETS.written} ${where}`);
  }
  lines.push(`add ${FENCE_SETS.bridge} ${grant.lease.subnet},${grant.lease.bridge}`);
  await restore(lines);
  readBack(grant, ipset);
}

function readBack(grant: FenceGrant, ipset: Ipset): void {
  const { address } = grant.lease;
  const missing: string[] = [];
  for (const entry of writtenEntries(grant)) {
    if (!ipset.test(FENCE_SETS.written, entry)) missing.push(FENCE_SETS.written);
  }
  for (const set of COUNTER_SETS) if (!ipset.counters(set).has(address)) missing.push(set);
  if ((grant.egressBytesMax !== null) !== ipset.counters(FENCE_SETS.budget).has(address))
    missing.push(FENCE_SETS.budget);
  if (!ipset.test(FENCE_SETS.bridge, bridgeEntry(grant.lease))) missing.push(FENCE_SETS.bridge);
  if (missing.length === 0) return;
  throw fail('FENCE_FAILED', {
    detail: `the grant read back from ${missing[0] ?? ''} is not the grant given`,
    address,
    missing,
  });
}

export function writtenEntries(grant: FenceGrant): IpsetEntry[] {
  return grant.addresses.flatMap(({ network, prefixLength, ports }) =>
    ports.map(({ port, protocol }): IpsetEntry => ({
      kind: 'ip,port,net',
      source: grant.lease.address,
      port,
      protocol,
      network,
      prefixLength,
    })),
  );
}

function bridgeEntry(lease: FenceLease): IpsetEntry {
  const network = lease.subnet.replace(/\/.*$/, '');
  return { kind: 'net,iface', network, prefixLength: 30, device: lease.bridge };
}

/** Step one of every end: from here on no packet of the run passes. */
export function silence(lease: FenceLease, ipset: Ipset): void {
  ipset.remove(FENCE_SETS.bridge, bridgeEntry(lease));
}

/**
 * Everything that any set holds for one address, so that the next run on it inherits nothing. `written` are all the
 * entries that were ever made for the run, when that is known: with hundreds of runs, reading the whole set to find
 * them takes longer than everything else.
 */
export function purgeAddress(address: string, ipset: Ipset, written: readonly IpsetEntry[] | null): void {
  for (const entry of written ?? []) ipset.remove(FENCE_SETS.written, entry);
  for (const set of Object.values(FENCE_SETS)) {
    if (set === FENCE_SETS.never || (set === FENCE_SETS.written && written !== null)) continue;
    for (const { entry } of ipset.list(set)) if (sourceOf(entry) === address) ipset.remove(set, entry);
  }
}

/** Addresses of runs that any set still speaks of, and the bridges with their networks. */
export function knownEntries(ipset: Ipset): {
  readonly addresses: ReadonlySet<string>;
  readonly bridges: readonly { readonly device: string; readonly network: string; readonly prefixLength: number }[];
} {
  const addresses = new Set<string>();
  const bridges: { device: string; network: string; prefixLength: number }[] = [];
  for (const set of Object.values(FENCE_SETS)) {
    if (set === FENCE_SETS.never) continue;
    for (const { entry } of ipset.list(set)) {
      const source = sourceOf(entry);
      if (source !== null) addresses.add(source);
      else if (entry.kind === 'net,iface') bridges.push(entry);
    }
  }
  return { addresses, bridges };
}

function sourceOf(entry: IpsetEntry): string | null {
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

async function restore(lines: readonly string[]): Promise<void> {
  await runTool('ipset', ['-exist', 'restore'], `${lines.join('\n')}\n`);
}
