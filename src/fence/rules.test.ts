import { expect, test } from 'vitest';
import { FENCE_SETS } from '../core/fence-names.ts';
import { setDeclarations } from './declarations.ts';
import { baseRules, RULE_PIECES } from './rules.ts';
import { FENCE_MARKS } from './rules/words.ts';

const OPTIONS = {
  pool: '10.213.0.0/16',
  gatePort: 5365,
  checkPort: 5366,
  nflogGroup: 86,
  marks: FENCE_MARKS,
  connectionsPerSecondMax: 200,
};
const ALL = baseRules(OPTIONS);
const lines = ALL.flatMap(({ chains, jumps }) => [
  ...chains.flatMap(({ name, rules }) => rules.map((rule) => ({ chain: name, rule }))),
  ...jumps,
]);

test('denies first: the tables come in the order in which they protect', () => {
  expect(ALL.map(({ family, table }) => `${table}${family}`)).toEqual([
    'raw4',
    'mangle4',
    'security4',
    'nat4',
    'filter4',
    'raw6',
    'filter6',
  ]);
});

test('jumps only to chains of the same table, and declares none of anybody else', () => {
  for (const { chains, jumps } of ALL) {
    const names = chains.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^RF-[A-Z]+$/);
    const rules = [...chains.flatMap((chain) => chain.rules), ...jumps.map(({ rule }) => rule)];
    const targets = rules.flatMap((rule) => /-[jg] (RF-\S+)/.exec(rule)?.[1] ?? []);
    expect(names).toEqual(expect.arrayContaining(targets));
  }
});

test('names no run: every jump from a built-in chain is by prefix or by pool', () => {
  for (const { jumps } of ALL) {
    for (const { rule, anywhere } of jumps) {
      if (!anywhere) expect(rule).toMatch(/^(! )?-[io] rf-\+ |^-s 10\.213\.0\.0\/16 /);
    }
  }
});

test('ends what it denies: goto, so that no packet is judged and reported twice', () => {
  const decide = ALL.flatMap(({ chains }) => chains).find(({ name }) => name === 'RF-DECIDE');
  expect(decide?.rules.at(-1)).toBe('-g RF-DENY');
  for (const rule of decide?.rules ?? []) expect(rule).not.toMatch(/-j RF-/);
});

test('reports each denied packet at once, to the configured group, and never without a limit', () => {
  const feeds = lines.filter(({ rule }) => rule.includes('NFLOG'));
  expect(feeds.length).toBe(11);
  for (const { rule } of feeds) {
    expect(rule).toContain('--nflog-group 86 --nflog-size 96 --nflog-threshold 1');
    expect(rule).toMatch(/-m (limit|hashlimit) /);
    expect(rule).toMatch(/--nflog-prefix "rf:(deny|never|spoof|budget|ingress|conns|rate|ask|host)"/);
  }
});

test('uses every set that it declares, and none other', () => {
  const declared = setDeclarations().map((line) => line.split(' ')[1]);
  const used = lines.flatMap(({ rule }) => /--match-set (\S+)/.exec(rule)?.[1] ?? []);
  expect(new Set(used)).toEqual(new Set(declared));
  expect(new Set(declared)).toEqual(new Set(Object.values(FENCE_SETS)));
});

test.each(RULE_PIECES)('stands without the piece %s: what is left refers to nothing that is gone', (piece) => {
  for (const { chains, jumps } of baseRules(
    OPTIONS,
    RULE_PIECES.filter((other) => other !== piece),
  )) {
    const names = chains.map(({ name }) => name);
    const rules = [...chains.flatMap((chain) => chain.rules), ...jumps.map(({ rule }) => rule)];
    expect(names).toEqual(expect.arrayContaining(rules.flatMap((rule) => /-[jg] (RF-\S+)/.exec(rule)?.[1] ?? [])));
  }
});
