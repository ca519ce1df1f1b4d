import { FENCE_SETS } from '../core/fence-names.ts';
import { fail } from '../core/errors.ts';
import type { FenceGrant } from '../core/ports/fence.ts';
import type { Ipset } from '../kernel/ipset.ts';
import { runTool, tryTool } from './command.ts';
import { coveredBy } from './grant.ts';
import type { FenceMarks } from './rules/words.ts';

/** Open connections outlive the entry that allowed them; without their record the next packet is judged anew. */
export type Connection = {
  readonly protocol: 'tcp' | 'udp';
  readonly source: string;
  readonly destination: string;
  readonly port: number;
  readonly mark: number;
};

/** Forgets every connection of these addresses. One reading of the table tells which of them have any. */
export async function forgetConnections(addresses: ReadonlySet<string>): Promise<void> {
  if (addresses.size === 0) return;
  const [only] = addresses;
  if (addresses.size === 1 && only !== undefined) {
    for (const side of ['-s', '-d']) await forget([side, only]);
    return;
  }
  const ends = new Set<string>();
  const table = await runTool('conntrack', ['-L', '-f', 'ipv4']);
  for (const match of table.matchAll(/\b(src|dst)=([0-9.]+)/g)) {
    if (addresses.has(match[2] ?? '')) ends.add(match[2] ?? '');
  }
  for (const address of ends) for (const side of ['-s', '-d']) await forget([side, address]);
}

async function forget(filter: readonly string[]): Promise<void> {
  const result = await tryTool('conntrack', ['-D', '-f', 'ipv4', ...filter]);
  const none = result.exitCode === 1 && result.stderr.includes('0 flow entries');
  if (result.exitCode === 0 || none) return;
  throw fail('FENCE_FAILED', {
    detail: `conntrack did not forget the connections of ${filter.join(' ')}: ${result.stderr.trim().split('\n')[0] ?? ''}`,
  });
}

/** Lines of `conntrack -L`; what has no ports was never admitted. The first addresses are those of the first packet. */
export function parseConnections(text: string): Connection[] {
  return text.split('\n').flatMap((line): Connection[] => {
    const match = /^(tcp|udp)\s.*?\bsrc=([0-9.]+) dst=([0-9.]+) sport=[0-9]+ dport=([0-9]+)/.exec(line);
    if (match === null) return [];
    const [, protocol, source = '', destination = '', port] = match;
    const mark = Number(/\bmark=([0-9]+)/.exec(line)?.[1] ?? 0);
    return [{ protocol: protocol === 'tcp' ? 'tcp' : 'udp', source, destination, port: Number(port), mark }];
  });
}

/**
 * Cuts the connections of a run that a new grant does not allow; the others live on. An address learned from a name
 * may be forgotten while a connection to it goes on, so a connection that only a name can have opened is cut when a
 * name, or a port of one, is no longer what it was.
 */
export async function cutConnections(
  change: { readonly before: FenceGrant | null; readonly after: FenceGrant; readonly marks: FenceMarks },
  ipset: Ipset,
): Promise<void> {
  const { before, after, marks } = change;
  const { address } = after.lease;
  const table = await runTool('conntrack', ['-L', '-f', 'ipv4', '-s', address]);
  const toCut = new Set<string>();
  for (const connection of parseConnections(table)) {
    if (connection.source !== address || (connection.mark & (marks.open | marks.check)) === 0) continue;
    if (staysOpen(connection, { before, after }, ipset)) continue;
    const { protocol, destination, port } = connection;
    toCut.add(`${protocol} ${destination} ${port}`);
  }
  for (const each of toCut) {
    const [protocol = '', destination = '', port = ''] = each.split(' ');
    await forget(['-s', address, '-d', destination, '-p', protocol, '--dport', port]);
  }
}

export function staysOpen(
  connection: Connection,
  { before, after }: { readonly before: FenceGrant | null; readonly after: FenceGrant },
  ipset: Pick<Ipset, 'test'>,
): boolean {
  const { protocol, destination, port, source } = connection;
  if (coveredBy(after, connection, 'allow')) return true;
  const entry = { kind: 'ip,port,ip', source, protocol, destination, port } as const;
  if (OPENING_SETS.some((set) => ipset.test(set, entry))) return true;
  if (before === null || coveredBy(before, connection, 'allow')) return false;
  // It was approved, and what was begun within the time of an approval may go on.
  if (coveredBy(before, connection, 'ask')) return coveredBy(after, connection, 'ask');
  const kept = new Set(after.names.map((name) => JSON.stringify(name)));
  return before.names.every((name) => kept.has(JSON.stringify(name)));
}

const OPENING_SETS = [FENCE_SETS.learned, FENCE_SETS.checked, FENCE_SETS.approved];
