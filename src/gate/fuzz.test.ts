import { encode } from 'dns-packet';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AGENT, FOUND, makeGate, named } from './testing.ts';

const NAMES = [named('good.test:443,22'), named('*.wild.test'), named('?later.test')];
const LISTED = /^(good\.test|([a-z0-9-]+\.)+wild\.test)$/;

function question(name: string, type: string): Buffer {
  return encode({ type: 'query', id: 1, flags: 256, questions: [{ type: type as 'A', name }] });
}

const bytes = fc.uint8Array({ maxLength: 600 }).map((array) => Buffer.from(array));
/** A question for a listed name, with some of its bytes replaced, cut or doubled. */
const mutated = fc
  .tuple(
    fc.constantFrom('good.test', 'a.wild.test', 'later.test', 'other.test'),
    fc.constantFrom('A', 'AAAA', 'TXT', 'NULL'),
    fc.array(fc.tuple(fc.nat(80), fc.nat(255)), { maxLength: 4 }),
    fc.constantFrom(0, 0, 0, 1, 12, 40),
    fc.constantFrom(0, 0, 0, 1, 7),
  )
  .map(([name, type, changes, more, less]) => {
    const packet = Buffer.concat([question(name, type), Buffer.alloc(more)]);
    for (const [offset, value] of changes) if (offset < packet.length) packet[offset] = value;
    return packet.subarray(0, packet.length - less);
  });

test('opens nothing and asks nobody for bytes that are no question for a listed name, whatever they are', async () => {
  await fc.assert(
    fc.asyncProperty(bytes, fc.constantFrom('udp' as const, 'tcp' as const), async (packet, transport) => {
      const { gate, sets, asked, requests } = makeGate({ names: NAMES, holdMs: 0 });
      const answer = await gate.handle(AGENT, packet, transport);
      expect(answer === null || answer.length >= 12).toBe(true);
      expect([sets.changes, asked, requests]).toEqual([0, [], []]);
    }),
    { numRuns: 2_000 },
  );
});

test('sends upstream, opens and asks about listed names alone, however a question is bent', async () => {
  let opened = 0;
  await fc.assert(
    fc.asyncProperty(mutated, async (packet) => {
      const { gate, sets, asked, requests } = makeGate({ names: NAMES, holdMs: 0 });
      await gate.handle(AGENT, packet, 'udp');
      expect(asked.filter((name) => !LISTED.test(name))).toEqual([]);
      expect(requests.filter(({ name }) => name !== 'later.test')).toEqual([]);
      if (asked.length === 0) expect(sets.changes).toBe(0);
      opened += sets.changes;
    }),
    { numRuns: 2_000 },
  );
  // The twin: some of them are left whole and do open.
  expect(opened).toBeGreaterThan(0);
});

test('passes a connection on for listed names alone, whatever it shows', async () => {
  const shown = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 300 }),
    fc.constantFrom(
      'good.test',
      'GOOD.TEST.',
      'good.test:443',
      'good.test/',
      'x@good.test',
      'xn--good.test',
      'wild.test',
    ),
  );
  await fc.assert(
    fc.asyncProperty(
      shown,
      fc.nat(65_535),
      fc.constantFrom('tls' as const, 'http' as const),
      async (name, port, protocol) => {
        const { check, asked } = makeGate({ names: NAMES, holdMs: 0 });
        const verdict = await check(name, { port, protocol });
        if (verdict.kind === 'open') expect([verdict.name, port === 22 || port === 443]).toEqual(['good.test', true]);
        else expect(asked).toEqual([]);
      },
    ),
    { numRuns: 1_000 },
  );
});

/** Whatever happens in whatever order: what is open in the kernel is justified by the rules that stand. */
type Step =
  | { readonly kind: 'ask'; readonly name: string }
  | { readonly kind: 'check'; readonly name: string }
  | { readonly kind: 'decide'; readonly name: string; readonly forMs: number | null }
  | { readonly kind: 'change'; readonly lines: readonly string[] }
  | { readonly kind: 'pass'; readonly ms: number };

const name = fc.constantFrom('a.test', 'b.test', 'c.test');
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('ask' as const), name }),
  fc.record({ kind: fc.constant('check' as const), name }),
  fc.record({ kind: fc.constant('decide' as const), name, forMs: fc.option(fc.integer({ min: 1, max: 200_000 })) }),
  fc.record({
    kind: fc.constant('change' as const),
    lines: fc.subarray(['a.test', 'b.test:22', '?b.test', '?c.test:443,22', 'c.test:80']),
  }),
  fc.record({ kind: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 100_000 }) }),
);

test('keeps in the kernel only what the rules and the decisions of the moment justify', async () => {
  const addresses = {
    'a.test': ['198.51.100.1'],
    'b.test': ['198.51.100.2'],
    'c.test': ['198.51.100.2', '198.51.100.3'],
  };
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      const resolve = (asked: string) =>
        Promise.resolve({ ...FOUND, addresses: addresses[asked as keyof typeof addresses] ?? [] });
      const made = makeGate({ names: [named('a.test'), named('?b.test')], holdMs: 0, resolve });
      let lines: readonly string[] = ['a.test', '?b.test'];
      for (const each of steps) {
        if (each.kind === 'ask') await made.ask(each.name);
        else if (each.kind === 'check') await made.check(each.name);
        else if (each.kind === 'pass') made.pass(each.ms);
        else if (each.kind === 'change') {
          lines = each.lines;
          made.gate.change({ address: AGENT, names: lines.map((line) => named(line)) });
        } else {
          const ports = [443, 22].map((port) => ({ port, protocol: 'tcp' as const }));
          const lifetime = each.forMs === null ? null : { forMs: each.forMs };
          made.gate.decide(AGENT, { kind: 'name', name: each.name, ports, rule: each.name }, lifetime);
        }
        if (each.kind !== 'change') continue;
        // Right after a change every entry has a name that the new lines list for its port.
        for (const key of Object.keys(made.sets.open())) {
          const [, address = '', port = ''] = /^\w+ (.*):(\d+)$/.exec(key) ?? [];
          const justified = lines.some((line) => {
            const { name: listed, ports } = named(line);
            const leads = addresses[listed as keyof typeof addresses].includes(address);
            return leads && ports.some((grant) => String(grant.port) === port);
          });
          expect({ key, lines, justified }).toMatchObject({ justified: true });
        }
      }
    }),
    { numRuns: 400 },
  );
});
