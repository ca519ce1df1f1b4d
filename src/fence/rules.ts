import { assertNever } from '../core/assert.ts';
import { FENCE_BUDGET_BASE, FENCE_PREFIXES, FENCE_SETS } from '../core/fence-names.ts';
import { FENCE_BRIDGE_PREFIX } from '../core/fence-names.ts';

/**
 * The base rules of a host, as text. They name no run: runs are entries of sets. Each piece stops a packet on its own:
 * `source` ties a run to its bridge, `decision` marks what may pass, `exit` drops on the way out whatever carries no
 * mark, `host` and `six` close what is beside the road. `redirect` and `comfort` protect nothing: they lead DNS to the
 * gate and turn a silent drop into a refusal.
 *
 *   raw PREROUTING → mangle PREROUTING (mark) → nat PREROUTING (53 → gate) → routing (no mark: prohibit)
 *     → mangle FORWARD (no mark: drop) → filter FORWARD (refuse politely) → mangle POSTROUTING (no mark: drop)
 */
export type RulePiece = 'source' | 'decision' | 'exit' | 'redirect' | 'host' | 'comfort' | 'six';
export const RULE_PIECES: readonly RulePiece[] = ['source', 'decision', 'exit', 'redirect', 'host', 'six', 'comfort'];

export type FenceMarks = { readonly open: number; readonly deny: number };
export const FENCE_MARKS: FenceMarks = { open: 0x0200_0000, deny: 0x0400_0000 };

export type RuleOptions = {
  readonly pool: string;
  readonly gatePort: number;
  readonly nflogGroup: number;
  readonly marks: FenceMarks;
};

export type Table = 'raw' | 'mangle' | 'nat' | 'filter';

/** One table of one family: our chains with their rules, and the jumps that lead to them from built-in chains. */
export type TableRules = {
  readonly family: 4 | 6;
  readonly table: Table;
  readonly chains: readonly Chain[];
  /** Each belongs at the top of its chain, the first one above the second. */
  readonly jumps: readonly Jump[];
};
type Chain = { readonly name: string; readonly rules: readonly string[] };
/** `anywhere`: other tools may push it down without harm, because nothing depends on it. */
type Jump = { readonly chain: string; readonly rule: string; readonly anywhere: boolean };

const FROM_RUNS = `-i ${FENCE_BRIDGE_PREFIX}+`;
const NOT_FROM_RUNS = `! -i ${FENCE_BRIDGE_PREFIX}+`;
const TO_RUNS = `-o ${FENCE_BRIDGE_PREFIX}+`;
const NOT_TO_RUNS = `! -o ${FENCE_BRIDGE_PREFIX}+`;

/** New connections of one run at a time; more would fill the connection table that all runs share. */
const CONNECTIONS_PER_RUN_MAX = 1_024;
const FEED_BYTES = 96;
/** The first hundred refusals of a run are each reported; a flood is a hundred and then fifty a second, the rest a count. */
const FEED_LIMIT = '--hashlimit-upto 50/sec --hashlimit-burst 100 --hashlimit-mode srcip';
/** Forged sources are not worth a bucket each, since an agent can make up four billion. */
const SPOOF_LIMIT = '-m limit --limit 100/sec --limit-burst 200';

/** In the order in which they are put in force: what denies comes first. */
export function baseRules(options: RuleOptions, pieces: readonly RulePiece[] = RULE_PIECES): readonly TableRules[] {
  const parts = pieces.flatMap((piece) => rulesOfPiece(piece, options));
  const tables: TableRules[] = [];
  for (const part of parts) {
    const index = tables.findIndex((table) => table.family === part.family && table.table === part.table);
    const known = tables[index];
    if (known === undefined) tables.push(part);
    else {
      const merged = { chains: [...known.chains, ...part.chains], jumps: [...known.jumps, ...part.jumps] };
      tables[index] = { ...known, ...merged };
    }
  }
  return tables;
}

function rulesOfPiece(piece: RulePiece, options: RuleOptions): readonly TableRules[] {
  switch (piece) {
    case 'source':
      return [sourceRules(options)];
    case 'decision':
      return [decisionRules(options)];
    case 'exit':
      return [exitRules(options)];
    case 'redirect':
      return [redirectRules(options)];
    case 'host':
      return [hostRules(options)];
    case 'comfort':
      return [comfortRules(options)];
    case 'six':
      return sixRules(options);
    default:
      return assertNever(piece);
  }
}

/** A packet from a run's bridge must have that run's source. Taking away one entry of the set silences a run. */
function sourceRules(options: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'raw',
    chains: [
      {
        name: 'RF-SOURCE',
        rules: [
          `-m set --match-set ${FENCE_SETS.bridge} src,src -j RETURN`,
          `${SPOOF_LIMIT} ${feed(options, FENCE_PREFIXES.spoof)}`,
          '-j DROP',
        ],
      },
    ],
    jumps: [top('PREROUTING', `${FROM_RUNS} -j RF-SOURCE`)],
  };
}

/** Who may pass is decided here, once, and written on the packet and on its connection. */
function decisionRules(options: RuleOptions): TableRules {
  const { marks } = options;
  const both = hex(marks.open | marks.deny);
  const open = `${hex(marks.open)}/${hex(marks.open)}`;
  const established = `-m conntrack --ctstate ESTABLISHED -m connmark --mark ${open}`;
  const listed = [FENCE_SETS.written, FENCE_SETS.learned].map((set) => `-m set --match-set ${set} src,dst,dst`);
  const [written, learned] = listed;
  return {
    family: 4,
    table: 'mangle',
    chains: [
      {
        name: 'RF-DECIDE',
        rules: [
          // No mark from outside survives to this point, whoever set it.
          `-j MARK --set-xmark 0x0/${both}`,
          `${established} -g RF-PASS`,
          // DNS goes to the gate whatever its destination, and the host has its own rules.
          '-p udp -m udp --dport 53 -j RETURN',
          '-p tcp -m tcp --dport 53 -j RETURN',
          '-m addrtype --dst-type LOCAL -j RETURN',
          // Late packets of closed connections and errors about open ones: nobody's attempt, nobody's way out.
          ...listed.map((match) => `-m conntrack --ctstate INVALID ${match} -j DROP`),
          `-p icmp -m conntrack --ctstate RELATED -m connmark --mark ${open} -j DROP`,
          `-d ${options.pool} -g RF-NEVER`,
          `-m conntrack --ctstate NEW ${written} -g RF-ADMIT`,
          `-m set --match-set ${FENCE_SETS.never} dst -g RF-NEVER`,
          `-m conntrack --ctstate NEW ${learned} -g RF-ADMIT`,
          '-g RF-DENY',
        ],
      },
      {
        name: 'RF-ADMIT',
        rules: [
          `-m connlimit --connlimit-above ${CONNECTIONS_PER_RUN_MAX} --connlimit-mask 32 --connlimit-saddr -j MARK --set-xmark ${hex(marks.deny)}/${both}`,
          `-m mark --mark ${hex(marks.deny)}/${hex(marks.deny)} -j RETURN`,
          `-j CONNMARK --set-xmark ${open}`,
          '-g RF-PASS',
        ],
      },
      {
        name: 'RF-PASS',
        rules: [
          `-m set --match-set ${FENCE_SETS.budget} src --bytes-gt ${FENCE_BUDGET_BASE} -g RF-SPENT`,
          `-m set --match-set ${FENCE_SETS.egress} src`,
          `-j MARK --set-xmark ${hex(marks.open)}/${both}`,
        ],
      },
      {
        name: 'RF-SPENT',
        rules: [`${limited('rf-spent')} ${feed(options, FENCE_PREFIXES.budget)}`, '-j DROP'],
      },
      {
        name: 'RF-DENY',
        rules: denied(options, { prefix: FENCE_PREFIXES.deny, bucket: 'rf-deny' }),
      },
      {
        name: 'RF-NEVER',
        rules: denied(options, { prefix: FENCE_PREFIXES.never, bucket: 'rf-never' }),
      },
      {
        // Replies carry the mark of their connection, or reverse-path filtering would ask the routing rule about a
        // packet without one and drop them.
        name: 'RF-REPLY',
        rules: [`-m connmark --mark ${open} -j MARK --set-xmark ${hex(marks.open)}/${both}`],
      },
    ],
    jumps: [top('PREROUTING', `${FROM_RUNS} -j RF-DECIDE`), top('PREROUTING', `${NOT_FROM_RUNS} -j RF-REPLY`)],
  };
}

function denied(options: RuleOptions, what: { readonly prefix: string; readonly bucket: string }): string[] {
  const { marks } = options;
  return [
    `-m set --match-set ${FENCE_SETS.denied} src`,
    `${limited(what.bucket)} ${feed(options, what.prefix)}`,
    `-j MARK --set-xmark ${hex(marks.deny)}/${hex(marks.open | marks.deny)}`,
  ];
}

/** The second check, which knows nothing of names and sets: no mark, no way out, and nothing new comes in. */
function exitRules(options: RuleOptions): TableRules {
  const { marks } = options;
  const open = `${hex(marks.open)}/${hex(marks.open)}`;
  const both = hex(marks.open | marks.deny);
  return {
    family: 4,
    table: 'mangle',
    chains: [
      {
        name: 'RF-FORWARD',
        rules: [
          `${FROM_RUNS} ${TO_RUNS} -j DROP`,
          `${FROM_RUNS} -m mark --mark 0x0/${both} -j DROP`,
          `${FROM_RUNS} -j RETURN`,
          '-m conntrack --ctstate ESTABLISHED -g RF-ARRIVE',
          '-p icmp -m conntrack --ctstate RELATED -g RF-ARRIVE',
          '-j DROP',
        ],
      },
      { name: 'RF-ARRIVE', rules: [`-m set --match-set ${FENCE_SETS.ingress} dst`] },
      {
        name: 'RF-EXIT',
        rules: [
          // The host talking to itself from a gateway address of ours.
          '-o lo -j RETURN',
          `-m mark --mark ${hex(marks.deny)}/${hex(marks.deny)} -j DROP`,
          `${NOT_TO_RUNS} -m mark ! --mark ${open} -j DROP`,
        ],
      },
    ],
    jumps: [
      top('FORWARD', `${FROM_RUNS} -j RF-FORWARD`),
      top('FORWARD', `${TO_RUNS} -j RF-FORWARD`),
      top('POSTROUTING', `-s ${options.pool} -j RF-EXIT`),
    ],
  };
}

function redirectRules(options: RuleOptions): TableRules {
  return {
    family: 4,
    table: 'nat',
    chains: [
      {
        name: 'RF-DNS',
        rules: [
          ...['udp', 'tcp'].map(
            (protocol) => `-p ${protocol} -m ${protocol} --dport 53 -j REDIRECT --to-ports ${options.gatePort}`,
          ),
          // A published port of another container must not turn an attempt on the host into something else.
          '-j ACCEPT',
        ],
      },
    ],
    jumps: [top('PREROUTING', `${FROM_RUNS} -j RF-DNS`)],
  };
}

/** At once, in the protocol that was spoken; but nothing is said to a group. */
function refusal(): string[] {
  return [
    '-m addrtype --dst-type MULTICAST -j DROP',
    '-m addrtype --dst-type BROADCAST -j DROP',
    '-p tcp -j REJECT --reject-with tcp-reset',
    '-j REJECT --reject-with icmp-admin-prohibited',
  ];
}

/** Of the host, a run reaches the gate, by redirection only. The gate is for runs only. */
function hostRules(options: RuleOptions): TableRules {
  const gate = (protocol: string): string => `-p ${protocol} -m ${protocol} --dport ${options.gatePort}`;
  const { marks } = options;
  return {
    family: 4,
    table: 'filter',
    chains: [
      {
        name: 'RF-HOST',
        rules: [
          `-m mark --mark ${hex(marks.deny)}/${hex(marks.deny)} -g RF-REFUSE`,
          ...['udp', 'tcp'].map((protocol) => `${gate(protocol)} -m conntrack --ctorigdstport 53 -j ACCEPT`),
          // What the host itself began, and errors and late packets about what the gate answered: not attempts.
          '-m conntrack --ctstate ESTABLISHED --ctdir REPLY -j ACCEPT',
          '-p icmp -m conntrack --ctstate RELATED -j DROP',
          '-p tcp -m tcp --dport 53 -m conntrack --ctstate INVALID -j DROP',
          `-m set --match-set ${FENCE_SETS.denied} src`,
          `${limited('rf-host')} ${feed(options, FENCE_PREFIXES.host)}`,
          '-g RF-REFUSE',
        ],
      },
      { name: 'RF-REFUSE', rules: refusal() },
      { name: 'RF-GATE', rules: ['udp', 'tcp'].map((protocol) => `${gate(protocol)} -j DROP`) },
    ],
    jumps: [top('INPUT', `${FROM_RUNS} -j RF-HOST`), top('INPUT', `${NOT_FROM_RUNS} -j RF-GATE`)],
  };
}

/**
 * A refusal at once for the agent, and a short way through the engine's thousands of rules for what is allowed. The
 * engine takes its jump to DOCKER-USER out and puts it back as it likes, so nothing may depend on this.
 */
function comfortRules(options: RuleOptions): TableRules {
  const { marks } = options;
  const open = `${hex(marks.open)}/${hex(marks.open)}`;
  return {
    family: 4,
    table: 'filter',
    chains: [
      {
        name: 'RF-COMFORT',
        rules: [
          `${FROM_RUNS} -m mark --mark ${hex(marks.deny)}/${hex(marks.deny)} -g RF-REJECT`,
          `${FROM_RUNS} -m mark --mark ${open} -j ACCEPT`,
          `${TO_RUNS} -m conntrack --ctstate ESTABLISHED -m connmark --mark ${open} -j ACCEPT`,
          `${TO_RUNS} -p icmp -m conntrack --ctstate RELATED -m connmark --mark ${open} -j ACCEPT`,
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

/** IPv6 is denied whole, on the way in and on the way out, and by two tables. */
function sixRules(options: RuleOptions): readonly TableRules[] {
  return [
    {
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
    },
    {
      family: 6,
      table: 'filter',
      chains: [],
      jumps: [
        top('INPUT', `${FROM_RUNS} -j DROP`),
        top('FORWARD', `${FROM_RUNS} -j DROP`),
        top('FORWARD', `${TO_RUNS} -j DROP`),
      ],
    },
  ];
}

function limited(bucket: string): string {
  return `-m hashlimit ${FEED_LIMIT} --hashlimit-name ${bucket}`;
}

/** A threshold of one packet: otherwise the kernel holds reports back for up to a second. */
function feed(options: RuleOptions, prefix: string): string {
  return `-j NFLOG --nflog-prefix "${prefix}" --nflog-group ${options.nflogGroup} --nflog-size ${FEED_BYTES} --nflog-threshold 1`;
}

function top(chain: string, rule: string): Jump {
  return { chain, rule, anywhere: false };
}

function hex(value: number): string {
  return `0x${(value >>> 0).toString(16)}`;
}

/** The sets that the rules name, as `ipset restore` takes them. `-exist` leaves a set of the same kind as it is. */
export function setDeclarations(): readonly string[] {
  const counters = `hash:ip family inet maxelem ${RUNS_MAX} counters`;
  return [
    `create ${FENCE_SETS.bridge} hash:net,iface family inet maxelem ${RUNS_MAX}`,
    `create ${FENCE_SETS.learned} hash:ip,port,ip family inet maxelem ${ENTRIES_MAX} timeout 120`,
    `create ${FENCE_SETS.written} hash:ip,port,net family inet maxelem ${ENTRIES_MAX}`,
    `create ${FENCE_SETS.never} hash:net family inet maxelem 1024`,
    `create ${FENCE_SETS.budget} ${counters}`,
    `create ${FENCE_SETS.egress} ${counters}`,
    `create ${FENCE_SETS.ingress} ${counters}`,
    `create ${FENCE_SETS.denied} ${counters}`,
  ];
}

const RUNS_MAX = 65_536;
const ENTRIES_MAX = 1_048_576;
