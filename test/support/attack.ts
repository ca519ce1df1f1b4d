import { expect } from 'vitest';
import { dnsQueriesSeen, mark, observed, packetsArrived, type Mark, type Seen } from './lab.ts';
import type { DnsQuery, Packet } from './packets.ts';

/**
 * An attack is data: what is tried, and how the attacked side tells that it got through. The same lines run twice:
 * without a fence every one of them must arrive, or name why it cannot; with the fence none may.
 */
export type Attack = {
  readonly id: string;
  /** Shell, with the variables of `Place`. It may end as it likes: how it ends proves nothing. */
  readonly attempt: string;
  /** Everything of this attempt that got through, as short sentences; each attempt has a destination of its own. */
  readonly through: (arrivals: Arrivals) => readonly string[];
  /** Why it does not get through even without a fence; null for one that does. */
  readonly blunt: string | null;
  /** Needs raw sockets and a root that no profile grants. */
  readonly rootOnly: boolean;
  /** Disturbs the others, so it has its turn after them. */
  readonly apart: boolean;
};

/** What the attacked sides saw of one battery: the internet, the host's listeners, the neighbour's listener. */
export type Arrivals = {
  readonly packets: readonly Packet[];
  readonly queries: readonly DnsQuery[];
  readonly seen: readonly Seen[];
  readonly atHost: readonly string[];
  readonly atNeighbour: readonly string[];
  readonly atAgent: readonly string[];
};

/** Where a battery runs: something that executes a shell script in a container and knows what is beside it. */
export type Place = {
  /** Everything the script printed, both streams. */
  readonly run: (script: string) => Promise<string>;
  readonly variables: Readonly<Record<string, string>>;
  /** What reached the listeners since the last call. */
  readonly heard: () => Promise<Pick<Arrivals, 'atHost' | 'atNeighbour' | 'atAgent'>>;
};

const ATTEMPT_SECONDS_MAX = 5;
/** What must arrive gets the time that a busy machine takes to start a program. */
const GRANTED_SECONDS_MAX = 20;
/** So many at a time; each has its own destination, so they do not disturb each other's verdict. */
const ATTEMPTS_AT_ONCE = 64;
const LINES_MAX = 40;

type Draft = Pick<Attack, 'id' | 'attempt' | 'through'> & Partial<Attack>;

/** One attack, with what most have in common filled in. */
export function attack(draft: Draft): Attack {
  return { blunt: null, rootOnly: false, apart: false, ...draft };
}

const shown = (packet: Packet): string => `${packet.protocol} ${packet.destination}:${packet.destinationPort}`;
const once = (texts: readonly string[]): readonly string[] => [...new Set(texts)].toSorted();

/** Packets for an address arrived, whatever they are. */
export function packetsFor(address: string, matches: (packet: Packet) => boolean = () => true): Attack['through'] {
  return ({ packets }) =>
    once(packets.filter((packet) => packet.destination === address && matches(packet)).map((packet) => shown(packet)));
}

/** A resolver out there heard a question about a name, or about anything below it. */
export function questionsAbout(name: string): Attack['through'] {
  const wanted = name.toLowerCase();
  return ({ queries }) =>
    once(
      queries
        .filter((query) => query.name === wanted || query.name.endsWith(`.${wanted}`))
        .map((query) => `${query.type} ${query.name}`),
    );
}

/** A listener of the host heard it. */
export function heardAtHost(matches: RegExp): Attack['through'] {
  return ({ atHost }) => once(atHost.filter((line) => matches.test(line)));
}

export function heardAtNeighbour(token: string): Attack['through'] {
  return ({ atNeighbour }) => once(atNeighbour.filter((line) => line.includes(token)));
}

/** Runs a battery in a place and gives what got through, by attack; fails when an attempt did not run. */
export async function runBattery(place: Place, attacks: readonly Attack[]): Promise<Battery> {
  const since = await mark();
  await place.heard();
  const output = await place.run(scriptOf(attacks, place.variables));
  const arrivals = await arrivalsSince(since, place);
  expect(notRun(attacks, output)).toEqual([]);
  return {
    arrivals,
    output,
    through: Object.fromEntries(attacks.map((each) => [each.id, each.through(arrivals)])),
  };
}

export type Battery = {
  readonly arrivals: Arrivals;
  readonly output: string;
  readonly through: Readonly<Record<string, readonly string[]>>;
};

async function arrivalsSince(since: Mark, place: Place): Promise<Arrivals> {
  const [packets, queries, seen] = [
    await packetsArrived({ since }),
    await dnsQueriesSeen({ since }),
    await observed({ since }),
  ];
  return { packets, queries, seen, ...(await place.heard()) };
}

const TOOLS = ['curl', 'dig', 'openssl', 'ssh', 'ping', 'socat', 'nc', 'python3', 'busybox', 'hping3', 'dns2tcpc'];

/** Each attempt stands between its markers; a tool that is not there is said before anything begins. */
export function scriptOf(attacks: readonly Attack[], variables: Readonly<Record<string, string>>): string {
  const exports = Object.entries(variables).map(([name, value]) => `export ${name}='${value}'`);
  const together = attacks.filter(({ apart }) => !apart);
  const groups = Array.from({ length: Math.ceil(together.length / ATTEMPTS_AT_ONCE) }, (_, index) =>
    together.slice(index * ATTEMPTS_AT_ONCE, (index + 1) * ATTEMPTS_AT_ONCE),
  );
  const alone = attacks.filter(({ apart }) => apart).map((each) => [each]);
  return [
    ...exports,
    `for tool in ${TOOLS.join(' ')}; do command -v $tool >/dev/null || echo "no tool $tool"; done`,
    'cd "$(mktemp -d)" || exit',
    ...[...groups, ...alone].map((group) =>
      [...group.map((each) => lineOf(each)), 'wait', 'cat out.*', 'rm out.*'].join('\n'),
    ),
    'echo battery is over',
  ].join('\n');
}

/** What it prints goes through a file, since lines that are written at the same time would tear each other. */
function lineOf({ id, attempt }: Attack): string {
  return `(
echo 'attempt ${id} begins'
timeout -k 1 ${id.startsWith('granted-') ? GRANTED_SECONDS_MAX : ATTEMPT_SECONDS_MAX} sh -c ${quoted(`${HELPER}${attempt}`)} </dev/null 2>&1 | tail -n ${LINES_MAX} | sed 's/^/${id}: /'
echo 'attempt ${id} is over'
) >out.${id} &`;
}

/** What no packaged tool sends. */
const HELPER = 'raw() { python3 /agent/attack.py "$@"; }; ';
const quoted = (text: string): string => `'${text.replaceAll(`'`, `'\\''`)}'`;

// A program that is missing, or that may not be executed, says so in these words, whatever shell it is.
const MISSING = /(?:: not found$|can't open file|^no tool |Traceback)/;

/** Attempts that were not made: a verdict on them would be worth nothing. */
export function notRun(attacks: readonly Attack[], output: string): readonly string[] {
  const lines = output.split('\n');
  const marked = new Set(lines);
  return [
    ...attacks
      .filter(({ id }) => !marked.has(`attempt ${id} begins`) || !marked.has(`attempt ${id} is over`))
      .map(({ id }) => `${id} did not run to its end`),
    ...(marked.has('battery is over') ? [] : [`the battery did not end: ${output.slice(-500)}`]),
    ...lines.filter((line) => MISSING.test(line)),
  ];
}

/** What arrived without being on a road that is granted: nothing may, whichever attack it came from. */
export function unexplained(arrivals: Arrivals, granted: ReadonlySet<string>): readonly string[] {
  return once(arrivals.packets.map((packet) => shown(packet)).filter((text) => !granted.has(text)));
}

/** The attacks that got through and what of them did; empty is what a fenced place must give. */
export function gotThrough(attacks: readonly Attack[], through: Readonly<Record<string, readonly string[]>>): unknown {
  return Object.fromEntries(
    attacks.map(({ id }) => [id, through[id] ?? []] as const).filter(([, what]) => what.length > 0),
  );
}

/** What an attempt printed, for a failing test. */
export function outputOf(id: string, output: string): string {
  return [id, ...output.split('\n').filter((line) => line.startsWith(`${id}: `))].join('\n');
}
