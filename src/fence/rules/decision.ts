import { FENCE_BUDGET_BASE, FENCE_PREFIXES, FENCE_SETS } from '../../core/fence-names.ts';
import {
  admitted,
  allMarks,
  feed,
  FROM_RUNS,
  hex,
  limited,
  marked,
  NOT_FROM_RUNS,
  setMark,
  SPOOF_LIMIT,
  top,
} from './words.ts';
import type { Chain, RuleOptions, TableRules } from './words.ts';

/** New connections of one run at a time; more would fill the connection table that all runs share. */
const CONNECTIONS_PER_RUN_MAX = 1_024;
/** A packet that waits for a person is sent again and again; one report a second for each destination is enough. */
const ASK_LIMIT =
  '-m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 1 --hashlimit-mode srcip,dstip,dstport --hashlimit-name rf-ask-each';

const NEW = '-m conntrack --ctstate NEW';
const INVALID = '-m conntrack --ctstate INVALID';
const ESTABLISHED = '-m conntrack --ctstate ESTABLISHED';

/** Who may pass is decided here, once, and written on the packet and on its connection. */
export function decisionRules(options: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'mangle',
    chains: [
      { name: 'RF-DECIDE', rules: decide(options) },
      ...admission(options),
      { name: 'RF-PASS', rules: pass(options) },
      {
        name: 'RF-SPENT',
        rules: [`${limited('rf-spent')} ${feed(options, FENCE_PREFIXES.budget)}`, '-j DROP'],
      },
      {
        name: 'RF-ASK',
        rules: [`${ASK_LIMIT} ${limited('rf-ask')} ${feed(options, FENCE_PREFIXES.ask)}`, '-j DROP'],
      },
      denial(options, { name: 'RF-DENY', prefix: FENCE_PREFIXES.deny, bucket: 'rf-deny' }),
      denial(options, { name: 'RF-NEVER', prefix: FENCE_PREFIXES.never, bucket: 'rf-never' }),
      denial(options, { name: 'RF-CONNS', prefix: FENCE_PREFIXES.connections, bucket: 'rf-conns' }),
      denial(options, { name: 'RF-RATE', prefix: FENCE_PREFIXES.rate, bucket: 'rf-rate' }),
      // Replies carry the mark of their connection, or reverse-path filtering would ask the routing rule about a
      // packet without one and drop them.
      { name: 'RF-REPLY', rules: [`${admitted(options.marks.open)} ${setMark(options.marks, options.marks.open)}`] },
    ],
    jumps: [top('PREROUTING', `${FROM_RUNS} -j RF-DECIDE`), top('PREROUTING', `${NOT_FROM_RUNS} -j RF-REPLY`)],
  };
}

function decide(options: RuleOptions): string[] {
  const { marks } = options;
  const written = listed(FENCE_SETS.written);
  const checked = `-p tcp ${listed(FENCE_SETS.checked)}`;
  const opening = [FENCE_SETS.learned, FENCE_SETS.approved].map(listed);
  return [
    // No mark from outside survives to this point, whoever set it.
    setMark(marks, 0),
    // The source once more, by the routes of the host: what `source` asks of a set.
    `-m rpfilter --invert -g RF-FORGED`,
    `${ESTABLISHED} ${admitted(marks.open)} -g RF-PASS`,
    `${ESTABLISHED} ${admitted(marks.check)} -g RF-PASS`,
    // DNS goes to the gate whatever its destination, and the host has its own rules.
    '-p udp -m udp --dport 53 -j RETURN',
    '-p tcp -m tcp --dport 53 -j RETURN',
    '-m addrtype --dst-type LOCAL -j RETURN',
    // Late packets of closed connections and errors about open ones: nobody's attempt, nobody's way out.
    ...[written, checked, ...opening].map((match) => `${INVALID} ${match} -j DROP`),
    `-p icmp -m conntrack --ctstate RELATED ${admitted(marks.open)} -j DROP`,
    `-p icmp -m conntrack --ctstate RELATED ${admitted(marks.check)} -j DROP`,
    `-d ${options.pool} -g RF-NEVER`,
    `${NEW} ${written} -g RF-ADMIT`,
    `-m set --match-set ${FENCE_SETS.never} dst -g RF-NEVER`,
    // Before what is open unchecked: an address that two names share is as narrow as the narrower one.
    `${NEW} ${checked} -g RF-ADMITCHECK`,
    ...opening.map((match) => `${NEW} ${match} -g RF-ADMIT`),
    `${NEW} ${listed(FENCE_SETS.refused)} -g RF-DENY`,
    `${NEW} ${listed(FENCE_SETS.ask)} -g RF-ASK`,
    '-g RF-DENY',
  ];
}

function listed(set: string): string {
  return `-m set --match-set ${set} src,dst,dst`;
}

/**
 * Each new connection once: what is too many at a time or in a second, then the budget of connections, then the count.
 * Its first packet may come several times before there is an answer; those are told by the mark on their connection.
 */
function admission(options: RuleOptions): Chain[] {
  const { marks, connectionsPerSecondMax: perSecond } = options;
  const all = hex(allMarks(marks));
  const admit = (mark: number): string[] => [
    `${admitted(mark)} -g RF-PASS`,
    '-j RF-LEVY',
    `${marked(marks.deny)} -j RETURN`,
    `-j CONNMARK --set-xmark ${hex(mark)}/${all}`,
    '-g RF-PASS',
  ];
  return [
    { name: 'RF-ADMIT', rules: admit(marks.open) },
    { name: 'RF-ADMITCHECK', rules: admit(marks.check) },
    {
      name: 'RF-LEVY',
      rules: [
        `-m connlimit --connlimit-above ${CONNECTIONS_PER_RUN_MAX} --connlimit-mask 32 --connlimit-saddr -g RF-RATE`,
        `-m hashlimit --hashlimit-above ${perSecond}/sec --hashlimit-burst ${perSecond * 2} --hashlimit-mode srcip --hashlimit-name rf-new -g RF-RATE`,
        `-m set --match-set ${FENCE_SETS.connectionBudget} src --packets-gt ${FENCE_BUDGET_BASE} -g RF-CONNS`,
        `-m set --match-set ${FENCE_SETS.connections} src`,
      ],
    },
    {
      name: 'RF-FORGED',
      rules: [`${SPOOF_LIMIT} ${feed(options, FENCE_PREFIXES.spoof)}`, '-j DROP'],
    },
  ];
}

function pass({ marks }: RuleOptions): string[] {
  return [
    `-m set --match-set ${FENCE_SETS.budget} src --bytes-gt ${FENCE_BUDGET_BASE} -g RF-SPENT`,
    `-m set --match-set ${FENCE_SETS.egress} src`,
    // Counts where the destination is known, and makes it known with this packet as its first where it is not.
    `-m set ! --match-set ${FENCE_SETS.flows} src,dst,dst -j SET --add-set ${FENCE_SETS.flows} src,dst,dst`,
    ...[marks.open, marks.check].map((mark) => `${admitted(mark)} ${setMark(marks, mark)}`),
  ];
}

function denial(
  options: RuleOptions,
  what: { readonly name: string; readonly prefix: string; readonly bucket: string },
): Chain {
  return {
    name: what.name,
    rules: [
      `-m set --match-set ${FENCE_SETS.denied} src`,
      `${limited(what.bucket)} ${feed(options, what.prefix)}`,
      setMark(options.marks, options.marks.deny),
    ],
  };
}
