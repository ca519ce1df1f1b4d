import { decode, encode } from 'dns-packet';
import type { Answer, DecodedPacket } from 'dns-packet';
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { createResolver, resolveName } from './upstream.ts';
import type { Upstream } from './upstream.ts';

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

type Reply = Buffer | null;

/** A resolver on the loopback address that answers as the test says, over UDP and TCP on one port. */
async function startResolver(
  reply: (question: DecodedPacket, transport: 'udp' | 'tcp') => Reply,
): Promise<Upstream & { readonly seen: Buffer[] }> {
  const seen: Buffer[] = [];
  const socket = createSocket('udp4');
  socket.on('message', (message, peer) => {
    seen.push(message);
    const answer = reply(decode(message), 'udp');
    if (answer !== null) socket.send(answer, peer.port, peer.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', () => resolve()));
  const { port } = socket.address();
  const server = createServer((connection) => {
    connection.on('data', (chunk: Buffer) => {
      const answer = reply(decode(chunk.subarray(2)), 'tcp');
      if (answer === null) return;
      const length = Buffer.alloc(2);
      length.writeUInt16BE(answer.length);
      // In two parts, as a slow network would bring it.
      connection.write(Buffer.concat([length, answer.subarray(0, 5)]));
      connection.write(answer.subarray(5));
    });
    connection.on('error', () => connection.destroy());
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', () => resolve()));
  closers.push(() => {
    socket.close();
    server.close();
  });
  return { address: '127.0.0.1', port, seen };
}

function answering(
  answers: readonly Answer[],
  more: { readonly id?: number; readonly name?: string; readonly flags?: number } = {},
) {
  return ({ id, questions }: DecodedPacket): Buffer =>
    encode({
      type: 'response',
      id: more.id ?? id ?? 0,
      flags: more.flags ?? 0,
      questions: more.name === undefined ? (questions ?? []) : [{ type: 'A', name: more.name }],
      answers: [...answers],
    });
}

const GOOD: Answer = { type: 'A', name: 'good.test', data: '198.51.100.10', ttl: 60 };
const EVIL: Answer = { type: 'A', name: 'good.test', data: '198.51.100.66', ttl: 60 };
const FOUND = { kind: 'addresses', finalName: 'good.test', addresses: ['198.51.100.10'], ttlSeconds: 60 };

test('asks a question of its own making: random id, the name, type A, nothing else', async () => {
  const resolver = await startResolver(answering([GOOD]));
  for (let count = 0; count < 8; count += 1) expect(await resolveName('good.test', [resolver])).toEqual(FOUND);
  expect(new Set(resolver.seen.map((message) => message.readUInt16BE(0))).size).toBeGreaterThan(1);
  const [first] = resolver.seen;
  expect(decode(first ?? Buffer.alloc(0))).toMatchObject({
    type: 'query',
    flag_rd: true,
    questions: [{ name: 'good.test', type: 'A', class: 'IN' }],
    answers: [],
    additionals: [{ type: 'OPT', options: [] }],
  });
});

test.each([
  ['another id', answering([EVIL], { id: 1 })],
  ['another question', answering([EVIL], { name: 'evil.test' })],
  ['bytes that are no DNS', () => Buffer.from('HTTP/1.1 200 OK')],
  [
    'a question in the place of an answer',
    ({ id }: DecodedPacket) => encode({ type: 'query', id: id ?? 0, questions: [{ type: 'A', name: 'good.test' }] }),
  ],
  ['a failure', answering([], { flags: 2 })],
  ['a refusal', answering([], { flags: 5 })],
  ['nothing', () => null],
])('passes over %s, and takes the next resolver', async (_, reply) => {
  const bad = await startResolver(reply);
  const good = await startResolver(answering([GOOD]));
  expect(await resolveName('good.test', [bad, good])).toEqual(FOUND);
  expect(bad.seen.length).toBeGreaterThan(0);
});

test('asks first whoever answered last, so that a resolver that is down costs its time once', async () => {
  let isDown = true;
  const first = await startResolver((question) => (isDown ? null : answering([GOOD])(question)));
  const second = await startResolver((question) => (isDown ? answering([GOOD])(question) : null));
  const resolve = createResolver([first, second]);
  for (let count = 0; count < 3; count += 1) expect(await resolve('good.test')).toEqual(FOUND);
  expect([first.seen.length, second.seen.length]).toEqual([1, 3]);
  isDown = false;
  for (let count = 0; count < 3; count += 1) expect(await resolve('good.test')).toEqual(FOUND);
  expect([first.seen.length, second.seen.length]).toEqual([4, 4]);
});

test('asks by TCP when the answer was truncated', async () => {
  const resolver = await startResolver((question, transport) =>
    transport === 'udp' ? answering([], { flags: 0x200 })(question) : answering([GOOD])(question),
  );
  expect(await resolveName('good.test', [resolver])).toEqual(FOUND);
});

test('believes an absence, and follows an alias out of the answer a few times only', async () => {
  const absent = await startResolver(answering([], { flags: 3 }));
  expect(await resolveName('good.test', [absent])).toEqual({ kind: 'no-such-name', ttlSeconds: 5 });
  const names = new Map<string, Answer>([
    ['good.test', { type: 'CNAME', name: 'good.test', data: 'cdn.test', ttl: 10 }],
    ['cdn.test', { ...GOOD, name: 'cdn.test' }],
  ]);
  const aliased = await startResolver((question) => {
    const answer = names.get(question.questions?.[0]?.name ?? '');
    return answering(answer === undefined ? [] : [answer])(question);
  });
  expect(await resolveName('good.test', [aliased])).toMatchObject({ addresses: ['198.51.100.10'], ttlSeconds: 10 });
  let hop = 0;
  const endless = await startResolver((question) => {
    hop += 1;
    return answering([{ type: 'CNAME', name: question.questions?.[0]?.name ?? '', data: `hop${hop}.test`, ttl: 10 }])(
      question,
    );
  });
  expect(await resolveName('good.test', [endless])).toMatchObject({ kind: 'failed' });
  expect(hop).toBe(4);
});

test('says that no resolver answers, in time for a client', async () => {
  const startedAt = performance.now();
  expect(await resolveName('good.test', [await startResolver(() => null)])).toMatchObject({ kind: 'failed' });
  expect(performance.now() - startedAt).toBeLessThan(5_000);
});
