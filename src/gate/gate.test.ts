import { decode, encode } from 'dns-packet';
import { expect, test } from 'vitest';
import type { FenceDenial } from '../core/ports/fence.ts';
import type { IpsetEntry, IpsetExtras } from '../kernel/ipset.ts';
import { NEVER_RANGES } from '../policy/egress.ts';
import { DenialFeed } from './denials.ts';
import { createGate } from './gate.ts';
import {
  OPEN_ENTRIES_MAX,
  PENDING_MAX,
  QUERIES_BURST_MAX,
  QUERY_BYTES_PER_MINUTE_MAX,
  RunLimits,
  WILDCARD_NAMES_PER_MINUTE_MAX,
} from './limits.ts';
import type { Resolution } from './upstream.ts';

const AGENT = '10.213.0.2';
const HTTPS = [{ port: 443, protocol: 'tcp' }] as const;
const NAMES = [
  { name: 'good.test', wildcard: false, ports: HTTPS, text: 'good.test' },
  { name: 'wild.test', wildcard: true, ports: HTTPS, text: '*.wild.test' },
];
const FOUND: Resolution = { kind: 'addresses', finalName: 'x', addresses: ['198.51.100.10'], ttlSeconds: 30 };

type Options = {
  readonly resolve?: (name: string) => Promise<Resolution>;
  readonly add?: (set: string, entry: IpsetEntry, extras?: IpsetExtras) => void;
};

function makeGate(options: Options = {}) {
  const clock = { nowMs: 1_000_000 };
  const added: unknown[] = [];
  const denials: FenceDenial[] = [];
  const asked: string[] = [];
  const feed = new DenialFeed({ send: (denial) => denials.push(denial) > 0, now: () => clock.nowMs });
  const gate = createGate({
    config: { pool: '10.213.0.0/16', neverRanges: NEVER_RANGES },
    ipset: { add: options.add ?? ((...entry) => void added.push(entry)) },
    resolve: async (name) => {
      asked.push(name);
      return (await options.resolve?.(name)) ?? FOUND;
    },
    denials: feed,
    now: () => clock.nowMs,
  });
  gate.grant({ address: AGENT, names: NAMES });
  const ask = async (name: string, source = AGENT): Promise<string> => {
    const query = encode({ type: 'query', id: 1, flags: 256, questions: [{ type: 'A', name }] });
    const answer = await gate.handle(source, query, 'udp');
    if (answer === null) return 'silence';
    const packet = decode(answer) as ReturnType<typeof decode> & { readonly rcode?: string };
    return [
      packet.rcode,
      ...(packet.answers ?? []).flatMap((record) => (record.type === 'A' ? [record.data] : [])),
    ].join(' ');
  };
  return { gate, ask, added, denials, asked, clock, feed };
}

test('opens the address for as long as it may be used, then answers', async () => {
  const { ask, added, asked } = makeGate();
  expect(await ask('good.test')).toBe('NOERROR 198.51.100.10');
  const entry = { kind: 'ip,port,ip', source: AGENT, port: 443, protocol: 'tcp', destination: '198.51.100.10' };
  expect(added).toEqual([['rf-learned', entry, { timeoutSeconds: 90 }]]);
  // A second answer comes from the cache and renews the entry.
  expect(await ask('good.test')).toBe('NOERROR 198.51.100.10');
  expect([added.length, asked]).toEqual([2, ['good.test']]);
});

test('gives no answer when the kernel did not take the entry', async () => {
  const { ask } = makeGate({
    add: () => {
      throw new Error('the set is full');
    },
  });
  expect(await ask('good.test')).toBe('SERVFAIL');
});

test('is silent to whom it does not know', async () => {
  const { ask, gate, asked } = makeGate();
  expect(await ask('good.test', '10.213.0.6')).toBe('silence');
  expect([gate.stats().unknownSource, asked]).toEqual([1, []]);
});

test('opens nothing for a run that was revoked while its question waited', async () => {
  let release: (resolution: Resolution) => void = () => undefined;
  const { ask, gate, added } = makeGate({ resolve: () => new Promise((resolve) => (release = resolve)) });
  const waiting = ask('good.test');
  gate.revoke(AGENT);
  // The address is given to the next run at once: it must not inherit the answer either.
  gate.grant({ address: AGENT, names: [] });
  release(FOUND);
  expect(await waiting).toBe('silence');
  expect(added).toEqual([]);
});

test.each([
  ['only a private address', ['10.0.0.1'], 'NXDOMAIN', 1],
  ['metadata', ['169.254.169.254'], 'NXDOMAIN', 1],
  ['another run', ['10.213.0.6'], 'NXDOMAIN', 1],
  ['a private and a public address', ['10.0.0.1', '198.51.100.10'], 'NOERROR 198.51.100.10', 0],
  ['no address', [], 'NOERROR', 0],
  ['text in the place of an address', ['not an address'], 'NXDOMAIN', 1],
])('of %s gives what a name may lead to', async (_, addresses, answer, denialCount) => {
  const { ask, denials, added } = makeGate({ resolve: () => Promise.resolve({ ...FOUND, addresses }) });
  expect(await ask('good.test')).toBe(answer);
  expect([denials.length, denials[0]?.denial.rule]).toEqual([
    denialCount,
    denialCount === 0 ? undefined : 'egress.never',
  ]);
  expect(added).toHaveLength(answer.endsWith('10') ? 1 : 0);
});

test('does not keep a failure, and keeps an absence for a moment', async () => {
  let resolution: Resolution = { kind: 'failed', why: 'no upstream' };
  const { ask, asked, clock } = makeGate({ resolve: () => Promise.resolve(resolution) });
  expect(await ask('good.test')).toBe('SERVFAIL');
  resolution = { kind: 'no-such-name', ttlSeconds: 5 };
  expect([await ask('good.test'), await ask('good.test')]).toEqual(['NXDOMAIN', 'NXDOMAIN']);
  expect(asked).toHaveLength(2);
  resolution = FOUND;
  clock.nowMs += 5_001;
  expect(await ask('good.test')).toBe('NOERROR 198.51.100.10');
});

test('counts one attempt once: the repeats of a resolver are not more denials', async () => {
  const { ask, denials, clock } = makeGate();
  for (let repeat = 0; repeat < 4; repeat += 1) expect(await ask('other.test')).toBe('REFUSED');
  expect(denials.map(({ address, denial }) => [address, denial.kind, denial.rule, denial.destination])).toEqual([
    [AGENT, 'name', 'egress', 'other.test'],
  ]);
  clock.nowMs += 2_001;
  await ask('other.test');
  await ask('another.test');
  expect(denials).toHaveLength(3);
});

test('tells a flood of names as a number, also when it has ended', async () => {
  const { ask, denials, clock, feed } = makeGate();
  for (let name = 0; name < 250; name += 1) await ask(`n${name}.other.test`);
  expect(denials).toHaveLength(100);
  clock.nowMs += 1_000;
  feed.flush();
  expect(denials.reduce((sum, { suppressed }) => sum + 1 + suppressed, 0)).toBe(250);
});

test('stops a channel of names under a wildcard, but not a name asked again', async () => {
  const { ask, asked, denials, clock } = makeGate();
  const answers = [];
  for (let name = 0; name <= WILDCARD_NAMES_PER_MINUTE_MAX; name += 1) answers.push(await ask(`n${name}.wild.test`));
  expect(answers.indexOf('REFUSED')).toBe(WILDCARD_NAMES_PER_MINUTE_MAX);
  expect(asked).toHaveLength(WILDCARD_NAMES_PER_MINUTE_MAX);
  expect(denials[0]?.denial.rule).toBe('dns.rate');
  expect(await ask('n0.wild.test')).toMatch('NOERROR');
  clock.nowMs += 60_001;
  expect(await ask('fresh.wild.test')).toMatch('NOERROR');
  const long = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(60)}`;
  let sent = 0;
  while ((await ask(`x${sent}.${long}.wild.test`)) !== 'REFUSED') sent += 1;
  expect(sent).toBeLessThan(11);
});

test('lets a run wait for so many answers and no more', async () => {
  const { ask } = makeGate({ resolve: () => new Promise(() => undefined) });
  const waiting = Array.from({ length: PENDING_MAX }, (_, index) => ask(`p${index}.wild.test`));
  expect(await ask('good.test')).toBe('SERVFAIL');
  expect(waiting).toHaveLength(PENDING_MAX);
});

test('bounds the rate and the bytes of queries, and what is open', () => {
  const limits = new RunLimits(0);
  const burst = Array.from({ length: QUERIES_BURST_MAX + 1 }, () => limits.takeQuery(0, 40));
  expect([burst.lastIndexOf(true), burst.at(-1)]).toEqual([QUERIES_BURST_MAX - 1, false]);
  expect(limits.takeQuery(1_000, 40)).toBe(true);
  expect(limits.takeQuery(2_000, QUERY_BYTES_PER_MINUTE_MAX)).toBe(false);
  const keys = Array.from({ length: OPEN_ENTRIES_MAX }, (_, index) => String(index));
  expect(limits.takeEntries(0, keys, 90_000)).toBe(true);
  expect(limits.takeEntries(1_000, ['new'], 90_000)).toBe(false);
  expect(limits.takeEntries(1_000, ['0'], 91_000)).toBe(true);
  expect(limits.takeEntries(90_001, ['new'], 180_000)).toBe(true);
});
