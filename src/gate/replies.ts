import type { Refusal } from './decide.ts';
import { RCODE } from './wire.ts';
import type { Reply } from './wire.ts';

/** The gate's answers without addresses. None has a lifetime, so that no client keeps one. */
const EXTENDED_OTHER = 0;

/** What an agent hears while nobody has decided; the same words in DNS and at the checker. */
export const WAITS_TEXT = 'waits for a person: approve with `ringfence approve`';

export const TOO_MANY_TEXT = 'too many requests wait for a person';

export function plainReply(rcode: number): Reply {
  return { rcode, addresses: [], ttlSeconds: 0, extended: null };
}

export function refusedReply(rcode: number, refusal: Refusal): Reply {
  const text = `ringfence ${refusal.rule}: ${refusal.explanation}`;
  return { rcode, addresses: [], ttlSeconds: 0, extended: { code: refusal.extendedCode, text } };
}

/**
 * A failure of the moment. Resolvers of containers take it for one (`EAI_AGAIN`), ask again and keep nothing; after
 * REFUSED or NXDOMAIN some of them would not.
 */
export function failedReply(why: string): Reply {
  const extended = { code: EXTENDED_OTHER, text: `ringfence: ${why}` };
  return { rcode: RCODE.serverFailure, addresses: [], ttlSeconds: 0, extended };
}
