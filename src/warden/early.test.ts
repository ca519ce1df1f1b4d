import { expect, it } from 'vitest';
import { createEarlyRefusals } from './early.ts';

const PLAN = { bridge: 'rf-one', address: '203.0.113.2' };

it('gives each run what was refused to it before it was watched, once and in order', () => {
  const early = createEarlyRefusals<string>(1_000);
  early.keep({ bridge: 'rf-one', address: '203.0.113.2' }, 'a packet', 1_100);
  early.keep({ bridge: 'rf-two', address: '203.0.113.6' }, 'of another', 1_110);
  early.keep({ bridge: null, address: '203.0.113.2' }, 'a name', 1_120);
  // A forged source belongs to who sent it.
  early.keep({ bridge: 'rf-one', address: '203.0.113.6' }, 'a forged packet', 1_130);
  expect(early.take(PLAN)).toEqual(['a packet', 'a forged packet', 'a name']);
  expect(early.take(PLAN)).toEqual([]);
  expect(early.take({ bridge: 'rf-two', address: '203.0.113.6' })).toEqual(['of another']);
});

it('keeps so many of one run, of so many runs, and for so long', () => {
  const early = createEarlyRefusals<number>(0);
  for (let count = 0; count < 1_000; count += 1) early.keep({ bridge: 'rf-loud', address: '' }, count, 1);
  early.keep({ bridge: 'rf-one', address: '' }, 1, 1);
  for (let count = 0; count < 1_000; count += 1) early.keep({ bridge: `rf-${count}`, address: '' }, count, 1);
  early.keep({ bridge: 'rf-late', address: '' }, 1, 1);
  expect([
    early.take({ bridge: 'rf-loud', address: '' }).length,
    early.take(PLAN),
    early.take({ bridge: 'rf-late', address: '' }),
  ]).toEqual([256, [1], []]);
  early.keep({ bridge: 'rf-one', address: '' }, 1, 1);
  early.keep({ bridge: 'rf-one', address: '' }, 2, 60_001);
  expect(early.take(PLAN)).toEqual([]);
});
