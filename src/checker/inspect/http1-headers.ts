/** Headers of HTTP/1.1 as flat lists of name and value, in their order and with their repeats (RFC 9110, 7.6.1). */
export type RawHeaders = readonly string[];

export type Framing = 'none' | 'length' | 'chunked';

const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'transfer-encoding',
  'upgrade',
]);
/** Other ways to the same site, none of which is open. */
const ALTERNATIVES = 'alt-svc';

/** `framing` says how long the body is, in the words of this side: nothing of that is taken over but a length. */
export function forwardedRequest(raw: RawHeaders, host: string, framing: Framing): string[] {
  const headers = ['Host', host];
  for (const [name, value] of endToEnd(raw)) {
    if (isAny(name, ['host'])) continue;
    headers.push(name, value);
  }
  if (valuesOf(raw, 'te').some((value) => value.toLowerCase() === 'trailers')) headers.push('TE', 'trailers');
  if (framing === 'chunked') headers.push('Transfer-Encoding', 'chunked');
  headers.push('Connection', 'keep-alive');
  return headers;
}

export function upgradeRequest(raw: RawHeaders, host: string): string[] {
  const headers = ['Host', host];
  for (const [name, value] of endToEnd(raw)) {
    if (isAny(name, ['host', 'content-length', 'expect'])) continue;
    headers.push(name, value);
  }
  headers.push('Connection', 'Upgrade', 'Upgrade', 'websocket');
  return headers;
}

export function forwardedResponse(raw: RawHeaders, { close }: { readonly close: boolean }): string[] {
  const headers: string[] = [];
  for (const [name, value] of endToEnd(raw)) {
    if (isAny(name, [ALTERNATIVES])) continue;
    headers.push(name, value);
  }
  if (close) headers.push('Connection', 'close');
  return headers;
}

/** The values of a header, by its name in lower case. */
export function valuesOf(raw: RawHeaders, wanted: string): readonly string[] {
  return pairsOf(raw).flatMap(([name, value]) => (name.toLowerCase() === wanted ? [value] : []));
}

export function pairsOf(raw: RawHeaders): [name: string, value: string][] {
  const pairs: [string, string][] = [];
  for (let at = 0; at + 1 < raw.length; at += 2) pairs.push([raw[at] ?? '', raw[at + 1] ?? '']);
  return pairs;
}

function endToEnd(raw: RawHeaders): readonly (readonly [name: string, value: string])[] {
  const named = valuesOf(raw, 'connection').flatMap((value) => value.toLowerCase().split(','));
  const dropped = new Set(named.map((name) => name.trim()));
  // A client may not have its framing or its host dropped by naming it there.
  for (const kept of ['host', 'content-length', 'content-type', 'authorization', 'cookie']) dropped.delete(kept);
  return pairsOf(raw).filter(([name]) => {
    const lower = name.toLowerCase();
    return !HOP_BY_HOP.has(lower) && !dropped.has(lower);
  });
}

function isAny(name: string, names: readonly string[]): boolean {
  return names.includes(name.toLowerCase());
}
