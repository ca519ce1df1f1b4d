import { expect, test } from 'vitest';
import { FENCE_SETS } from '../core/fence-names.ts';
import { AGENT, FOUND, makeGate, named } from './testing.ts';

const BEFORE = [named('good.test:443,22'), named('gone.test'), named('shared.test'), named('?later.test')];
const ADDRESSES: Readonly<Record<string, string>> = {
  'good.test': '198.51.100.10',
  'gone.test': '198.51.100.20',
  // Two names behind one address, as at a content network.
  'shared.test': '198.51.100.20',
  'later.test': '198.51.100.30',
};
const LATER = {
  kind: 'name',
  name: 'later.test',
  ports: [{ port: 443, protocol: 'tcp' }],
  rule: 'later.test',
} as const;

async function setUp() {
  const resolve = (name: string) => Promise.resolve({ ...FOUND, addresses: [ADDRESSES[name] ?? '198.51.100.99'] });
  const made = makeGate({ names: BEFORE, resolve });
  made.gate.decide(AGENT, LATER, { forMs: 60_000 });
  for (const name of ['good.test', 'gone.test', 'later.test']) {
    await made.ask(name);
    await made.check(name);
  }
  const change = (...lines: ReturnType<typeof named>[]): void => made.gate.change({ address: AGENT, names: lines });
  return { ...made, change };
}

test('takes away what the new names do not list, and closes what showed it', async () => {
  const { sets, closed, change, ask } = await setUp();
  expect(Object.keys(sets.open())).toHaveLength(4);
  change(named('good.test:443'), named('new.test'), named('?later.test'));
  expect(sets.open()).toEqual({ 'checked 198.51.100.10:443': 90, 'checked 198.51.100.30:443': 60 });
  expect(closed).toEqual([{ source: AGENT, names: ['gone.test'] }]);
  expect([await ask('gone.test'), await ask('new.test')]).toEqual(['REFUSED', 'NOERROR 198.51.100.99']);
});

test('leaves everything alone when nothing gets narrower', async () => {
  const { sets, closed, change, ask, asked } = await setUp();
  const before = [sets.open(), sets.changes, [...asked]];
  change(...BEFORE, named('new.test'));
  expect([sets.open(), sets.changes, asked, closed]).toEqual([...before, []]);
  expect(await ask('new.test')).toMatch('NOERROR');
});

test('keeps an address that another name still needs, as long as that one needs it', async () => {
  const { sets, change, ask, pass } = await setUp();
  pass(30_000);
  await ask('shared.test');
  pass(31_000);
  await ask('gone.test');
  expect(sets.open()).toMatchObject({ 'checked 198.51.100.20:443': 90 });
  change(named('shared.test'));
  expect(sets.open()).toEqual({ 'checked 198.51.100.20:443': 59 });
  change();
  expect(sets.open()).toEqual({});
});

test('does not shorten what one name needs because another needs it for less', async () => {
  const { gate, sets, ask } = makeGate({ names: [named('good.test'), named('?later.test')] });
  await ask('good.test');
  gate.decide(AGENT, LATER, { forMs: 10_000 });
  await ask('later.test');
  expect(sets.open()).toEqual({ 'checked 198.51.100.10:443': 90 });
});

test('moves a port that gets a check, and closes what is inspected from now on', async () => {
  const { sets, closed, change, ask } = await setUp();
  const checked = [{ port: 22, protocol: 'tcp', check: 'tls' }] as const;
  change(named('good.test', { ports: checked }), named('gone.test', { inspect: true }), named('?later.test'));
  expect(Object.keys(sets.open())).toEqual(['checked 198.51.100.20:443', 'checked 198.51.100.30:443']);
  expect(closed).toEqual([{ source: AGENT, names: ['good.test', 'gone.test'] }]);
  await ask('good.test');
  expect(sets.open()).toMatchObject({ 'checked 198.51.100.10:22': 90 });
});

test('forgets an approval with the rule that asked for it', async () => {
  const { sets, closed, change, ask, requests } = await setUp();
  change(named('good.test:443,22'), named('gone.test'));
  expect(Object.keys(sets.open())).not.toContain('checked 198.51.100.30:443');
  expect(closed).toEqual([{ source: AGENT, names: ['later.test'] }]);
  change(named('?later.test'));
  void ask('later.test');
  await new Promise((resolve) => setImmediate(resolve));
  expect(requests).toHaveLength(1);
});

test('lets those who wait look at the new rules', async () => {
  const { gate, ask, requests } = makeGate({ names: [named('?a.test'), named('?b.test'), named('?c.test')] });
  const waiting = [ask('a.test'), ask('b.test')];
  await new Promise((resolve) => setImmediate(resolve));
  gate.change({ address: AGENT, names: [named('a.test'), named('?c.test')] });
  expect(await Promise.all(waiting)).toEqual(['NOERROR 198.51.100.10', 'REFUSED']);
  expect(requests.map(({ name }) => name)).toEqual(['a.test', 'b.test']);
});

test('opens nothing by old rules for a question that waited for the upstream', async () => {
  let release = (): void => undefined;
  const { gate, ask, sets } = makeGate({ resolve: () => new Promise((resolve) => (release = () => resolve(FOUND))) });
  const question = ask('good.test');
  gate.change({ address: AGENT, names: [named('other.test')] });
  release();
  expect([await question, sets.changes]).toEqual(['SERVFAIL', 0]);
});

test('takes away what an earlier gate left in the kernel, and nothing of another run', async () => {
  const { sets, change } = await setUp();
  const left = { kind: 'ip,port,ip', source: AGENT, port: 22, protocol: 'tcp', destination: '198.51.100.77' } as const;
  sets.add(FENCE_SETS.learned, left, { timeoutSeconds: 50 });
  sets.add(FENCE_SETS.checked, { ...left, source: '10.213.0.6' }, { timeoutSeconds: 50 });
  change();
  expect(sets.open()).toEqual({ 'checked 10.213.0.6 198.51.100.77:22': 50 });
});

test('says so when the kernel does not let an entry go', async () => {
  const { sets, change } = await setUp();
  sets.failure = new Error('the set is gone');
  expect(() => change()).toThrow('the set is gone');
});
