/** A run id is `r` and 12 characters of [0-9a-z]: short enough for a bridge name, a cgroup and a terminal column. */
export const RUN_ID_PATTERN = /^r[0-9a-z]{12}$/;

/** A set of run ids, or whoever can tell whether one belongs to it at the moment of the question. */
export type RunIds = Pick<ReadonlySet<string>, 'has'>;

/** A profile name: it becomes part of labels, file names and metric labels, so nothing else is ever allowed in it. */
export const PROFILE_NAME_PATTERN = /^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/;

/** `traceparent` of W3C Trace Context, version 00: neither the trace nor the span may be all zeros. */
export const TRACEPARENT_PATTERN = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

const ALPHABET = '0123456789abcdefghijklmnopqrstuvwxyz';

/** Turns random bytes (at least 12) into an id. Pure: the caller brings the randomness. */
export function idFrom(prefix: 'r' | 'i' | 'a', random: Uint8Array): string {
  let id: string = prefix;
  for (let index = 0; index < 12; index += 1) id += ALPHABET[(random[index] ?? 0) % ALPHABET.length];
  return id;
}
