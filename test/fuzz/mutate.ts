import type { Random } from '../simulation/random.ts';

/** What parsers stumble over: ends of ranges, escapes, separators, names that must never be reached. */
const INTERESTING: readonly Buffer[] = [
  '',
  '\0',
  '\n',
  '\r\n',
  '\r\n\r\n',
  '\u001b[2J',
  '.',
  '..',
  '*.',
  '*',
  ':',
  ':443',
  '/32',
  '/0',
  '%',
  '%2e',
  '\\',
  '"',
  '{',
  '}',
  '[',
  ']',
  '&a',
  '*a',
  '!!js/function',
  '<!channel>',
  'localhost',
  '127.0.0.1',
  '0x7f000001',
  '2130706433',
  '0177.0.0.1',
  '169.254.169.254',
  '169.254.169.254/32',
  '[::1]',
  '::ffff:127.0.0.1',
  'metadata.google.internal',
  'evil.test',
  'good.test',
  'xn--',
  'ı',
  'ß',
  '\u202e',
  '\u{1f600}',
  '-1',
  '0',
  '1e309',
  '99999999999999999999',
  'null',
  '~',
  'true',
  '__proto__',
  'constructor',
  'Host: evil.test\r\n',
  'Content-Length: 5\r\n',
  'Transfer-Encoding: chunked\r\n',
  'egress:',
  'allow:',
  'kill',
]
  .map((text) => Buffer.from(text))
  .concat([
    Buffer.of(0xff),
    Buffer.of(0xc0, 0x0c),
    Buffer.of(0xff, 0xff),
    Buffer.of(0x80),
    Buffer.of(0xed, 0xa0, 0x80),
  ]);

const BYTES_MAX = 16_384;
const REPEATED_MAX = 2_000;

/** One to a few changes of a valid input: bits, bytes, pieces cut, doubled, moved, exchanged with another's. */
export function mutated(random: Random, corpus: readonly Buffer[]): Buffer {
  let bytes = Buffer.from(random.pick(corpus));
  const changes = 1 + random.below(random.chance(0.2) ? 12 : 3);
  for (let change = 0; change < changes; change += 1) bytes = changedOnce(random, bytes, corpus);
  return bytes.length > BYTES_MAX ? bytes.subarray(0, BYTES_MAX) : bytes;
}

function changedOnce(random: Random, bytes: Buffer, corpus: readonly Buffer[]): Buffer<ArrayBuffer> {
  const at = random.below(bytes.length + 1);
  const to = Math.min(bytes.length, at + 1 + random.below(16));
  const [before, piece, after] = [bytes.subarray(0, at), bytes.subarray(at, to), bytes.subarray(to)];
  switch (random.below(9)) {
    case 0: {
      const flipped = Buffer.from(bytes);
      if (at < flipped.length) flipped[at] = (flipped[at] ?? 0) ^ (1 << random.below(8));
      return flipped;
    }
    case 1:
      return Buffer.concat([before, Buffer.of(random.below(256)), bytes.subarray(at + 1)]);
    case 2:
      return Buffer.concat([before, after]);
    case 3:
      return Buffer.concat([before, piece, piece, after]);
    case 4:
      return Buffer.concat([before, random.pick(INTERESTING), bytes.subarray(at)]);
    case 5:
      return Buffer.concat([before, random.pick(INTERESTING), after]);
    case 6: {
      const other = random.pick(corpus);
      return Buffer.concat([before, other.subarray(random.below(other.length + 1))]);
    }
    case 7:
      return Buffer.from(before);
    default:
      return random.chance(0.05)
        ? Buffer.concat([before, ...Array.from({ length: random.below(REPEATED_MAX) }, () => piece), after])
        : Buffer.concat([before, random.bytes(1 + random.below(8)), after]);
  }
}

/** The same bytes in pieces: a parser of a stream must not care. */
export function pieces(random: Random, bytes: Buffer): Buffer[] {
  const cut: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const to = at + 1 + random.below(random.chance(0.5) ? 4 : bytes.length);
    cut.push(bytes.subarray(at, to));
    at = to;
  }
  return cut;
}
