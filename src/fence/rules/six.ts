import { FENCE_PREFIXES } from '../../core/fence-names.ts';
import { feed, FROM_RUNS, SPOOF_LIMIT, TO_RUNS, top } from './words.ts';
import type { RuleOptions, TableRules } from './words.ts';

/** IPv6 is denied whole, on the way in and on the way out. */
export function sixRules(options: RuleOptions): TableRules {
  return {
    family: 6,
    table: 'raw',
    chains: [
      {
        name: 'RF-SIX',
        rules: [
          // What every IPv6 stack says on its own to its neighbours when a link comes up.
          '-d ff00::/8 -p ipv6-icmp -j DROP',
          `${SPOOF_LIMIT} ${feed(options, FENCE_PREFIXES.deny)}`,
          '-j DROP',
        ],
      },
    ],
    jumps: [top('PREROUTING', `${FROM_RUNS} -j RF-SIX`), top('OUTPUT', `${TO_RUNS} -j DROP`)],
  };
}

/** And by a second table. */
export function sixExitRules(): TableRules {
  return {
    family: 6,
    table: 'filter',
    chains: [],
    jumps: [
      top('INPUT', `${FROM_RUNS} -j DROP`),
      top('FORWARD', `${FROM_RUNS} -j DROP`),
      top('FORWARD', `${TO_RUNS} -j DROP`),
      top('OUTPUT', `${TO_RUNS} -j DROP`),
    ],
  };
}
