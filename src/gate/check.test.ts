import { expect, test } from 'vitest';
import { CHECKS_BURST_MAX } from './limits.ts';
import { FOUND, makeGate, named, told } from './testing.ts';

const NAMES = [named('good.test:443,80'), named('*.wild.test'), named('plain.test:8443'), named('good.test:22')];

test('opens a listed name on its port to the addresses that the gate found for it', async () => {
  const { check, asked, denials } = makeGate({ names: NAMES });
  const open = { kind: 'open', name: 'good.test', addresses: ['198.51.100.10'], inspect: false, requests: [] };
  expect(await check('GOOD.test.')).toEqual(open);
  expect(await check('good.test', { port: 80, protocol: 'http' })).toEqual(open);
  expect(await check('a.b.wild.test')).toEqual({ ...open, name: 'a.b.wild.test' });
  // A port without a check lets anything pass, also what shows its name.
  expect(await check('plain.test', { port: 8443 })).toEqual({ ...open, name: 'plain.test' });
  expect([asked, denials]).toEqual([['good.test', 'a.b.wild.test', 'plain.test'], []]);
});

test.each([
  ['another name', 'other.test', {}, '"other.test" is not in egress.allow', 'other.test:443'],
  ['a look-alike', 'evilgood.test', {}, '"evilgood.test" is not in egress.allow', 'evilgood.test:443'],
  ['the apex', 'wild.test', {}, '"wild.test" is not in egress.allow', 'wild.test:443'],
  [
    'TLS on the port of HTTP',
    'good.test',
    { port: 80 },
    '"good.test" is listed, but not for port 80 with TLS',
    'good.test:80',
  ],
  [
    'a listed name on another port',
    'a.wild.test',
    { port: 80, protocol: 'http' as const },
    '"a.wild.test" is listed, but not for port 80 with HTTP',
    'a.wild.test:80',
  ],
  ['an address', '198.51.100.10', {}, 'the name of a connection must be a name, not an address or a part of one', null],
  ['nothing', '', {}, 'the name of a connection must not be empty', null],
  [
    'a NUL',
    'good.test\0.other.test',
    {},
    'the name of a connection must consist of letters, digits, hyphens and dots',
    null,
  ],
])('refuses %s, with a denial and the line to add', async (_, name, question, explanation, line) => {
  const { check, asked, denials } = makeGate({ names: NAMES });
  expect(await check(name, question)).toEqual({ kind: 'refuse', rule: 'check.name', explanation, line });
  expect([asked, denials.length, denials[0]?.denial.rule]).toEqual([[], 1, 'check.name']);
});

test('counts a client that tries every address of a name once', async () => {
  const { check, denials, clock } = makeGate({ names: NAMES });
  for (let address = 0; address < 10; address += 1) {
    await check('other.test');
    clock.nowMs += 400;
  }
  expect(told(denials)).toEqual(['check.name other.test:443/tcp']);
  await check('other.test', { port: 80, protocol: 'http' });
  expect(denials).toHaveLength(2);
});

test('refuses a name that leads where no name may, and keeps what is left of the others', async () => {
  let addresses = ['10.0.0.1', '127.0.0.1', '192.0.2.2'];
  const { check, denials, clock } = makeGate({ names: NAMES, resolve: () => Promise.resolve({ ...FOUND, addresses }) });
  expect(await check('good.test')).toMatchObject({ kind: 'refuse', rule: 'egress.never', line: null });
  expect(told(denials)).toEqual(['egress.never good.test:443/tcp']);
  addresses = ['10.0.0.1', '198.51.100.11'];
  clock.nowMs += 31_000;
  expect(await check('good.test')).toMatchObject({ kind: 'open', addresses: ['198.51.100.11'] });
});

test('blames nobody for a name that does not resolve', async () => {
  for (const resolution of [
    { kind: 'failed', why: 'no upstream resolver answers' },
    { kind: 'no-such-name', ttlSeconds: 5 },
    { ...FOUND, addresses: [] },
  ] as const) {
    const { check, denials } = makeGate({ names: NAMES, resolve: () => Promise.resolve(resolution) });
    expect(await check('good.test')).toMatchObject({ kind: 'refuse', rule: 'check.upstream' });
    expect(denials).toEqual([]);
  }
});

test('says which connections are inspected, and adds up what several rules let pass', async () => {
  const get = { text: 'GET /v1/*', method: 'GET', path: '/v1/', pathPrefix: true };
  const post = { ...get, text: 'POST /v1/*', method: 'POST' };
  const names = [
    named('api.test', { inspect: true, requests: [get] }),
    named('api.test', { inspect: true, requests: [post] }),
    named('whole.test', { inspect: true }),
    named('whole.test', { inspect: true, requests: [get] }),
    named('blind.test', { inspect: true, requests: [get] }),
    named('blind.test'),
  ];
  const { check } = makeGate({ names });
  expect(await check('api.test')).toMatchObject({ inspect: true, requests: [get, post] });
  expect(await check('whole.test')).toMatchObject({ inspect: true, requests: [] });
  expect(await check('blind.test')).toMatchObject({ inspect: false, requests: [] });
});

test('looks at the rules again after the upstream was asked', async () => {
  let release = (): void => undefined;
  const { gate, check, denials } = makeGate({
    names: NAMES,
    resolve: () => new Promise((resolve) => (release = () => resolve(FOUND))),
  });
  const connection = check('good.test');
  gate.change({ address: '10.213.0.2', names: [named('plain.test')] });
  release();
  expect(await connection).toMatchObject({ kind: 'refuse', rule: 'check.name' });
  expect(denials).toHaveLength(1);
});

test('bounds the connections of a run, and knows no other', async () => {
  const { check, denials } = makeGate({ names: NAMES });
  for (let count = 0; count < CHECKS_BURST_MAX; count += 1) expect((await check('good.test')).kind).toBe('open');
  expect(await check('good.test')).toMatchObject({ kind: 'refuse', rule: 'egress' });
  expect(denials).toHaveLength(1);
  expect(await check('good.test', { source: '10.213.0.6' })).toMatchObject({ kind: 'refuse', line: null });
  expect(denials).toHaveLength(1);
});

test('counts the names that an agent makes up at the checker like those in DNS', async () => {
  const { check, ask, asked } = makeGate({ names: NAMES });
  for (let count = 0; count < 60; count += 1) await check(`n${count}.wild.test`);
  expect(await check('one-more.wild.test')).toMatchObject({ kind: 'refuse', rule: 'egress' });
  expect(await ask('one-more.wild.test')).toBe('REFUSED');
  expect(asked).toHaveLength(60);
});
