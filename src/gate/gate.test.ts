import { expect, test } from 'vitest';
import {
  PENDING_MAX,
  QUERIES_BURST_MAX,
  QUERY_BYTES_PER_MINUTE_MAX,
  RunLimits,
  WILDCARD_LABEL_CHARS_MAX,
  WILDCARD_NAMES_PER_MINUTE_MAX,
} from './limits.ts';
import { AGENT, FOUND, makeGate, named } from './testing.ts';
import type { Resolution } from './upstream.ts';

test('opens the address for as long as it may be used, then answers', async () => {
  const { ask, sets, asked } = makeGate();
  expect(await ask('good.test')).toBe('NOERROR 198.51.100.10');
  expect(sets.open()).toEqual({ 'checked 198.51.100.10:443': 90 });
  // A second answer comes from the cache and renews the entry.
  expect(await ask('good.test')).toBe('NOERROR 198.51.100.10');
  expect([sets.changes, asked]).toEqual([2, ['good.test']]);
});

test('leads what must show its name to the checker, and nothing else', async () => {
  const names = [named('good.test:443,80,22'), named('both.test:443'), named('both.test:443', { ports: UNCHECKED })];
  const { ask, sets } = makeGate({ names });
  await ask('good.test');
  expect(Object.keys(sets.open()).toSorted()).toEqual([
    'checked 198.51.100.10:443',
    'checked 198.51.100.10:80',
    'learned 198.51.100.10:22',
  ]);
  sets.entries.clear();
  // Two rules for one port: the wider one counts.
  await ask('both.test');
  expect(Object.keys(sets.open())).toEqual(['learned 198.51.100.10:443']);
});

const UNCHECKED = [{ port: 443, protocol: 'tcp', check: null }] as const;

test('gives no answer when the kernel did not take the entry', async () => {
  const { ask, sets } = makeGate();
  sets.failure = new Error('the set is full');
  expect(await ask('good.test')).toBe('SERVFAIL');
});

test('is silent to whom it does not know', async () => {
  const { ask, gate, asked } = makeGate();
  expect(await ask('good.test', { source: '10.213.0.6' })).toBe('silence');
  expect([gate.stats().unknownSource, asked]).toEqual([1, []]);
});

test('opens nothing for a run that was revoked while its question waited', async () => {
  let release: (resolution: Resolution) => void = () => undefined;
  const { ask, gate, sets } = makeGate({ resolve: () => new Promise((resolve) => (release = resolve)) });
  const waiting = ask('good.test');
  gate.revoke(AGENT);
  // The address is given to the next run at once: it must not inherit the answer either.
  gate.grant({ address: AGENT, names: [] });
  release(FOUND);
  expect(await waiting).toBe('silence');
  expect(sets.changes).toBe(0);
});

test.each([
  ['only a private address', ['10.0.0.1'], 'NXDOMAIN', 1],
  ['metadata', ['169.254.169.254'], 'NXDOMAIN', 1],
  ['another run', ['10.213.0.6'], 'NXDOMAIN', 1],
  ['the host', ['192.0.2.2'], 'NXDOMAIN', 1],
  ['a private and a public address', ['10.0.0.1', '198.51.100.10'], 'NOERROR 198.51.100.10', 0],
  ['no address', [], 'NOERROR', 0],
  ['text in the place of an address', ['not an address'], 'NXDOMAIN', 1],
])('of %s gives what a name may lead to', async (_, addresses, answer, denialCount) => {
  const { ask, denials, sets } = makeGate({ resolve: () => Promise.resolve({ ...FOUND, addresses }) });
  expect(await ask('good.test')).toBe(answer);
  expect([denials.length, denials[0]?.denial.rule]).toEqual([
    denialCount,
    denialCount === 0 ? undefined : 'egress.never',
  ]);
  expect(sets.changes).toBe(answer.endsWith('10') ? 1 : 0);
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
  for (const type of ['A', 'AAAA', 'A', 'AAAA', 'UNKNOWN_65']) {
    expect(await ask('other.test', { type })).toBe('REFUSED');
    clock.nowMs += 900;
  }
  expect(denials.map(({ address, denial }) => [address, denial.kind, denial.rule, denial.destination])).toEqual([
    [AGENT, 'name', 'egress', 'other.test'],
  ]);
  clock.nowMs += 5_001;
  await ask('other.test');
  await ask('another.test');
  expect(denials.map(({ denial, suppressed }) => [denial.destination, suppressed])).toEqual([
    ['other.test', 0],
    ['other.test', 0],
    ['another.test', 0],
  ]);
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
  const long = `${'a'.repeat(45)}.${'b'.repeat(45)}.${'c'.repeat(45)}.${'d'.repeat(45)}`;
  let sent = 0;
  while ((await ask(`x${sent}.${long}.wild.test`)) !== 'REFUSED') sent += 1;
  expect(sent).toBeLessThan(11);
});

test('sends no long label under a wildcard upstream, where data would hide', async () => {
  const { ask, asked, denials } = makeGate();
  expect(await ask(`a.${'x'.repeat(WILDCARD_LABEL_CHARS_MAX)}.wild.test`)).toMatch('NOERROR');
  expect(await ask(`a.${'x'.repeat(WILDCARD_LABEL_CHARS_MAX + 1)}.wild.test`)).toBe('REFUSED');
  expect(asked).toHaveLength(1);
  expect(denials[0]?.denial.explanation).toBe('a label under "*.wild.test" is longer than 48 characters');
});

test('lets a run wait for so many answers and no more', async () => {
  const { ask } = makeGate({ resolve: () => new Promise(() => undefined) });
  const waiting = Array.from({ length: PENDING_MAX }, (_, index) => ask(`p${index}.wild.test`));
  expect(await ask('good.test')).toBe('SERVFAIL');
  expect(waiting).toHaveLength(PENDING_MAX);
});

test('bounds the rate and the bytes of queries', () => {
  const limits = new RunLimits(0);
  const burst = Array.from({ length: QUERIES_BURST_MAX + 1 }, () => limits.takeQuery(0, 40));
  expect([burst.lastIndexOf(true), burst.at(-1)]).toEqual([QUERIES_BURST_MAX - 1, false]);
  expect(limits.takeQuery(1_000, 40)).toBe(true);
  expect(limits.takeQuery(2_000, QUERY_BYTES_PER_MINUTE_MAX)).toBe(false);
});
