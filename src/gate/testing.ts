import { decode, encode } from 'dns-packet';
import type { CheckQuestion, CheckVerdict } from '../checker/messages.ts';
import type { NameResolved } from '../core/ports/warden.ts';
import type { FenceDenial, FenceName } from '../core/ports/fence.ts';
import type { IpsetEntry, IpsetMember } from '../kernel/ipset.ts';
import { NEVER_RANGES } from '../policy/egress.ts';
import { DenialFeed } from './denials.ts';
import { createGate } from './gate.ts';
import type { Gate } from './gate.ts';
import type { Resolution } from './upstream.ts';
import type { NameRequest } from './verdict.ts';

/** A gate whose kernel, clock and upstream are in the hands of the test. */
export const AGENT = '10.213.0.2';
/** An address of the host that is in no never-range. */
const HOST = '192.0.2.2';
export const HOLD_MS = 8_000;
export const FOUND: Resolution = {
  kind: 'addresses',
  finalName: 'x',
  addresses: ['198.51.100.10'],
  ttlSeconds: 30,
};

/** `good.test`, `*.wild.test:8443`, `?later.test:443,22`: as a profile writes them, `?` for a line of `ask`. */
export function named(line: string, more: Partial<FenceName> = {}): FenceName {
  const ask = line.startsWith('?');
  const text = ask ? line.slice(1) : line;
  const [host = '', ports = '443'] = text.split(':');
  const wildcard = host.startsWith('*.');
  return {
    name: wildcard ? host.slice(2) : host,
    wildcard,
    ports: ports.split(',').map((port) => ({
      port: Number(port),
      protocol: 'tcp' as const,
      check: port === '443' ? ('tls' as const) : port === '80' ? ('http' as const) : null,
    })),
    text,
    ask,
    inspect: false,
    requests: [],
    ...more,
  };
}

/** Entries as `learned 198.51.100.10:22`, with the seconds that the kernel was told. */
export class FakeSets {
  readonly entries = new Map<string, { readonly set: string; readonly entry: IpsetEntry; readonly seconds: number }>();
  changes = 0;
  failure: Error | null = null;

  add(set: string, entry: IpsetEntry, extras: { readonly timeoutSeconds?: number } = {}): void {
    if (this.failure !== null) throw this.failure;
    const seconds = extras.timeoutSeconds ?? 0;
    // To the kernel no time-out is an entry without an end, which nothing here may make.
    if (!Number.isInteger(seconds) || seconds < 1) throw new Error(`a time-out of ${seconds}`);
    this.changes += 1;
    this.entries.set(this.#keyOf(set, entry), { set, entry, seconds });
  }

  remove(set: string, entry: IpsetEntry): void {
    if (this.failure !== null) throw this.failure;
    this.changes += 1;
    this.entries.delete(this.#keyOf(set, entry));
  }

  list(set: string): IpsetMember[] {
    return [...this.entries.values()]
      .filter((member) => member.set === set)
      .map(({ entry, seconds }) => ({ entry, timeoutSeconds: seconds, bytes: null, packets: null }));
  }

  open(): Record<string, number> {
    return Object.fromEntries([...this.entries].map(([key, { seconds }]) => [key, seconds]));
  }

  #keyOf(set: string, entry: IpsetEntry): string {
    if (entry.kind !== 'ip,port,ip') throw new Error(`an entry of the kind ${entry.kind}`);
    const source = entry.source === AGENT ? '' : `${entry.source} `;
    return `${set.replace('rf-', '')} ${source}${entry.destination}:${entry.port}`;
  }
}

export type TestGate = {
  readonly gate: Gate;
  readonly sets: FakeSets;
  readonly feed: DenialFeed;
  readonly denials: FenceDenial[];
  /** Names that went upstream. */
  readonly asked: string[];
  /** Requests that a person was told. */
  readonly requests: NameRequest[];
  readonly resolved: NameResolved[];
  readonly closed: { readonly source: string; readonly names: readonly string[] | null }[];
  readonly clock: { nowMs: number };
  /** The code and the addresses of the answer. */
  readonly ask: (name: string, options?: { readonly type?: string; readonly source?: string }) => Promise<string>;
  readonly check: (name: string, more?: Partial<CheckQuestion>) => Promise<CheckVerdict>;
  /** Time passes, and the gate looks at what has ended. */
  readonly pass: (ms: number) => void;
};

export type TestGateOptions = {
  readonly resolve?: (name: string) => Promise<Resolution>;
  readonly names?: readonly FenceName[];
  readonly holdMs?: number;
};

export function makeGate(options: TestGateOptions = {}): TestGate {
  const clock = { nowMs: 1_000_000 };
  const sets = new FakeSets();
  const denials: FenceDenial[] = [];
  const asked: string[] = [];
  const requests: NameRequest[] = [];
  const resolved: NameResolved[] = [];
  const closed: TestGate['closed'] = [];
  const feed = new DenialFeed({
    send: (denial) => denials.push(denial) > 0,
    now: () => clock.nowMs,
    utc: () => new Date(clock.nowMs).toISOString(),
  });
  const gate = createGate({
    config: { pool: '10.213.0.0/16', neverRanges: NEVER_RANGES, holdMs: options.holdMs ?? HOLD_MS },
    ipset: sets,
    resolve: async (name) => {
      asked.push(name);
      return (await options.resolve?.(name)) ?? FOUND;
    },
    isHost: (address) => address === HOST,
    denials: feed,
    now: () => clock.nowMs,
    onAsked: (_, request) => requests.push(request),
    onResolved: (line) => resolved.push(line),
    onClose: (source, names) => closed.push({ source, names }),
  });
  gate.grant({ address: AGENT, names: options.names ?? [named('good.test'), named('*.wild.test')] });
  return {
    gate,
    sets,
    feed,
    denials,
    asked,
    requests,
    resolved,
    closed,
    clock,
    ask: async (name, { type = 'A', source = AGENT } = {}) => {
      const query = encode({ type: 'query', id: 1, flags: 256, questions: [{ type: type as 'A', name }] });
      const answer = await gate.handle(source, query, 'udp');
      if (answer === null) return 'silence';
      const packet = decode(answer) as ReturnType<typeof decode> & { readonly rcode?: string };
      const addresses = (packet.answers ?? []).flatMap((record) => (record.type === 'A' ? [record.data] : []));
      return [packet.rcode, ...addresses].join(' ');
    },
    check: (name, more = {}) => gate.check({ source: AGENT, name, port: 443, protocol: 'tls', ...more }),
    pass: (ms) => {
      clock.nowMs += ms;
      gate.sweep();
    },
  };
}

/** One line for each denial: who decided, about what. */
export function told(denials: readonly FenceDenial[]): string[] {
  return denials.map(({ denial }) => `${denial.rule} ${denial.destination}:${denial.port}/${denial.protocol}`);
}
