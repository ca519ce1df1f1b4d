import { expect, test } from 'vitest';
import { StandingDecisions } from './decisions.ts';
import { named } from './testing.ts';
import type { NameRequest } from './verdict.ts';

const asked = (name: string): NameRequest => ({
  kind: 'name',
  name,
  ports: [{ port: 443, protocol: 'tcp' }],
  rule: name,
});
const A = '10.213.0.2';
const B = '10.213.0.6';

test('keeps what was decided for the next gate, with the time that is left', () => {
  let nowMs = 0;
  const decisions = new StandingDecisions(() => nowMs);
  decisions.remember({ address: A, request: asked('short.test'), lifetime: { forMs: 1_000 } });
  decisions.remember({ address: A, request: asked('long.test'), lifetime: { forMs: 60_000 } });
  decisions.remember({ address: B, request: asked('no.test'), lifetime: null });
  decisions.remember({ address: B, request: asked('forgotten.test'), lifetime: null });
  decisions.forget(B, 'forgotten.test');
  nowMs = 1_000;
  expect(decisions.all()).toEqual([
    { address: A, request: asked('long.test'), lifetime: { forMs: 59_000 } },
    { address: B, request: asked('no.test'), lifetime: null },
  ]);
  decisions.remember({ address: A, request: asked('long.test'), lifetime: null });
  decisions.forget(B);
  expect(decisions.all()).toEqual([{ address: A, request: asked('long.test'), lifetime: null }]);
});

test('forgets with the rule, so that a later profile does not revive it', () => {
  const decisions = new StandingDecisions(() => 0);
  for (const name of ['a.test', 'b.wide.test', 'c.test']) {
    decisions.remember({ address: A, request: asked(name), lifetime: { forMs: 60_000 } });
  }
  decisions.remember({ address: B, request: asked('a.test'), lifetime: null });
  decisions.retain({ address: A, names: [named('a.test'), named('?*.wide.test')] });
  expect(decisions.all().map(({ address, request }) => [address, request.name])).toEqual([
    [A, 'b.wide.test'],
    [B, 'a.test'],
  ]);
});
