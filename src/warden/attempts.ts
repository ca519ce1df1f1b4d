import type { NameResolved } from '../core/ports/warden.ts';
import type { PacketFacts } from '../kernel/packet.ts';

/**
 * Which refused packets belong to one attempt of the agent, so that it is counted once against `budget.denials`:
 *
 * - a TCP opening that is sent again: same ports, same addresses. The kernel sends one up to six times more, each time
 *   after at most 32 s.
 * - one client that tries the addresses of one name after each other, on a port that its rule does not open. Which
 *   addresses belong together says the gate, which resolved the name for this run.
 *
 * Both are bounded, so that nobody can hide behind them: a group has at most seven packets or ten addresses.
 */
export type Attempts = {
  /** True when the packet belongs to an attempt that is counted already. */
  isRepeat(packet: PacketFacts | null, nowMs: number): boolean;
  resolved(resolution: NameResolved): void;
  /** The name of the run's that led to an address, the latest one; null when none did. */
  nameOf(address: string): string | null;
};

const RETRIES_MAX = 6;
const RETRY_GAP_MS_MAX = 40_000;
const FLOWS_MAX = 256;
const NAME_ADDRESSES_MAX = 10;
const NAME_MS_MAX = 3_000;
const NAMES_MAX = 64;
const GROUPS_MAX = 64;

type Flow = { readonly atMs: number; readonly retries: number };
type NameGroup = { readonly beganAtMs: number; readonly addresses: ReadonlySet<string> };

export function createAttempts(): Attempts {
  const flows = new Map<string, Flow>();
  const names = new Map<string, ReadonlySet<string>>();
  const groups = new Map<string, NameGroup>();

  const isRetry = (packet: PacketFacts, nowMs: number): boolean => {
    const key = `${packet.source} ${packet.sourcePort} ${packet.destination} ${packet.destinationPort}`;
    const flow = flows.get(key);
    const retry = flow !== undefined && flow.retries < RETRIES_MAX && nowMs - flow.atMs <= RETRY_GAP_MS_MAX;
    remember(flows, FLOWS_MAX, key, { atMs: nowMs, retries: retry ? flow.retries + 1 : 0 });
    return retry;
  };

  const isSameName = (packet: PacketFacts, nowMs: number): boolean => {
    const { destination, destinationPort, protocol } = packet;
    for (const [name, addresses] of names) {
      if (!addresses.has(destination)) continue;
      const key = `${name} ${destinationPort}/${protocol}`;
      const group = groups.get(key);
      const joins =
        group !== undefined &&
        nowMs - group.beganAtMs <= NAME_MS_MAX &&
        group.addresses.size < NAME_ADDRESSES_MAX &&
        // The same address once more is another attempt.
        !group.addresses.has(destination);
      const next = joins
        ? { ...group, addresses: new Set([...group.addresses, destination]) }
        : { beganAtMs: nowMs, addresses: new Set([destination]) };
      remember(groups, GROUPS_MAX, key, next);
      return joins;
    }
    return false;
  };

  return {
    isRepeat: (packet, nowMs) => {
      if (packet === null || packet.destinationPort === null || packet.sourcePort === null) return false;
      // A datagram that is sent again cannot be told from another one, so each counts.
      return (packet.protocol === 'tcp' && isRetry(packet, nowMs)) || isSameName(packet, nowMs);
    },
    resolved: ({ name, addresses }) => {
      remember(names, NAMES_MAX, name, new Set(addresses.slice(0, NAME_ADDRESSES_MAX)));
    },
    nameOf: (address) => [...names].findLast(([, addresses]) => addresses.has(address))?.[0] ?? null,
  };
}

/** The oldest makes room: what is forgotten is counted once more, never once too little. */
function remember<T>(map: Map<string, T>, entriesMax: number, key: string, value: T): void {
  map.delete(key);
  const oldest = map.size >= entriesMax ? map.keys().next().value : undefined;
  if (oldest !== undefined) map.delete(oldest);
  map.set(key, value);
}

/** Destinations under `ask` that a packet waited for: each is told at most once a second. */
export type AskedTold = {
  /** True when the daemon is to be told of the destination now. */
  admit(destination: string, nowMs: number): boolean;
};

const ASKED_AGAIN_MS = 1_000;
const ASKED_MAX = 64;

export function createAskedTold(): AskedTold {
  const told = new Map<string, number>();
  return {
    admit: (destination, nowMs) => {
      for (const [key, atMs] of told) {
        // In the order of telling: whatever comes after the first that is young is younger.
        if (nowMs - atMs < ASKED_AGAIN_MS) break;
        told.delete(key);
      }
      // The packet is sent again while it waits, so what finds no room is told a moment later.
      if (told.has(destination) || told.size >= ASKED_MAX) return false;
      told.set(destination, nowMs);
      return true;
    },
  };
}
