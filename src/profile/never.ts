export type NeverRange = { readonly cidr: string; readonly what: string };

/**
 * Where a name never leads, whatever it resolves to, and what no person is asked about; most of it opens only to a rule
 * of `allow` written as an address. The documentation ranges are not here: the lab's internet lives in them.
 */
export const NEVER_RANGES: readonly NeverRange[] = [
  { cidr: '0.0.0.0/8', what: 'this network' },
  { cidr: '10.0.0.0/8', what: 'private' },
  { cidr: '100.64.0.0/10', what: 'shared by carriers' },
  { cidr: '127.0.0.0/8', what: 'loopback' },
  { cidr: '168.63.129.16/32', what: 'metadata' },
  { cidr: '169.254.0.0/16', what: 'link-local and metadata' },
  { cidr: '172.16.0.0/12', what: 'private' },
  { cidr: '192.0.0.0/24', what: 'protocol assignments' },
  { cidr: '192.88.99.0/24', what: 'former 6to4 relays' },
  { cidr: '192.168.0.0/16', what: 'private' },
  { cidr: '198.18.0.0/15', what: 'benchmarks' },
  { cidr: '224.0.0.0/4', what: 'multicast' },
  { cidr: '240.0.0.0/4', what: 'reserved' },
];
