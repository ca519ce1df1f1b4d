import { readFileSync } from 'node:fs';
import { contains, parseIpv4 } from '../profile/ipv4.ts';
import type { Ipv4Network } from '../profile/ipv4.ts';

/** How old the list may be: an address that the host has just taken is no name's destination for longer than this. */
const FRESH_MS = 1_000;

/**
 * Is this an address of the host itself? No name may lead there: the packet rules keep runs away from it, but the
 * checker is a process of the host, to which every service of the host listens.
 */
export function createHostAddresses(parts: {
  readonly now: () => number;
  /** The routing tables of this network namespace, as /proc/self/net/fib_trie shows them. */
  readonly read?: () => string;
}): (address: string) => boolean {
  const read = parts.read ?? ((): string => readFileSync('/proc/self/net/fib_trie', 'utf8'));
  let networks: readonly Ipv4Network[] = [];
  let readAtMs = Number.NEGATIVE_INFINITY;
  return (address) => {
    if (parts.now() - readAtMs >= FRESH_MS) {
      networks = parseLocal(read());
      readAtMs = parts.now();
    }
    const value = parseIpv4(address);
    return value === null || networks.some((network) => contains(network, value));
  };
}

/**
 * What the kernel delivers to the host itself, whatever device has it and whether that is up: the lines `/32 host
 * LOCAL` below the line of their network.
 */
export function parseLocal(text: string): readonly Ipv4Network[] {
  const found = new Map<string, Ipv4Network>();
  let network: number | null = null;
  let counts = false;
  for (const line of text.split('\n')) {
    const table = /^(\S.*):$/.exec(line)?.[1];
    // Tables with a number are asked only for packets that some rule sends there, as transparent proxies do.
    if (table !== undefined) counts = table === 'Local' || table === 'Main';
    if (!counts) continue;
    const leaf = /\|-- (\S+)$/.exec(line);
    if (leaf !== null) network = parseIpv4(leaf[1] ?? '');
    const prefix = /^ *\/(\d+) \S+ LOCAL/.exec(line)?.[1];
    if (prefix !== undefined && network !== null) {
      found.set(`${network}/${prefix}`, { network, prefixLength: Number(prefix) });
    }
  }
  return [...found.values()];
}
