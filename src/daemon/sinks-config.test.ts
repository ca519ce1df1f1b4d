import { chmod, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { readDocument } from '../profile/document.ts';
import { formatProblem, problemsOf, ruleOf, type SchemaNode } from '../profile/problems.ts';
import { readSinks, SinksConfig } from './sinks-config.ts';

const Config = z.strictObject({ sinks: SinksConfig });
const KEY = `whsec_${Buffer.alloc(32, 'k').toString('base64')}`;

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ringfence-sinks-'));
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function file(name: string, content: string, mode = 0o600): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  await chmod(path, mode);
  return path;
}

/** The sinks, or what a person reads about their mistakes. */
function parse(lines: readonly string[]): z.infer<typeof SinksConfig> | readonly string[] {
  const text = ['sinks:', '  ops:', ...lines.map((line) => `    ${line}`), ''].join('\n');
  const document = readDocument({ file: 'config.yaml', text });
  if (!document.ok) return document.problems.map(formatProblem);
  const parsed = Config.safeParse(document.value, { error: ruleOf });
  if (parsed.success) return parsed.data.sinks;
  const schema = z.toJSONSchema(Config, { io: 'input' }) as SchemaNode;
  return problemsOf(parsed.error.issues, { document, schema, hidden: () => false }).map(formatProblem);
}

async function read(lines: readonly string[]): Promise<unknown> {
  const sinks = parse(lines);
  if (Array.isArray(sinks)) throw new Error(sinks.join('\n'));
  return (await readSinks(sinks as z.infer<typeof SinksConfig>))['ops'];
}

describe('each type of sink', () => {
  test('is read with its secrets', async () => {
    const webhookKey = await file('webhook', `${KEY}\n`);
    const slackUrl = await file('slack', 'https://hooks.slack.com/services/T/B/x\n');
    const routingKey = await file('pagerduty', 'R0123456789abcdef0123456789abcde\n');
    const token = await file('token', 'hunter2\n');
    const program = await file('program', '#!/bin/sh\n', 0o755);
    const read1 = await read([
      'type: webhook',
      'url: https://hooks.example.com/x',
      `secretFiles: [${webhookKey}]`,
      'minSeverity: high',
      'types: [incident.opened]',
      'storm: { after: 3 }',
      'heartbeatSeconds: 60',
    ]);
    expect(read1).toEqual({
      type: 'webhook',
      url: 'https://hooks.example.com/x',
      keys: [KEY],
      allowPrivate: false,
      minSeverity: 'high',
      types: ['incident.opened'],
      stormAfter: 3,
      stormWindowMs: 60_000,
      heartbeatMs: 60_000,
    });
    expect(await read(['type: slack', `urlFile: ${slackUrl}`])).toEqual({
      type: 'slack',
      url: 'https://hooks.slack.com/services/T/B/x',
      allowPrivate: false,
    });
    expect(await read(['type: pagerduty', `routingKeyFile: ${routingKey}`])).toEqual({
      type: 'pagerduty',
      url: 'https://events.pagerduty.com/v2/enqueue',
      routingKey: 'R0123456789abcdef0123456789abcde',
      allowPrivate: false,
    });
    expect(
      await read([
        'type: alertmanager',
        'url: http://127.0.0.1:9093',
        'allowPrivate: true',
        `bearerTokenFile: ${token}`,
        'labels: { team: agents }',
      ]),
    ).toEqual({
      type: 'alertmanager',
      url: 'http://127.0.0.1:9093',
      allowPrivate: true,
      labels: { team: 'agents' },
      firingMs: 86_400_000,
      bearerToken: 'hunter2',
    });
    expect(await read(['type: journald'])).toEqual({ type: 'journald', socketPath: '/run/systemd/journal/socket' });
    expect(await read(['type: exec', `command: [${program}, --loud]`])).toEqual({
      type: 'exec',
      command: [program, '--loud'],
      timeoutMs: 15_000,
    });
  });
});

describe('a mistake', () => {
  type Case = readonly [title: string, lines: readonly string[], expected: RegExp];
  const cases: readonly Case[] = [
    [
      'a missing key',
      ['type: webhook', 'url: https://x.example/'],
      /config\.yaml:2:3 sinks\.ops\.secretFiles: is required/,
    ],
    [
      'a key of another type',
      ['type: journald', 'timeoutSeconds: 3'],
      /timeoutSeconds: is not for a sink of type journald/,
    ],
    ['an unknown key', ['type: journald', 'sokcet: /x'], /sokcet: is an unknown key; did you mean socket\?/],
    ['an unknown type', ['type: webhok', 'url: https://x.example/'], /type: must be .* \(did you mean webhook\?\)/],
    ['a type of alert that none is', ['type: journald', 'types: [incident.open]'], /did you mean incident\.opened/],
    ['a relative path', ['type: slack', 'urlFile: slack'], /must be an absolute path/],
    [
      'a label that is none',
      ['type: alertmanager', 'url: http://x/', 'labels: { a-b: x }'],
      /must be the name of a label/,
    ],
    ['a heartbeat too fast', ['type: journald', 'heartbeatSeconds: 1'], /must be at least 5/],
  ];
  for (const [title, lines, expected] of cases) {
    test(`is reported at its place: ${title}`, () => {
      expect((parse(lines) as readonly string[]).join('\n')).toMatch(expected);
    });
  }

  test('does not show a URL that is a secret', () => {
    const lines = parse(['type: slack', 'url: https://hooks.slack.com/services/T/B/hunter2', 'urlFile: /x']);
    expect(lines).toEqual([expect.stringMatching(/sinks\.ops\.type: `url` is not for a sink of type slack/)]);
    expect(JSON.stringify(lines)).not.toMatch(/hunter2/);
  });
});

describe('a file', () => {
  const slack = (path: string) => ['type: slack', `urlFile: ${path}`];

  test('that others can read is refused, and one that only its owner can read is not', async () => {
    const path = await file('url', 'https://hooks.slack.com/services/T/B/hunter2', 0o644);
    await expect(read(slack(path))).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: `sinks.ops.urlFile: ${path} can be read by others (mode 644); it must be 0600 or stricter`,
      hint: `chmod 600 ${path}`,
    });
    await chmod(path, 0o400);
    expect(await read(slack(path))).toMatchObject({ type: 'slack' });
  });

  test('that is not there, is none, is too long or holds something else is refused in one line', async () => {
    const pipe = join(folder, 'pipe');
    await execa('mkfifo', ['-m', '600', pipe]);
    const loop = join(folder, 'loop');
    await symlink(loop, loop);
    type Case = readonly [path: string, why: RegExp];
    const cases: readonly Case[] = [
      [join(folder, 'none'), /ENOENT/],
      [folder, /is not a file/],
      [pipe, /is not a file/],
      [loop, /ELOOP/],
      [await file('long', 'x'.repeat(5_000)), /larger than 4096 bytes/],
      [await file('empty', '\n'), /must hold one line/],
      [await file('lines', 'a\nb\n'), /must hold one line/],
      [await file('escape', 'https://x/\u001b[2J'), /must hold one line/],
    ];
    for (const [path, why] of cases) {
      await expect(read(slack(path))).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(why),
      });
      await expect(read(slack(path))).rejects.toThrow(/^sinks\.ops\.urlFile: [^\n]*$/);
    }
  });

  test('with a webhook key must hold one, and no error shows it', async () => {
    const path = await file('key', 'hunter2hunter2');
    const lines = ['type: webhook', 'url: https://x.example/', `secretFiles: [${path}]`];
    await expect(read(lines)).rejects.toMatchObject({
      message: expect.stringMatching(/does not hold a key of the form/),
    });
    await expect(read(lines)).rejects.not.toMatchObject({ message: expect.stringMatching(/hunter2hunter2/) });
  });

  test('of an authority must hold a certificate', async () => {
    const path = await file('ca', 'not a certificate', 0o644);
    const url = await file('url', 'https://x.example/');
    await expect(read([...slack(url), `caFile: ${path}`])).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: `sinks.ops.caFile: ${path} holds no PEM certificate`,
    });
  });

  test('that is a command must be a program that nobody else can change', async () => {
    const open = await file('open', '#!/bin/sh\n', 0o777);
    const text = await file('text', '#!/bin/sh\n', 0o644);
    const command = (path: string) => ['type: exec', `command: [${path}]`];
    await expect(read(command(open))).rejects.toMatchObject({
      message: expect.stringMatching(/can be changed by others/),
    });
    await expect(read(command(text))).rejects.toMatchObject({ message: expect.stringMatching(/EACCES/) });
    await expect(read(command(folder))).rejects.toMatchObject({ message: expect.stringMatching(/is not a file/) });
    await expect(read(command('program'))).rejects.toMatchObject({ message: expect.stringMatching(/absolute path/) });
    await chmod(open, 0o755);
    expect(await read(command(open))).toMatchObject({ type: 'exec' });
  });
});
