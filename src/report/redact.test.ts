import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { redactArgv, redactText } from './redact.ts';

const HEX = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08';

describe('redactArgv', () => {
  type Case = readonly [argv: readonly string[], expected: readonly string[]];
  const cases: readonly Case[] = [
    [
      ['curl', '--token', 'hunter2', 'x'],
      ['curl', '--token', '***', 'x'],
    ],
    [
      ['curl', '--token=hunter2'],
      ['curl', '--token=***'],
    ],
    [
      ['app', '--password', 'hunter2'],
      ['app', '--password', '***'],
    ],
    [
      ['app', '--db-passwd=hunter2'],
      ['app', '--db-passwd=***'],
    ],
    [
      ['app', '--api-key', 'hunter2'],
      ['app', '--api-key', '***'],
    ],
    [
      ['app', '--no-auth', '--verbose'],
      ['app', '--no-auth', '--verbose'],
    ],
    [
      ['mysql', '-phunter2', '-u', 'root'],
      ['mysql', '-p***', '-u', 'root'],
    ],
    [
      ['sshpass', '-p', 'hunter2', 'ssh'],
      ['sshpass', '-p', '***', 'ssh'],
    ],
    [
      ['ssh', '-p', '443', '-N'],
      ['ssh', '-p', '443', '-N'],
    ],
    [
      ['ssh', '-p443'],
      ['ssh', '-p443'],
    ],
    [
      ['curl', '-u', 'me:hunter2'],
      ['curl', '-u', 'me:***'],
    ],
    [
      ['env', 'AWS_SECRET_ACCESS_KEY=abc', 'LANG=C.UTF-8'],
      ['env', 'AWS_SECRET_ACCESS_KEY=***', 'LANG=C.UTF-8'],
    ],
    [
      ['docker', 'run', '-e', 'GITHUB_TOKEN=abc'],
      ['docker', 'run', '-e', 'GITHUB_TOKEN=***'],
    ],
    [
      ['curl', '-H', 'Authorization: Bearer abc'],
      ['curl', '-H', 'Authorization:***'],
    ],
    [
      ['curl', '-H', 'X-Trace: Bearer abc'],
      ['curl', '-H', 'X-Trace: Bearer ***'],
    ],
    [
      ['git', 'clone', 'https://me:hunter2@git.example/x'],
      ['git', 'clone', 'https://***@git.example/x'],
    ],
    [
      ['curl', 'https://a.example/?token=abc&page=2'],
      ['curl', 'https://a.example/?token=***&page=2'],
    ],
    [
      ['sh', '-c', 'export PASSWORD="two words"; run'],
      ['sh', '-c', 'export PASSWORD=***; run'],
    ],
    [
      ['curl', '-d', '{"password":"hunter2","user":"me"}'],
      ['curl', '-d', '{"password":***,"user":"me"}'],
    ],
    [
      ['x', 'ghp_0123456789abcdefghij'],
      ['x', '***'],
    ],
    [
      ['x', `key/${HEX}/end`],
      ['x', 'key/***/end'],
    ],
    [
      ['x', `sha256:${HEX}`],
      ['x', `sha256:${HEX}`],
    ],
    [
      ['x', 'Zm9vYmFyQmF6UXV4MTIzNDU2Nzg5'],
      ['x', '***'],
    ],
    // What must stay, because it is the evidence.
    [
      ['ssh', '-N', '-R', '2222:127.0.0.1:22', 'tunnel@203.0.113.10'],
      ['ssh', '-N', '-R', '2222:127.0.0.1:22', 'tunnel@203.0.113.10'],
    ],
    [['/usr/lib/python3.11/site-packages/numpy'], ['/usr/lib/python3.11/site-packages/numpy']],
    [
      ['python3', '-m', 'my_long_module_name_number_2.main'],
      ['python3', '-m', 'my_long_module_name_number_2.main'],
    ],
    [
      ['train', '--learning-rate=0.0001', 'stratum+tcp://pool:3333'],
      ['train', '--learning-rate=0.0001', 'stratum+tcp://pool:3333'],
    ],
  ];
  for (const [argv, expected] of cases) {
    test(`redacts: ${argv.join(' ')}`, () => {
      expect(redactArgv(argv)).toEqual(expected);
    });
  }

  test('is bounded and printable whatever comes', () => {
    const argument = fc.oneof(fc.string({ unit: 'binary', maxLength: 3_000 }), fc.string());
    fc.assert(
      fc.property(fc.array(argument, { maxLength: 100 }), (argv) => {
        const redacted = redactArgv(argv);
        expect(redacted.length).toBeLessThanOrEqual(65);
        // oxlint-disable-next-line no-control-regex -- the control characters are what is looked for
        for (const each of redacted) expect(each).not.toMatch(/[\u0000-\u001f\u007f\u2028\u202e]/);
      }),
      { numRuns: 100 },
    );
  });

  test('takes no longer than it should for what is made to be slow', () => {
    const startedAt = performance.now();
    for (const text of ['a'.repeat(1e6), '-'.repeat(1e6), 'token'.repeat(2e5), `${' '.repeat(1e6)}=`]) redactText(text);
    expect(performance.now() - startedAt).toBeLessThan(500);
  });

  test('hides a secret of any value after its flag', () => {
    const secret = fc.stringMatching(/^[a-z][A-Za-z0-9]{7,30}$/);
    fc.assert(
      fc.property(secret, fc.constantFrom('--token', '--password', '--client-secret', '--api-key'), (value, flag) => {
        expect(redactArgv(['x', flag, value, `${flag}=${value}`]).join(' ')).not.toContain(value);
      }),
    );
  });
});
