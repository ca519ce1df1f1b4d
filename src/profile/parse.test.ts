import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatProblem, parseProfile } from './parse.ts';

const VALID = `apiVersion: ringfence/v1
name: sample
image: ringfence/agent-python:local
command: [python3, /agent/main.py]
limits: { cpu: 1, memory: 64MiB, pids: 16 }
budget: { wall: 1m }
egress: {}
`;
const file = 'sample.yaml';
const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

function told(source: string | Uint8Array): readonly string[] {
  const parsed = parseProfile(typeof source === 'string' ? { file, text: source } : { file, bytes: source });
  return parsed.ok ? ['valid'] : parsed.problems.map(formatProblem);
}

test.each([
  ['as it is', VALID],
  ['with Windows line ends', VALID.replaceAll('\n', '\r\n')],
  ['with a byte order mark', `\uFEFF${VALID}`],
  ['without a last line end', VALID.trimEnd()],
  ['after a document mark', `---\n${VALID}`],
  [
    'as JSON',
    JSON.stringify({
      ...JSON.parse('{"apiVersion":"ringfence/v1","name":"sample","image":"a:b"}'),
      command: 'any',
      limits: { cpu: 1, memory: '64MiB', pids: 1 },
      budget: { wall: '1m' },
      egress: {},
    }),
  ],
])('reads a profile %s, from text and from bytes', (_, text) => {
  expect([told(text), told(encode(text))]).toEqual([['valid'], ['valid']]);
});

test('fills in the defaults', () => {
  const parsed = parseProfile({ file, text: VALID });
  expect(parsed.ok && parsed.profile).toEqual({
    apiVersion: 'ringfence/v1',
    name: 'sample',
    description: '',
    owner: '',
    image: 'ringfence/agent-python:local',
    command: ['python3', '/agent/main.py'],
    user: 10001,
    env: {},
    secrets: [],
    mounts: [],
    limits: { cpu: 1, memory: '64MiB', onOom: 'agent', pids: 16, disk: '64MiB', files: 1024 },
    budget: { wall: '1m' },
    egress: { allow: [], ask: [] },
    on: {
      'budget.wall': 'kill',
      'budget.cpu': 'kill',
      'budget.gpu': 'kill',
      'budget.egress': 'kill',
      'budget.ingress': 'kill',
      'budget.connections': 'kill',
      'budget.denials': 'kill',
      grace: '5s',
      quarantine: false,
      'supervisor.lost': 'keep',
      'telemetry.lost': 'kill',
    },
    warnAt: ['80%'],
    alerts: [],
    accept: [],
  });
});

test('finds the place of a part, and the nearest parent of what is left out', () => {
  const parsed = parseProfile({ file, text: VALID });
  if (!parsed.ok) throw new Error('the sample is valid');
  expect([
    parsed.locate(['limits', 'pids']),
    parsed.locate(['command', 1]),
    parsed.locate(['limits', 'gpu', 'count']),
    parsed.locate(['mounts', 3]),
    parsed.locate([]),
  ]).toEqual([
    { line: 5, column: 40 },
    { line: 4, column: 20 },
    { line: 5, column: 1 },
    { line: 1, column: 1 },
    { line: 1, column: 1 },
  ]);
});

describe('tells what is wrong with', () => {
  test('10 MB', () => {
    const problem = [
      `sample.yaml:1:1 must be at most 256 KiB, got 10240 KiB.\nhint: a profile is a few kilobytes; is this the right file?`,
    ];
    expect([told('x'.repeat(10 * 2 ** 20)), told(new Uint8Array(10 * 2 ** 20))]).toEqual([problem, problem]);
  });

  test('the byte after the last that may be', () => {
    const comment = (bytes: number): string => `${VALID}#${'x'.repeat(bytes - VALID.length - 1)}`;
    expect(told(comment(256 * 1024))).toEqual(['valid']);
    expect(told(comment(256 * 1024 + 1))).toEqual([expect.stringContaining('must be at most 256 KiB, got 257 KiB.')]);
  });

  test('bytes that are not UTF-8, by line', () => {
    const bytes = new Uint8Array([...encode(`${VALID}# caf`), 0xe9, ...encode('\n')]);
    expect(told(bytes)).toEqual([
      'sample.yaml:8:1 must be text in UTF-8; this line has bytes that are not.\nhint: save the file as UTF-8',
    ]);
  });

  test.each([
    ['a NUL', `${VALID}# \0`, '8:3 must have no hidden character, got U+0000.\nhint: is this a text file?'],
    ['a terminal escape', `${VALID}# \u001b[2J`, '8:3 must have no hidden character, got U+001B.'],
    ['a line separator', `${VALID}# x\u2028privileged: true`, '8:4 must have no hidden character, got U+2028.'],
    ['half a character', `${VALID}# \ud800`, '8:3 must have no hidden character, got U+D800.'],
    ['a tab', VALID.replace('name: ', 'name:\t'), '2:6 must have no tab.'],
    ['too many lines', '\n'.repeat(20_000), '1:1 must have at most 10000 lines.'],
    ['too many marks', '- '.repeat(40_000), '1:1 has too many marks of YAML to be a profile.'],
    ['too many entries', `[${'1,'.repeat(12_000)}1]`, 'must have at most 10000 entries.'],
    ['deep nesting', `${'['.repeat(5_000)}${']'.repeat(5_000)}`, 'is nested too deeply to be read.'],
    ['a number as the whole file', '3', '1:1 must be a mapping of keys to values, got 3.'],
  ])('%s', (_, text, problem) => {
    expect(told(text)[0]).toContain(problem);
  });

  test('a value that would fake a line of the terminal', () => {
    const [problem] = told(VALID.replace('sample', '"\\e[2J\\nfake: ok"'));
    expect(problem).toContain('got "\\u{1b}[2J\\u{a}fake: ok".');
  });

  test('a thousand unknown keys, in at most 101 lines', () => {
    const keys = Array.from({ length: 1_000 }, (_, index) => `key${index}: 1\n`).join('');
    const problems = told(`${VALID}${keys}`);
    expect([problems.length <= 101, problems[0]]).toEqual([true, expect.stringContaining('key0: is an unknown key')]);
  });
});

test('does not repeat the value of a variable', () => {
  expect(told(`${VALID}env: { TOKEN: 31337 }\n`).join()).not.toContain('31337');
});

// A cut file is either an error or says something that is in force; it never says more than the whole one.
test('a half-written profile is refused at nearly every place where it can be cut', () => {
  const cuts = Array.from({ length: VALID.indexOf('egress') }, (_, length) => told(VALID.slice(0, length)));
  expect(cuts.every((problems) => problems[0] !== 'valid')).toBe(true);
});

test('never throws, whatever the text or the bytes', () => {
  const token = fc.constantFrom(
    '\n',
    '  ',
    ': ',
    '- ',
    '? ',
    '{',
    '}',
    '[',
    ']',
    ',',
    '"',
    "'",
    '|',
    '>',
    '&a',
    '*a',
    '!',
    '!!int ',
    '#',
    '%',
    '---\n',
    '...\n',
    '<<',
    '\t',
    '\r',
    '\0',
    '\uFEFF',
    '\ud800',
    'limits',
    'egress',
    'allow',
    'on',
    '512',
    '1.5',
    '~',
    'null',
    'true',
    '__proto__',
    'constructor',
    'toString',
    '*.com',
    '1GiB',
    '20/1m',
    '.nan',
    '-.inf',
    '0x10',
  );
  const text = fc.oneof(
    fc.array(token, { maxLength: 40 }).map((tokens) => tokens.join('')),
    fc.array(token, { maxLength: 8 }).map((tokens) => `${VALID}${tokens.join('')}`),
    fc.string({ unit: 'binary' }),
    fc.tuple(fc.nat({ max: VALID.length }), token).map(([at, part]) => VALID.slice(0, at) + part + VALID.slice(at)),
  );
  fc.assert(
    fc.property(text, (raw) => {
      for (const line of told(raw)) expect(line).toMatch(/^(?:valid$|sample\.yaml:[1-9]\d*:[1-9]\d* )/);
    }),
    { numRuns: 1_000 },
  );
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => told(bytes).length > 0));
});

test('never throws, whatever the value of a key', () => {
  const keys = [
    'apiVersion',
    'name',
    'command',
    'user',
    'env',
    'secrets',
    'mounts',
    'limits',
    'budget',
    'egress',
    'on',
  ];
  const value = fc.oneof(
    fc.jsonValue(),
    fc.record({ allow: fc.jsonValue(), ask: fc.array(fc.jsonValue()), gpu: fc.jsonValue(), denials: fc.jsonValue() }),
    fc.array(fc.record({ host: fc.jsonValue(), path: fc.jsonValue(), env: fc.jsonValue(), to: fc.jsonValue() })),
  );
  fc.assert(
    fc.property(fc.dictionary(fc.constantFrom(...keys, 'warnAt', 'alerts', 'accept', 'image'), value), (profile) => {
      expect(told(JSON.stringify(profile))).not.toEqual(['valid']);
    }),
    { numRuns: 300 },
  );
});

// Generous, as the machine is shared: a parser that compared everything with everything would need minutes.
test.each([
  ['keys', `{${Array.from({ length: 15_000 }, (_, index) => `k${index}: 1`).join(',')}}`],
  ['rules', `${VALID.replace('egress: {}', '')}egress: { allow: [${'a.example.com,'.repeat(15_000)}b.example] }`],
  ['commas', `[${'a,'.repeat(120_000)}]`],
  ['a long name', VALID.replace('sample', `"${'a-'.repeat(100_000)}"`)],
  ['a long image', VALID.replace('ringfence/', `"${'a-'.repeat(100_000)}/`).replace(':local', ':local"')],
  ['a long host', VALID.replace('{}', `{ allow: ["${'a.'.repeat(100_000)}"] }`)],
])('takes time in proportion to the length: %s', (_, text) => {
  const startedMs = performance.now();
  told(text);
  expect(performance.now() - startedMs).toBeLessThan(10_000);
});
