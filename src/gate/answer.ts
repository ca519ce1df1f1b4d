import type { Answer, DecodedPacket } from 'dns-packet';

/** What an upstream's answer says about one name. PURE: every record in it was chosen by somebody else. */
export type Walk =
  /** `finalName`: where the chain of aliases ended; empty addresses mean that the name exists without any. */
  | {
      readonly kind: 'addresses';
      readonly finalName: string;
      readonly addresses: readonly string[];
      readonly ttlSeconds: number;
    }
  /** The chain left what this answer covers: ask again for this name. */
  | { readonly kind: 'alias'; readonly target: string; readonly ttlSeconds: number }
  | { readonly kind: 'loop' };

export const ALIASES_MAX = 8;
export const ADDRESSES_MAX = 16;
export const TTL_SECONDS_MIN = 5;
export const TTL_SECONDS_MAX = 300;

/**
 * Follows aliases from the asked name only: an address record of any other name in the answer is not looked at. Names
 * are compared as lower-case text; they lead only to records of this same answer or to another bounded question.
 */
export function walkAnswer(packet: DecodedPacket, asked: string): Walk {
  const records = packet.answers ?? [];
  let name = asked.toLowerCase();
  let ttlSeconds = TTL_SECONDS_MAX;
  for (let hop = 0; hop <= ALIASES_MAX; hop += 1) {
    const addresses: string[] = [];
    for (const record of records) {
      if (record.type !== 'A' || !isAbout(record, name)) continue;
      ttlSeconds = Math.min(ttlSeconds, record.ttl ?? 0);
      if (addresses.length < ADDRESSES_MAX && !addresses.includes(record.data)) addresses.push(record.data);
    }
    if (addresses.length > 0) {
      return { kind: 'addresses', finalName: name, addresses, ttlSeconds: clampTtl(ttlSeconds) };
    }
    const alias = records.find((record) => record.type === 'CNAME' && isAbout(record, name));
    if (alias === undefined || alias.type !== 'CNAME') {
      if (hop > 0) return { kind: 'alias', target: name, ttlSeconds: clampTtl(ttlSeconds) };
      return { kind: 'addresses', finalName: name, addresses: [], ttlSeconds: TTL_SECONDS_MIN };
    }
    ttlSeconds = Math.min(ttlSeconds, alias.ttl ?? 0);
    name = alias.data.toLowerCase().replace(/\.$/, '');
  }
  return { kind: 'loop' };
}

function isAbout(record: Answer, name: string): boolean {
  return record.name.toLowerCase().replace(/\.$/, '') === name;
}

function clampTtl(seconds: number): number {
  return Math.min(Math.max(seconds, TTL_SECONDS_MIN), TTL_SECONDS_MAX);
}

/** The entry in the kernel outlives the client's copy of the answer, or a fresh answer would lead to a closed door. */
export function entrySeconds(ttlSeconds: number): number {
  return Math.max(ttlSeconds, 60) + 30;
}
