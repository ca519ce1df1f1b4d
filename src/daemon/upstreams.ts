import { isIPv4 } from 'node:net';
import { fail } from '../core/errors.ts';

export type UpstreamAddress = { readonly address: string; readonly port: number };

const DNS_PORT = 53;
const UPSTREAMS_MAX = 4;

/** The resolvers that the gate asks: those of the configuration (`192.0.2.1` or `192.0.2.1:5353`), else the host's own. */
export function upstreamsOf(configured: readonly string[] | null, resolvConf: string): readonly UpstreamAddress[] {
  if (configured !== null) return configured.map(parseUpstream);
  const found = [...resolvConf.matchAll(/^nameserver\s+(\S+)/gm)]
    .map((match) => match[1] ?? '')
    .filter((address) => isIPv4(address));
  return found.slice(0, UPSTREAMS_MAX).map((address) => ({ address, port: DNS_PORT }));
}

function parseUpstream(text: string): UpstreamAddress {
  const match = /^([0-9.]+)(?::(\d{1,5}))?$/.exec(text);
  const port = Number(match?.[2] ?? DNS_PORT);
  const address = match?.[1] ?? '';
  if (!isIPv4(address) || port < 1 || port > 65_535) {
    throw fail('CONFIG_INVALID', {
      detail: `dns.upstreams: must be an IPv4 address, with a port if need be, got "${text}"`,
      hint: 'for example `upstreams: [192.0.2.53]`',
    });
  }
  return { address, port };
}
