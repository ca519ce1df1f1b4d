/** Every choice of a simulation or a fuzz run comes from here, so that its number is enough to see it again. */
export type Random = {
  /** In [0, 1). */
  next(): number;
  /** A whole number in [0, max). */
  below(max: number): number;
  chance(probability: number): boolean;
  pick<Value>(values: readonly Value[]): Value;
  bytes(length: number): Buffer;
};

/** The `sfc32` generator: small, fast, and good enough to choose faults with. */
export function createRandom(seed: number): Random {
  let [a, b, c, counter] = [0x9e3779b9, seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 1];
  const word = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return sum >>> 0;
  };
  for (let turn = 0; turn < 12; turn += 1) word();
  const next = (): number => word() / 2 ** 32;
  const below = (max: number): number => Math.floor(next() * max);
  return {
    next,
    below,
    chance: (probability) => next() < probability,
    pick: <Value>(values: readonly Value[]): Value => {
      if (values.length === 0) throw new Error('nothing to pick from');
      return values[below(values.length)] as Value;
    },
    bytes: (length) => {
      const bytes = Buffer.allocUnsafe(length);
      for (let index = 0; index < length; index += 1) bytes[index] = word() & 0xff;
      return bytes;
    },
  };
}
