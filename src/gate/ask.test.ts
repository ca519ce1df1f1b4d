import { expect, test } from 'vitest';
import { HELD_QUESTIONS_MAX, PENDING_NAMES_MAX } from './held.ts';
import { AGENT, FOUND, HOLD_MS, makeGate, named, told } from './testing.ts';
import type { TestGate } from './testing.ts';
import type { NameRequest } from './verdict.ts';

const NAMES = [named('good.test'), named('?later.test:443,22'), named('?*.wide.test')];
const LATER: NameRequest = {
  kind: 'name',
  name: 'later.test',
  ports: [
    { port: 443, protocol: 'tcp' },
    { port: 22, protocol: 'tcp' },
  ],
  rule: 'later.test:443,22',
};
const HOUR_MS = 3_600_000;

const setUp = (more: Parameters<typeof makeGate>[0] = {}): TestGate => makeGate({ names: NAMES, ...more });
const decide = ({ gate }: TestGate, request: NameRequest, forMs: number | null): void =>
  gate.decide(AGENT, request, forMs === null ? null : { forMs });
/** What has an answer by now: nothing here waits for anything but the gate. */
async function settled(question: Promise<string>): Promise<string> {
  await new Promise((resolve) => setImmediate(resolve));
  return await Promise.race([question, Promise.resolve('held')]);
}

test('holds the questions for a name, tells a person once, and answers all when it is approved', async () => {
  const made = setUp();
  const questions = [made.ask('later.test'), made.ask('LATER.test'), made.ask('later.test', { type: 'AAAA' })];
  for (const question of questions) expect(await settled(question)).toBe('held');
  expect([made.requests, made.asked, made.sets.changes, made.denials]).toEqual([[LATER], [], 0, []]);
  decide(made, LATER, HOUR_MS);
  expect(await Promise.all(questions)).toEqual(['NOERROR 198.51.100.10', 'NOERROR 198.51.100.10', 'NOERROR']);
  expect(made.sets.open()).toEqual({ 'checked 198.51.100.10:443': 90, 'learned 198.51.100.10:22': 90 });
  // For that name, until its time is over; not for its neighbours.
  expect(await made.ask('later.test')).toBe('NOERROR 198.51.100.10');
  expect(await made.ask('other.later.test')).toBe('REFUSED');
  expect(made.requests).toHaveLength(1);
});

test('answers so that the client tries again when nobody has decided in time, and asks the person no second time', async () => {
  const made = setUp();
  const first = made.ask('later.test');
  await settled(first);
  made.pass(HOLD_MS - 1);
  const second = made.ask('later.test');
  expect(await settled(first)).toBe('held');
  made.pass(1);
  // The second one came while the first was held and waits no longer than it.
  expect(await Promise.all([first, second])).toEqual(['SERVFAIL', 'SERVFAIL']);
  expect(made.denials).toEqual([]);
  const third = made.ask('later.test');
  expect(await settled(third)).toBe('held');
  expect(made.requests).toHaveLength(1);
  decide(made, LATER, HOUR_MS);
  expect(await third).toMatch('NOERROR');
});

test('refuses what a person denied, now and later, with a denial each', async () => {
  const made = setUp();
  const held = [made.ask('later.test'), made.ask('later.test', { type: 'AAAA' })];
  await settled(held[0] ?? Promise.resolve(''));
  decide(made, LATER, null);
  expect(await Promise.all(held)).toEqual(['REFUSED', 'REFUSED']);
  expect(told(made.denials)).toEqual(['egress later.test:53/dns']);
  made.pass(60_000);
  expect(await made.ask('later.test')).toBe('REFUSED');
  expect([told(made.denials).length, made.requests.length, made.asked]).toEqual([2, 1, []]);
});

test('asks again when the time of an approval is over, and lets nothing outlive it', async () => {
  const made = setUp();
  decide(made, LATER, 20_000);
  expect(await made.ask('later.test')).toMatch('NOERROR');
  expect(made.sets.open()).toEqual({ 'checked 198.51.100.10:443': 20, 'learned 198.51.100.10:22': 20 });
  expect((await made.check('later.test')).kind).toBe('open');
  made.pass(18_500);
  expect([await made.ask('later.test'), made.closed]).toEqual(['NOERROR 198.51.100.10', []]);
  expect(Math.max(...Object.values(made.sets.open()))).toBe(1);
  // Less than a second is left: a time-out of 0 would be for ever.
  made.pass(501);
  expect(made.closed).toEqual([{ source: AGENT, names: ['later.test'] }]);
  expect(await settled(made.ask('later.test'))).toBe('held');
  expect(made.requests).toEqual([LATER]);
});

test('leads nowhere that no name may lead, whoever approved it', async () => {
  const made = setUp({ resolve: () => Promise.resolve({ ...FOUND, addresses: ['169.254.169.254'] }) });
  decide(made, LATER, HOUR_MS);
  expect(await made.ask('later.test')).toBe('NXDOMAIN');
  expect((await made.check('later.test')).kind).toBe('refuse');
  expect([made.sets.changes, told(made.denials)]).toEqual([
    0,
    ['egress.never later.test:53/dns', 'egress.never later.test:443/tcp'],
  ]);
});

test('asks about so many names at a time, as an agent chooses them under a wildcard', async () => {
  const made = setUp();
  const held = Array.from({ length: PENDING_NAMES_MAX }, (_, index) => made.ask(`n${index}.wide.test`));
  expect(await made.ask('one-more.wide.test')).toBe('REFUSED');
  expect(made.denials.map(({ denial }) => denial.explanation)).toEqual(['too many requests wait for a person']);
  expect(made.requests).toHaveLength(PENDING_NAMES_MAX);
  // What is listed goes on as ever, and a decision makes room.
  expect(await made.ask('good.test')).toMatch('NOERROR');
  const [first] = made.requests;
  if (first !== undefined) decide(made, first, null);
  expect(await held[0]).toBe('REFUSED');
  expect(await settled(made.ask('one-more.wide.test'))).toBe('held');
});

test('holds so many questions of a run, and tells the others at once to come back', async () => {
  const made = setUp();
  const held = Array.from({ length: HELD_QUESTIONS_MAX }, () => made.ask('later.test'));
  await settled(held[0] ?? Promise.resolve(''));
  expect(await made.ask('later.test')).toBe('SERVFAIL');
  made.pass(HOLD_MS);
  expect(new Set(await Promise.all(held))).toEqual(new Set(['SERVFAIL']));
});

test('holds nothing when the operator has no patience', async () => {
  const made = setUp({ holdMs: 0 });
  expect([await made.ask('later.test'), made.requests]).toEqual(['SERVFAIL', [LATER]]);
});

test('holds a connection like a question, and opens it with the same decision', async () => {
  const made = setUp();
  const connection = made.check('Later.test');
  const question = made.ask('later.test');
  expect(await settled(question)).toBe('held');
  made.pass(HOLD_MS);
  expect(await connection).toMatchObject({
    kind: 'refuse',
    explanation: '"later.test" waits for a person: approve with `ringfence approve`',
  });
  expect([await question, made.denials, made.requests]).toEqual(['SERVFAIL', [], [LATER]]);
  const again = made.check('later.test');
  decide(made, LATER, HOUR_MS);
  expect(await again).toMatchObject({ kind: 'open', name: 'later.test', addresses: ['198.51.100.10'] });
});

test('opens the ports that the person saw, and no other', async () => {
  const made = setUp();
  decide(made, { ...LATER, ports: [{ port: 443, protocol: 'tcp' }] }, HOUR_MS);
  await made.ask('later.test');
  expect(Object.keys(made.sets.open())).toEqual(['checked 198.51.100.10:443']);
  // A name that no rule asks about is not opened by a decision.
  for (const name of ['other.test', 'wide.test']) {
    decide(made, { ...LATER, name }, HOUR_MS);
    expect(await made.ask(name)).toBe('REFUSED');
  }
});

test('takes an approval back', async () => {
  const made = setUp();
  decide(made, LATER, HOUR_MS);
  await made.ask('later.test');
  decide(made, LATER, null);
  expect([made.sets.open(), made.closed]).toEqual([{}, [{ source: AGENT, names: ['later.test'] }]]);
  expect(await made.ask('later.test')).toBe('REFUSED');
});

test('is silent to whom waits when the run is over', async () => {
  const made = setUp();
  const question = made.ask('later.test');
  const connection = made.check('later.test');
  await settled(question);
  made.gate.revoke(AGENT);
  expect(await question).toBe('silence');
  expect(await connection).toMatchObject({ kind: 'refuse' });
  made.gate.grant({ address: AGENT, names: NAMES });
  expect(await settled(made.ask('later.test'))).toBe('held');
  expect(made.sets.changes).toBe(0);
});

test('asks about a port that only ask gives to a listed name when the checker sees a connection', async () => {
  const made = setUp({ names: [named('both.test:443'), named('?both.test:80,22')] });
  expect(await made.ask('both.test')).toMatch('NOERROR');
  const open = ['checked 198.51.100.10:443', 'checked 198.51.100.10:80'];
  expect([Object.keys(made.sets.open()).toSorted(), made.requests]).toEqual([open, []]);
  const connection = made.check('both.test', { port: 80, protocol: 'http' });
  await new Promise((resolve) => setImmediate(resolve));
  const [request] = made.requests;
  if (request === undefined) throw new Error('nobody was asked');
  decide(made, request, HOUR_MS);
  expect((await connection).kind).toBe('open');
  await made.ask('both.test');
  expect(Object.keys(made.sets.open()).toSorted()).toEqual([...open, 'learned 198.51.100.10:22']);
});
