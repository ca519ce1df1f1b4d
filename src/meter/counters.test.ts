import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isGone, numberAt, numberBehind } from './counters.ts';

describe('parsing counters', () => {
  it.each([
    ['oom_kill_disable 0\nunder_oom 1\noom_kill 7\n', 'oom_kill ', 7],
    ['oom 3\noom_kill 2\n', 'oom ', 3],
    ['max 12\n', 'max ', 12],
    ['xmax 12\n', 'max ', null],
    ['max', 'max ', null],
    ['', 'max ', null],
  ])('finds the value behind a whole key in %j', (text, key, expected) => {
    const bytes = Buffer.from(text);
    expect(numberBehind(bytes, Buffer.from(key), bytes.length)).toBe(expected);
  });

  it('reads what the kernel wrote, and no number where there is none', () => {
    fc.assert(
      fc.property(fc.nat({ max: Number.MAX_SAFE_INTEGER }), (value) => {
        const bytes = Buffer.from(`${value}\n`);
        expect(numberAt(bytes, 0, bytes.length)).toBe(value);
      }),
    );
    expect([numberAt(Buffer.from('max\n'), 0, 4), numberAt(Buffer.from('12'), 0, 1)]).toEqual([null, 1]);
  });

  it('takes a removed cgroup for an ending, and any other error for one', () => {
    const failing = (code: string): Error => Object.assign(new Error(code), { code });
    expect(['ENODEV', 'ENOENT', 'EIO', 'EMFILE'].map((code) => isGone(failing(code)))).toEqual([
      true,
      true,
      false,
      false,
    ]);
  });
});
