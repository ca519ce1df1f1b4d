import type { FenceAddress, FenceGrant, FenceName, FencePort } from '../../src/core/ports/fence.ts';

/** Grants of tests: what is not written is what a plain line of `egress.allow` would be, and everything else nothing. */
export const HTTPS: FencePort = { port: 443, protocol: 'tcp' };

/** Unchecked unless told: most tests have no checker, and open addresses as learned. */
export function nameGrant(name: string, more: Partial<FenceName> = {}): FenceName {
  const text = more.wildcard === true ? `*.${name}` : name;
  const ports = [{ ...HTTPS, check: null }];
  return { name, wildcard: false, ports, text, ask: false, inspect: false, requests: [], ...more };
}

/** `198.51.100.10/32` and its ports. */
export function addressGrant(
  cidr: string,
  ports: readonly FencePort[],
  more: Partial<FenceAddress> = {},
): FenceAddress {
  const [network = '', prefixLength = '32'] = cidr.split('/');
  return { network, prefixLength: Number(prefixLength), ports, text: cidr, ask: false, ...more };
}

export function grantOf(given: Partial<FenceGrant> & Pick<FenceGrant, 'lease'>): FenceGrant {
  return {
    names: [],
    addresses: [],
    egressBytesMax: null,
    ingressBytesMax: null,
    connectionsMax: null,
    bandwidthBitsPerSecond: null,
    ...given,
  };
}
