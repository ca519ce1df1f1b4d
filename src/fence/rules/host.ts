import { FENCE_PREFIXES, FENCE_SETS } from '../../core/fence-names.ts';
import { checkerMatch, gateMatches, REPLY_TO_HOST } from './exit.ts';
import {
  admitted,
  feed,
  FROM_RUNS,
  limited,
  marked,
  NOT_FROM_RUNS,
  refusal,
  SPOOF_LIMIT,
  TO_RUNS,
  top,
} from './words.ts';
import type { RuleOptions, TableRules } from './words.ts';

/** A packet from a run's bridge must have that run's source. Taking away one entry of the set silences a run. */
export function sourceRules(options: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'raw',
    chains: [
      {
        name: 'RF-SOURCE',
        rules: [
          `-m set --match-set ${FENCE_SETS.waiting} src -j DROP`,
          `-m set --match-set ${FENCE_SETS.bridge} src,src -j RETURN`,
          `${SPOOF_LIMIT} ${feed(options, FENCE_PREFIXES.spoof)}`,
          '-j DROP',
        ],
      },
    ],
    jumps: [top('PREROUTING', `${FROM_RUNS} -j RF-SOURCE`)],
  };
}

export function redirectRules({ marks, gatePort, checkPort }: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'nat',
    chains: [
      {
        name: 'RF-LEAD',
        rules: [
          ...['udp', 'tcp'].map(
            (protocol) => `-p ${protocol} -m ${protocol} --dport 53 -j REDIRECT --to-ports ${gatePort}`,
          ),
          `-p tcp ${marked(marks.check)} -j REDIRECT --to-ports ${checkPort}`,
          // A published port of another container must not turn an attempt on the host into something else.
          '-j ACCEPT',
        ],
      },
    ],
    jumps: [top('PREROUTING', `${FROM_RUNS} -j RF-LEAD`)],
  };
}

/** Of the host, a run reaches the gate and the checker, by redirection only. Both are for runs only. */
export function hostRules(options: RuleOptions): TableRules {
  const { marks, gatePort, checkPort } = options;
  return {
    family: 4,
    table: 'filter',
    chains: [
      {
        name: 'RF-HOST',
        rules: [
          `${marked(marks.deny)} -g RF-REFUSE`,
          ...gateMatches(gatePort).map((match) => `${match} -j ACCEPT`),
          `${checkerMatch(marks, checkPort)} -j ACCEPT`,
          // What the host itself began, and errors and late packets about what the gate answered: not attempts.
          `${REPLY_TO_HOST} -j ACCEPT`,
          '-p icmp -m conntrack --ctstate RELATED -j DROP',
          '-p tcp -m tcp --dport 53 -m conntrack --ctstate INVALID -j DROP',
          `-m set --match-set ${FENCE_SETS.denied} src`,
          `${limited('rf-host')} ${feed(options, FENCE_PREFIXES.host)}`,
          '-g RF-REFUSE',
        ],
      },
      { name: 'RF-REFUSE', rules: refusal() },
      {
        name: 'RF-GATE',
        rules: [
          ...['udp', 'tcp'].map((protocol) => `-p ${protocol} -m ${protocol} --dport ${gatePort} -j DROP`),
          `-p tcp -m tcp --dport ${checkPort} -j DROP`,
        ],
      },
    ],
    jumps: [top('INPUT', `${FROM_RUNS} -j RF-HOST`), top('INPUT', `${NOT_FROM_RUNS} -j RF-GATE`)],
  };
}

/**
 * A refusal at once for the agent, and a short way through the engine's thousands of rules for what is allowed. The
 * engine takes its jump to DOCKER-USER out and puts it back as it likes, so nothing may depend on this.
 */
export function comfortRules({ marks }: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'filter',
    chains: [
      {
        name: 'RF-COMFORT',
        rules: [
          `${FROM_RUNS} ${marked(marks.deny)} -g RF-REJECT`,
          `${FROM_RUNS} ${marked(marks.open)} -j ACCEPT`,
          `${TO_RUNS} -m conntrack --ctstate ESTABLISHED ${admitted(marks.open)} -j ACCEPT`,
          `${TO_RUNS} -p icmp -m conntrack --ctstate RELATED ${admitted(marks.open)} -j ACCEPT`,
        ],
      },
      { name: 'RF-REJECT', rules: refusal() },
    ],
    jumps: [
      { chain: 'DOCKER-USER', rule: '-j RF-COMFORT', anywhere: true },
      { chain: 'FORWARD', rule: '-j RF-COMFORT', anywhere: true },
    ],
  };
}
