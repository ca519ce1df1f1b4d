import { expect, it } from 'vitest';
import { parseNote } from './note.ts';

const NOTE = {
  denials: [{ atMs: 1_200.5, count: 3 }],
  warned: ['budget.denials 0.8'],
  raised: [{ budget: 'cpu', limit: 400 }],
  denialsTotal: 5,
  oomKillsPassed: 1,
};

it('reads what it wrote', () => {
  expect(parseNote(JSON.stringify(NOTE))).toEqual(NOTE);
});

it.each([
  ['a number below nothing', { denialsTotal: -1 }],
  ['no number', { oomKillsPassed: null }],
  ['a mark without its moment', { denials: [{ count: 3 }] }],
  ['a budget that there is not', { raised: [{ budget: 'luck', limit: 1 }] }],
  ['a word where a list belongs', { warned: 'all' }],
])('takes nothing from a note with %s', (_what, change) => {
  expect(parseNote(JSON.stringify({ ...NOTE, ...change }))).toBeNull();
});
