import { expect, test } from 'vitest';
import counterexamples from '../fuzz/counterexamples.json' with { type: 'json' };
import { TARGETS, tryInput, verdictOn } from '../fuzz/targets.ts';
import { createHelloReader } from '../../src/checker/hello.ts';
import { createHeadReader } from '../../src/checker/request.ts';
import { FrameParser } from '../../src/engine/stream.ts';
import { parseQuery } from '../../src/gate/wire.ts';
import { parseMessages } from '../../src/kernel/netlink.ts';
import { parseLogged } from '../../src/kernel/nflog.ts';
import { parseLine } from '../../src/ledger/line.ts';
import { parseProfile } from '../../src/profile/parse.ts';
import { parseRule } from '../../src/profile/rules.ts';
import { parseGateLine } from '../../src/warden/denials.ts';
import { createRandom } from '../simulation/random.ts';

/** New inputs on every day, the same ones for everybody on that day. `node test/fuzz/run.ts` tries a million. */
const INPUTS = 20_000;
const DAY_MS = 86_400_000;
const shares = TARGETS.reduce((sum, { share }) => sum + share, 0);

test.each(TARGETS)('$name: no input crashes it, hangs it, or gets what it should not', async (target) => {
  const inputs = Math.ceil((INPUTS * target.share) / shares);
  const first = 10_000_000 + Math.floor(Date.now() / DAY_MS) * inputs;
  const wrong: string[] = [];
  for (let number = first; number < first + inputs; number += 1) {
    const { input, found } = await tryInput(target, number);
    if (found !== null) wrong.push(`${target.name} ${number}: ${found}\n  ${input.toString('hex').slice(0, 2_000)}`);
  }
  expect(wrong).toEqual([]);
});

test.each(counterexamples)(
  '$target: an input that once went wrong is taken for what it is',
  async ({ target, hex }) => {
    const known = TARGETS.find(({ name }) => name === target);
    expect(known).toBeDefined();
    if (known === undefined) return;
    expect(await verdictOn(known, Buffer.from(hex, 'hex'), createRandom(1))).toBeNull();
  },
);

test('the examples that the inputs are made from are what their parsers take', () => {
  const exampleOf = (target: string): Buffer =>
    TARGETS.find(({ name }) => name === target)?.corpus[0] ?? Buffer.alloc(0);
  const rule = parseRule(exampleOf('rules').toString());
  const head = createHeadReader().feed(exampleOf('http'));
  const hello = createHelloReader().feed(exampleOf('hello'));
  expect({
    rule: rule.ok,
    profile: parseProfile({ text: exampleOf('profile').toString(), file: 'a.yaml' }).ok,
    dns: parseQuery(exampleOf('dns')).ok,
    hello: hello.kind === 'hello' ? hello.name : hello,
    http: head.kind === 'head' ? head.head.name : head,
    stream: new FrameParser().push(exampleOf('stream')).length,
    netlink: parseMessages(exampleOf('netlink')).map(({ body }) => parseLogged(body.subarray(4)).packet?.destination),
    ledger: parseLine(exampleOf('ledger'))?.seq,
    gateLine: parseGateLine(exampleOf('gate-lines').toString())?.kind,
  }).toEqual({
    rule: true,
    profile: true,
    dns: true,
    hello: 'good.test',
    http: 'good.test',
    stream: 2,
    netlink: ['203.0.113.10'],
    ledger: 7,
    gateLine: 'resolved',
  });
});
