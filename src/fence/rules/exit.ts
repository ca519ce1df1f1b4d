import { admitted, FROM_RUNS, hex, marked, NOT_TO_RUNS, TO_RUNS, top } from './words.ts';
import type { RuleOptions, TableRules } from './words.ts';
import { FENCE_BUDGET_BASE, FENCE_PREFIXES, FENCE_SETS } from '../../core/fence-names.ts';
import { feed, limited } from './words.ts';

const BELONGS = ['-m conntrack --ctstate ESTABLISHED -j RETURN', '-p icmp -m conntrack --ctstate RELATED -j RETURN'];

/** The second check, which knows nothing of names and sets: no mark, no way out, and nothing new comes in. */
export function exitRules({ marks, pool }: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'mangle',
    chains: [
      {
        name: 'RF-FORWARD',
        rules: [
          `${FROM_RUNS} ${TO_RUNS} -j DROP`,
          // Neither open nor denied: nothing decided, or meant for the checker and not led there. What is denied goes
          // on to be refused.
          `${FROM_RUNS} -m mark --mark 0x0/${hex(marks.open | marks.deny)} -j DROP`,
          `${FROM_RUNS} -j RETURN`,
          ...BELONGS,
          '-j DROP',
        ],
      },
      {
        name: 'RF-EXIT',
        rules: [
          // The host talking to itself from a gateway address of ours.
          '-o lo -j RETURN',
          `${marked(marks.deny)} -j DROP`,
          `${NOT_TO_RUNS} -m mark ! --mark ${hex(marks.open)}/${hex(marks.open)} -j DROP`,
        ],
      },
    ],
    jumps: [
      top('FORWARD', `${FROM_RUNS} -j RF-FORWARD`),
      top('FORWARD', `${TO_RUNS} -j RF-FORWARD`),
      top('POSTROUTING', `-s ${pool} -j RF-EXIT`),
    ],
  };
}

/**
 * The same once more, in a table that no engine and hardly any firewall knows, behind every polite refusal: a denied
 * packet that nothing refused ends here, and so does one to the host that no other rule stopped.
 */
export function lastRules({ marks, gatePort, checkPort }: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'security',
    chains: [
      {
        name: 'RF-LAST',
        rules: [
          `${FROM_RUNS} ${TO_RUNS} -j DROP`,
          `${FROM_RUNS} -m mark ! --mark ${hex(marks.open)}/${hex(marks.open)} -j DROP`,
          `${FROM_RUNS} -j RETURN`,
          ...BELONGS,
          '-j DROP',
        ],
      },
      {
        name: 'RF-LASTHOST',
        rules: [
          `${marked(marks.deny)} -j DROP`,
          ...gateMatches(gatePort).map((match) => `${match} -j RETURN`),
          `${checkerMatch(marks, checkPort)} -j RETURN`,
          `${REPLY_TO_HOST} -j RETURN`,
          '-j DROP',
        ],
      },
    ],
    jumps: [
      top('FORWARD', `${FROM_RUNS} -j RF-LAST`),
      top('FORWARD', `${TO_RUNS} -j RF-LAST`),
      top('INPUT', `${FROM_RUNS} -j RF-LASTHOST`),
    ],
  };
}

/** What the host itself began. */
export const REPLY_TO_HOST = '-m conntrack --ctstate ESTABLISHED --ctdir REPLY';

/** DNS that was led to the gate, whatever resolver it was meant for. */
export function gateMatches(gatePort: number): string[] {
  return ['udp', 'tcp'].map(
    (protocol) => `-p ${protocol} -m ${protocol} --dport ${gatePort} -m conntrack --ctorigdstport 53`,
  );
}

/** A connection that was led to the checker. One that was sent to its port is neither marked nor translated. */
export function checkerMatch(marks: RuleOptions['marks'], checkPort: number): string {
  return `-p tcp -m tcp --dport ${checkPort} ${marked(marks.check)} -m conntrack --ctstate DNAT`;
}

/**
 * What comes in for a run, from the internet or from the checker, is counted, and cut when its budget is used up. The
 * answers of the DNS gate, refusals and what the host itself begins count nowhere: none of them belongs to a connection
 * that was admitted.
 */
export function countRules(options: RuleOptions): TableRules {
  const { marks } = options;
  return {
    family: 4,
    table: 'mangle',
    chains: [
      {
        name: 'RF-ARRIVE',
        rules: [marks.open, marks.check].map((mark) => `${admitted(mark)} -g RF-TAKE`),
      },
      {
        name: 'RF-TAKE',
        rules: [
          `-m set --match-set ${FENCE_SETS.ingressBudget} dst --bytes-gt ${FENCE_BUDGET_BASE} -g RF-FULL`,
          `-m set --match-set ${FENCE_SETS.ingress} dst`,
        ],
      },
      {
        name: 'RF-FULL',
        rules: [`${limited('rf-full', 'dstip')} ${feed(options, FENCE_PREFIXES.ingress)}`, '-j DROP'],
      },
    ],
    jumps: [top('POSTROUTING', `${TO_RUNS} -j RF-ARRIVE`)],
  };
}
