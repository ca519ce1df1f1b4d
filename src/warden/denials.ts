import type { Denial } from '../core/outcome.ts';
import { FENCE_PREFIXES } from '../core/fence-names.ts';
import type { FenceDenial } from '../core/ports/fence.ts';
import type { NameResolved } from '../core/ports/warden.ts';
import { printable } from '../core/text.ts';
import { TokenBucket } from '../core/token-bucket.ts';
import type { NflogPacket } from '../kernel/nflog.ts';

/** The prefixes of the fence's logging rules, and what each says about a packet that was refused. */
const PREFIXES: Readonly<Record<string, Pick<Denial, 'kind' | 'rule' | 'explanation'>>> = {
  [FENCE_PREFIXES.deny]: {
    kind: 'packet',
    rule: 'egress',
    explanation: 'no rule of the profile allows this destination',
  },
  [FENCE_PREFIXES.never]: {
    kind: 'packet',
    rule: 'egress.never',
    explanation: 'private, local and metadata addresses are not reached through a name, and other runs not at all',
  },
  [FENCE_PREFIXES.host]: {
    kind: 'packet',
    rule: 'egress.host',
    explanation: 'the host itself is never reached by an agent',
  },
  [FENCE_PREFIXES.spoof]: {
    kind: 'spoof',
    rule: 'egress.spoof',
    explanation: 'the packet carried a source address that is not the one of the run',
  },
  [FENCE_PREFIXES.budget]: {
    kind: 'budget',
    rule: 'budget.egress',
    explanation: 'the bytes that the run may send are used up',
  },
  [FENCE_PREFIXES.ingress]: {
    kind: 'budget',
    rule: 'budget.ingress',
    explanation: 'the bytes that the run may receive are used up',
  },
  [FENCE_PREFIXES.connections]: {
    kind: 'budget',
    rule: 'budget.connections',
    explanation: 'the connections that the run may make are used up',
  },
  [FENCE_PREFIXES.rate]: {
    kind: 'packet',
    rule: 'egress.rate',
    explanation: 'more new connections than any run may make in a second, or hold at a time',
  },
};
const UNKNOWN = { kind: 'packet', rule: 'egress', explanation: 'refused by the fence' } as const;

const RULE_CHARS_MAX = 64;
const DESTINATION_CHARS_MAX = 300;
const EXPLANATION_CHARS_MAX = 300;
const ADDRESSES_MAX = 16;

export function denialOfPacket(packet: NflogPacket, at: string): Denial {
  const about = PREFIXES[packet.prefix] ?? UNKNOWN;
  const { packet: facts } = packet;
  // What came in is for the run itself; of interest is who sent it.
  const inward = packet.prefix === FENCE_PREFIXES.ingress;
  return {
    ...about,
    at,
    destination: (inward ? facts?.source : facts?.destination) ?? 'unreadable packet',
    port: (inward ? facts?.sourcePort : facts?.destinationPort) ?? null,
    protocol: facts?.protocol ?? 'unknown',
  };
}

/** The run that a packet is about. */
export type PacketOwner = { readonly device: number | null; readonly address: string };

/** By the bridge, which an agent cannot choose; by its address only where the kernel names no bridge. */
export function ownerOfPacket({ prefix, inputDevice, outputDevice, packet }: NflogPacket): PacketOwner {
  const inward = prefix === FENCE_PREFIXES.ingress;
  return inward
    ? { device: outputDevice, address: packet?.destination ?? '' }
    : { device: inputDevice, address: packet?.source ?? '' };
}

/**
 * A line from the DNS gate. The names in it were chosen by agents, and the gate reads packets that agents made, so its
 * word is checked: what does not fit is null, and what is shown is cut and made printable.
 */
export function parseGateLine(line: string): GateLine | null {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return null;
  }
  if (!isObject(value)) return null;
  if (value['kind'] === 'resolved') return parseResolved(value);
  const denied = parseDenied(value);
  return denied === null ? null : { kind: 'denied', ...denied };
}

export type GateLine = NameResolved | ({ readonly kind: 'denied' } & FenceDenial);

function parseResolved({ address, name, addresses }: Fields): NameResolved | null {
  if (typeof address !== 'string' || typeof name !== 'string' || !Array.isArray(addresses)) return null;
  const texts = addresses.filter((one): one is string => typeof one === 'string').slice(0, ADDRESSES_MAX);
  return { kind: 'resolved', address, name: printable(name, DESTINATION_CHARS_MAX), addresses: texts };
}

function parseDenied({ address, suppressed, denial }: Fields): FenceDenial | null {
  if (!isObject(denial)) return null;
  const { kind, at, destination, port, protocol, rule, explanation } = denial;
  if (typeof address !== 'string' || typeof suppressed !== 'number' || typeof at !== 'string') return null;
  if (kind !== 'packet' && kind !== 'name' && kind !== 'spoof' && kind !== 'budget') return null;
  if (port !== null && !isPort(port)) return null;
  if (typeof destination !== 'string' || typeof protocol !== 'string') return null;
  if (typeof rule !== 'string' || typeof explanation !== 'string') return null;
  return {
    address,
    suppressed: Number.isSafeInteger(suppressed) && suppressed > 0 ? suppressed : 0,
    denial: {
      kind,
      at: printable(at, RULE_CHARS_MAX),
      destination: printable(destination, DESTINATION_CHARS_MAX),
      port,
      protocol: printable(protocol, RULE_CHARS_MAX),
      rule: printable(rule, RULE_CHARS_MAX),
      explanation: printable(explanation, EXPLANATION_CHARS_MAX),
    },
  };
}

type Fields = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null;
}

function isPort(value: unknown): value is number {
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 65_535;
}

/** Which denials are told one by one: a burst, then a steady few. The others are counted and told with the next. */
export type DenialValve = {
  /** The number suppressed before this one when it may be told, or null when it is suppressed itself. */
  admit(nowMs: number, count: number): number | null;
};

const TOLD = { perSecond: 10, burst: 32 };

export function createDenialValve(): DenialValve {
  const tokens = new TokenBucket(TOLD, 0);
  let suppressed = 0;
  return {
    admit: (nowMs, count) => {
      if (!tokens.take(nowMs)) {
        suppressed += count;
        return null;
      }
      const before = suppressed + count - 1;
      suppressed = 0;
      return before;
    },
  };
}
