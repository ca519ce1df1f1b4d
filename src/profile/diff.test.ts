import { describe, expect, test } from 'vitest';
import { describeChange, diffSpecs } from './diff.ts';
import { parseProfile } from './parse.ts';
import { resolveProfile } from './resolve.ts';
import type { Spec } from './spec.ts';

type Draft = Readonly<Record<string, unknown>>;

const BASE: Draft = {
  apiVersion: 'ringfence/v1',
  name: 'reader',
  description: 'Reads.',
  owner: 'research@example.com',
  image: 'ringfence/agent-shell:local',
  command: ['/bin/true'],
  limits: { cpu: 1, memory: '256MiB', pids: 64 },
  budget: { wall: '30m' },
  egress: { allow: ['api.example.com'] },
};

function specOf(change: Draft): Spec {
  const text = JSON.stringify({ ...BASE, ...change });
  const parsed = parseProfile({ text, file: 'reader.yaml' });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  const resolved = resolveProfile({ parsed, digest: `sha256:${'0'.repeat(64)}`, folder: '/srv/profiles' });
  if (!resolved.ok) throw new Error(JSON.stringify(resolved.problems));
  return resolved.spec;
}

function changesOf(after: Draft, before: Draft = {}): readonly string[] {
  return diffSpecs({ from: specOf(before), to: specOf(after) }).map(describeChange);
}

describe('what changes between two profiles', () => {
  type Case = readonly [what: string, after: Draft, lines: readonly string[], before?: Draft];
  const cases: readonly Case[] = [
    ['nothing', {}, []],
    ['only how it is written', { limits: { cpu: 1, memory: '262144KiB', pids: 64 } }, []],
    ['a larger budget', { budget: { wall: '1h' } }, ['budget.wall: 30m 00s → 1h 00m (wider)']],
    ['a smaller budget', { budget: { wall: '5m' } }, ['budget.wall: 30m 00s → 5m 00s (tighter)']],
    ['a first bound', { budget: { wall: '30m', egress: '1MiB' } }, ['budget.egress: none → 1 MiB (tighter)']],
    [
      'a bound taken away',
      { budget: { wall: '30m' } },
      ['budget.cpu: 1m 00s → none (wider)'],
      { budget: { wall: '30m', cpu: '60s' } },
    ],
    [
      'a rule more',
      { egress: { allow: ['api.example.com', 'b.example.com:22'] } },
      ['egress.allow: added b.example.com:22 (wider)'],
    ],
    ['a rule less', { egress: {} }, ['egress.allow: removed api.example.com (tighter)']],
    [
      'a rule with another port',
      { egress: { allow: ['api.example.com:443,8443'] } },
      ['egress.allow: removed api.example.com (tighter)', 'egress.allow: added api.example.com:443,8443 (wider)'],
    ],
    ['the same rule written out', { egress: { allow: ['API.example.com:443'] } }, []],
    [
      'a rule that asks from now on',
      { egress: { ask: ['api.example.com'] } },
      ['egress.allow: removed api.example.com (tighter)', 'egress.ask: added api.example.com (wider)'],
    ],
    ['a milder action', { on: { 'budget.cpu': 'stop' } }, ['on.budget.cpu: kill → stop (wider)']],
    ['a harder action', {}, ['on.budget.cpu: warn → kill (tighter)'], { on: { 'budget.cpu': 'warn' } }],
    ['quarantine', { on: { quarantine: true } }, ['on.quarantine: false → true (tighter)']],
    [
      'what a lost supervisor means',
      { on: { 'supervisor.lost': { action: 'kill', for: '2s' } } },
      ['on.supervisor.lost: keep → kill after 2 s (tighter)'],
    ],
    ['denials', { budget: { wall: '30m', denials: '5/1m' } }, ['budget.denials: none → 5 in 1m 00s (tighter)']],
    [
      'denials in another time',
      { budget: { wall: '30m', denials: '5/2m' } },
      ['budget.denials: 5 in 1m 00s → 5 in 2m 00s'],
      { budget: { wall: '30m', denials: '5/1m' } },
    ],
    ['a command', { command: ['/bin/false'] }, ['command: ["/bin/true"] → ["/bin/false"]']],
    [
      'a value that may be secret',
      { env: { TOKEN: 'b' } },
      ['env.TOKEN: a value → another value'],
      { env: { TOKEN: 'a' } },
    ],
    [
      'a mount',
      { mounts: [{ host: './w', path: '/w', mode: 'rw' }] },
      ['mounts: added /srv/profiles/w at /w (rw) (wider)'],
    ],
    ['an owner', { owner: 'ops@example.com' }, ['owner: research@example.com → ops@example.com']],
  ];
  test.each(cases.map(([what, after, lines, before = {}]) => ({ what, after, lines, before })))(
    'says of $what what it is',
    ({ after, lines, before }) => {
      expect(changesOf(after, before)).toEqual(lines);
    },
  );

  test('is the other way round when the profiles are', () => {
    const after = { budget: { wall: '1h' }, egress: { allow: ['api.example.com', 'b.example.com'] } };
    expect(changesOf({}, after)).toEqual([
      'budget.wall: 1h 00m → 30m 00s (tighter)',
      'egress.allow: removed b.example.com (tighter)',
    ]);
  });
});
