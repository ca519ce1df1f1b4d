import { expect, test } from 'vitest';
import { fromIoMax, fromThrottle } from './io-limits.ts';

test('both versions of the controller are read the same way, and no limit is none', () => {
  const wanted = { '254:0': { read: 1_048_576, write: 2_097_152 }, '7:1': { read: 4096, write: null } };
  expect(
    fromIoMax('254:0 rbps=1048576 wbps=2097152 riops=max wiops=max\n7:1 rbps=4096 wbps=max riops=max wiops=5\n'),
  ).toEqual(wanted);
  expect(fromThrottle({ read: '254:0 1048576\n7:1 4096\n', write: '254:0 2097152\n' })).toEqual(wanted);
  expect([fromIoMax(''), fromThrottle({ read: '', write: '\n' })]).toEqual([{}, {}]);
});
