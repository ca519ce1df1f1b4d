import { chmodSync, chownSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { dirname } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectClient } from '../../src/api/client.ts';
import { cli, layOutDaemon, startDaemon, type TestDaemon } from '../support/daemon.ts';
import { command, docker, lab } from '../support/lab.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';
import { profileText, writeProfile, type ProfileLines } from '../support/profile.ts';

/** Bad input, and what it gets: the place, the value, the rule, exit 126 or 2, and nothing that was made. */
let daemon: TestDaemon;
let before: Snapshot;
let server: Server;

beforeAll(async () => {
  daemon = await startDaemon();
  before = await snapshot();
  mkdirSync(at('plain'));
  mkdirSync(at('with-socket'));
  server = createServer().listen(at('with-socket/s.sock'));
  await new Promise((resolve) => server.once('listening', resolve));
  symlinkSync('/etc', at('to-etc'));
  symlinkSync('/', at('to-root'));
  symlinkSync(at('with-socket/s.sock'), at('to-socket'));
  symlinkSync(lab.dockerSocket, at('to-engine'));
  symlinkSync(dirname(lab.dockerSocket), at('to-engine-folder'));
  symlinkSync(await docker('info', '--format', '{{.DockerRootDir}}'), at('to-images'));
});

afterAll(async () => {
  const kinds = (await records()).map(({ kind }) => kind);
  const leaks = await leaksSince(before);
  await new Promise((resolve) => server.close(resolve));
  await daemon.close();
  expect({
    leaks,
    admitted: kinds.filter((kind) => kind !== 'daemon.started' && kind !== 'ledger.key' && kind !== 'run.refused'),
  }).toEqual({
    leaks: [],
    admitted: [],
  });
});

const at = (name: string): string => `${daemon.folder}/${name}`;

type Refused = { readonly kind: string };

async function records(): Promise<Refused[]> {
  const client = connectClient({ socketPath: daemon.socket });
  const all: Refused[] = [];
  for await (const record of client.events({ follow: false, sinceMs: null, run: null })) all.push(record);
  return all;
}

type Expected = { readonly code: string; readonly place: string; readonly says: string };

/** Runs it and expects the whole of a refusal: what a person reads, the exit code, and the record. */
async function expectRefused(file: string, expected: Expected, words: readonly string[] = []): Promise<string> {
  const count = (await records()).length;
  const { exitCode, stdout, stderr } = await daemon.cli(['run', file, ...words]);
  const line = `${file}${expected.place}${expected.says}`;
  expect({ exitCode, stdout, stderr }).toEqual({ exitCode: 126, stdout: '', stderr: expect.stringContaining(line) });
  expect(stderr).toMatch(/^hint: ./m);
  // Said once, not once by the daemon and once by the command line.
  expect(stderr.split(line)).toHaveLength(2);
  const recorded = (await records()).slice(count);
  expect(recorded).toEqual([
    expect.objectContaining({
      kind: 'run.refused',
      code: expected.code,
      profilePath: file,
      message: expect.stringContaining(line),
    }),
  ]);
  return stderr;
}

function refuses(title: string, changes: ProfileLines, expected: Expected, words?: readonly string[]): void {
  it(`${title}, with its place`, async () => {
    await expectRefused(writeProfile(at('profile.yaml'), changes), expected, words);
  });
}

const invalid = (place: string, says: string): Expected => ({ code: 'PROFILE_INVALID', place: `:${place} `, says });

describe('a profile that is not valid', () => {
  refuses('an unknown key', { memroy: '1GiB' }, invalid('9:1', 'memroy: is an unknown key'));
  refuses(
    'an unknown limit',
    { limits: '{ cpu: 1, memory: 64MiB, pids: 16, memry: 1GiB }' },
    invalid('6:44', 'limits.memry: is an unknown key; did you mean memory?'),
  );
  refuses(
    'a wrong unit',
    { budget: '{ wall: 10MiB }' },
    invalid('7:17', 'budget.wall: must be a time with a unit, such as 30s, 15m or 2h, got "10MiB"'),
  );
  refuses('a missing unit', { budget: '{ wall: 10 }' }, invalid('7:17', 'budget.wall: '));
  refuses(
    'a bound that is missing',
    { limits: '{ cpu: 1, memory: 64MiB }' },
    invalid('6:1', 'limits.pids: is required'),
  );
  refuses('an empty command', { command: '[]' }, invalid('4:10', 'command: must not be empty, got an empty list'));
  refuses('user root', { user: 'root' }, invalid('5:7', 'user: '));
  refuses('user 0', { user: '0' }, invalid('5:7', 'user: '));
  refuses('an incomplete address', { egress: '{ allow: ["1.2.3"] }' }, invalid('8:19', 'egress.allow[0]: '));
  refuses('everything', { egress: '{ allow: ["*"] }' }, invalid('8:19', 'egress.allow[0]: '));
  refuses('a whole top-level domain', { egress: '{ allow: ["*.com"] }' }, invalid('8:19', 'egress.allow[0]: '));

  it('a duplicate key', async () => {
    writeFileSync(at('twice.yaml'), `${profileText()}user: 10002\n`, { mode: 0o644 });
    await expectRefused(at('twice.yaml'), invalid('9:1', 'user: is there twice; the first is in line 5'));
  });

  it('a half-written one', async () => {
    const text = profileText({ command: '[/bin/true, "one", "two"]' });
    writeFileSync(at('half.yaml'), text.slice(0, text.indexOf('"two"') + 3), { mode: 0o644 });
    await expectRefused(at('half.yaml'), invalid('4:32', 'ends too early: '));
  });

  it('all that is wrong at once, in the order of the file', async () => {
    const file = writeProfile(at('many.yaml'), { user: 'root', budget: '{ wall: 10 }', memroy: '1GiB' });
    const { stderr } = await daemon.cli(['run', file]);
    const places = [...stderr.matchAll(/^\S+\.yaml:(\d+):\d+ (\S+):/gm)].map(([, line, path]) => [line, path]);
    expect(places).toEqual([
      ['5', 'user'],
      ['7', 'budget.wall'],
      ['9', 'memroy'],
    ]);
  });
});

describe('a mount', () => {
  const mount = (host: string): ProfileLines => ({ mounts: `[{ host: ${host}, path: /w }]` });
  for (const host of [
    '/',
    '/etc',
    '/etc/ssl',
    '/proc',
    '/var/run',
    '/run',
    '/var',
    '/sys',
    '/var/run/docker.sock',
    '~',
  ]) {
    refuses(`of ${host}`, mount(host), invalid('9:18', 'mounts[0].host: must'));
  }
  it('of the engine’s own socket and of its folder', async () => {
    for (const host of [lab.dockerSocket, dirname(lab.dockerSocket)]) {
      await expectRefused(
        writeProfile(at('profile.yaml'), mount(host)),
        invalid('9:18', 'mounts[0].host: must not be in /run'),
      );
    }
  });
  it.each([
    ['a socket', 'with-socket/s.sock', 'is a socket, a device or a pipe'],
    ['a link to a socket', 'to-socket', 'is a socket, a device or a pipe'],
    ['a folder with a socket in it', 'with-socket', 'socket'],
    ['a link to /etc', 'to-etc', 'it leads to /etc, which must not be /etc'],
    ['a link to /', 'to-root', 'it leads to /, which must not be /'],
    ['a link to the socket of the engine', 'to-engine', 'which must not be in /run'],
    ['a link to the folder of that socket', 'to-engine-folder', 'which must not be in /run'],
    ['a link to the images of the engine', 'to-images', 'reaches'],
    ['the state of the daemon', 'state', 'reaches'],
    ['a folder that is not there', 'nowhere', 'it cannot be followed to a folder (ENOENT)'],
  ])('of %s, by what is really there', async (_what, name, says) => {
    const file = writeProfile(at('profile.yaml'), mount(at(name)));
    const refused = `mounts[0].host: the mount of ${at(name)} is refused: `;
    expect(await expectRefused(file, { code: 'MOUNT_REFUSED', place: ':9:18 ', says: refused })).toContain(says);
  });
});

describe('what this version or this host cannot hold', () => {
  const limits = (more: string): ProfileLines => ({ limits: `{ cpu: 1, memory: 64MiB, pids: 16, ${more} }` });
  refuses('a GPU', limits('gpu: { count: 1 }'), {
    code: 'HOST_CANNOT_ENFORCE',
    place: ':6:49 ',
    says: 'limits.gpu: cannot be held on this host: ',
  });
  const beyond = (place: string, says: string): Expected => ({
    code: 'HOST_CANNOT_ENFORCE',
    place: `:${place} `,
    says,
  });
  it.each([
    [
      '1000TiB',
      'rw',
      ['must be at most ', ', what the disk of this host has left, got 1000 TiB'],
      'HOST_CANNOT_ENFORCE',
    ],
    ['2MiB', 'rw', ['must be at least 4 MiB'], 'HOST_CANNOT_ENFORCE'],
    ['0MiB', 'rw', ['must be at least 1 MiB, got "0MiB"'], 'PROFILE_INVALID'],
    ['-1GiB', 'rw', ['must be a size with a unit'], 'PROFILE_INVALID'],
    ['99999999999TiB', 'rw', ['small enough to count exactly'], 'PROFILE_INVALID'],
    ['1GiB', 'ro', ['bounds nothing: the agent cannot write to this mount'], 'PROFILE_INVALID'],
  ])('a mount of size %s, mode %s', async (size, mode, says, code) => {
    const head = `[{ host: ${at('plain')}, path: /w, mode: ${mode}, size: `;
    const file = writeProfile(at('profile.yaml'), { mounts: `${head}${size} }]` });
    const place = `:9:${`mounts: ${head}`.length + 1} `;
    const said = await expectRefused(file, { code, place, says: 'mounts[0].size: ' });
    for (const words of says) expect(said).toContain(words);
  });
  refuses(
    'more scratch than there is memory',
    { limits: '{ cpu: 1, memory: 64MiB, pids: 16, disk: 900TiB }' },
    beyond('6:50', 'limits.disk: must be at most '),
  );
  refuses(
    'more cores than there are',
    { limits: '{ cpu: 1000, memory: 64MiB, pids: 16 }' },
    { code: 'HOST_CANNOT_ENFORCE', place: ':6:16 ', says: 'limits.cpu: must be at most ' },
  );
  refuses(
    'more memory than there is',
    { limits: '{ cpu: 1, memory: 900000GiB, pids: 16 }' },
    { code: 'HOST_CANNOT_ENFORCE', place: ':6:27 ', says: 'limits.memory: must be at most ' },
  );
});

describe('a launch', () => {
  refuses(
    'of an image that is not there',
    { image: 'ringfence/none:local' },
    { code: 'IMAGE_NOT_FOUND', place: ':3:8 ', says: 'image: the image ringfence/none:local is not on this host' },
  );
  refuses(
    'with an alert to nobody',
    { alerts: '[nobody]' },
    { code: 'SINK_UNKNOWN', place: ':9:10 ', says: 'alerts[0]: the daemon has no sink "nobody"' },
  );
  refuses(
    'with a command where the profile has its own',
    {},
    {
      code: 'COMMAND_FIXED',
      place: ':4:10 ',
      says: 'command: is fixed by the profile, so "\\u{1b}[2Jid" cannot replace it',
    },
    ['--', '\u001b[2Jid'],
  );
  refuses(
    'without the command that the profile leaves open',
    { command: 'any' },
    { code: 'COMMAND_MISSING', place: ':4:10 ', says: 'command: ' },
  );
  refuses('in the background', { user: 'root' }, invalid('5:7', 'user: '), ['-d']);
  it('with a secret that others can read', async () => {
    writeFileSync(at('key'), 'k\n', { mode: 0o644 });
    const file = writeProfile(at('profile.yaml'), { secrets: `[{ env: API_KEY, file: ${at('key')} }]` });
    const says = `secrets: the secret API_KEY in ${at('key')} can be read by others (mode 644)`;
    await expectRefused(file, { code: 'SECRET_UNREADABLE', place: ':9:10 ', says });
  });
});

describe('a profile that is not only its owner’s', () => {
  const untrusted = (says: string): Expected => ({ code: 'PROFILE_UNTRUSTED', place: '', says });

  it('belongs to another user', async () => {
    const file = writeProfile(at('foreign.yaml'));
    chownSync(file, 12_345, 12_345);
    await expectRefused(file, untrusted(' belongs to user 12345; it must belong to you (user 0) or root'));
  });

  it.each([0o666, 0o664])('can be written by others, with mode %o', async (mode) => {
    const file = writeProfile(at('open.yaml'));
    chmodSync(file, mode);
    await expectRefused(file, untrusted(` can be written by others (mode ${mode.toString(8)})`));
  });

  it('has ten megabytes, for the command line and for the daemon', async () => {
    const file = at('large.yaml');
    writeFileSync(file, `# ${'x'.repeat(10_000_000)}\n`, { mode: 0o644 });
    const says = 'is 10000003 bytes long; a profile has at most 262144';
    const { exitCode, stderr } = await daemon.cli(['run', file]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 126, stderr: expect.stringContaining(`${file}: ${says}`) });
    const client = connectClient({ socketPath: daemon.socket });
    const rest = { command: null, labels: {}, attach: false, tty: false, stdin: false };
    const launched = client.launch({ profilePath: file, profileText: 'x', ...rest });
    await expect(launched).rejects.toMatchObject({ code: 'PROFILE_INVALID', message: `${file}: ${says}` });
  });

  it('is not what the caller sent', async () => {
    const file = writeProfile(at('changing.yaml'));
    const client = connectClient({ socketPath: daemon.socket });
    const rest = { command: null, labels: {}, attach: false, tty: false, stdin: false };
    const launched = client.launch({ profilePath: file, profileText: profileText({ user: '10002' }), ...rest });
    await expect(launched).rejects.toMatchObject({ code: 'PROFILE_CHANGED', message: `${file} is not what was sent` });
  });

  it('is a folder, a pipe, or not there', async () => {
    await command('mkfifo', [at('pipe')]);
    const said = async (name: string) => {
      const { exitCode, stderr } = await daemon.cli(['run', at(name)]);
      return [exitCode, stderr.split('\n')[0]];
    };
    expect(await said('plain')).toEqual([126, `ringfence: ${at('plain')}: it is not a file`]);
    expect(await said('pipe')).toEqual([126, `ringfence: ${at('pipe')}: it is not a file`]);
    expect(await said('none')).toEqual([126, `ringfence: ${at('none')}: there is no such file`]);
  });
});

describe('bad usage', () => {
  it.each([
    [['run']],
    [['run', 'p.yaml', '--label', 'no-value']],
    [['run', 'p.yaml', '--nonsense']],
    [['nonsense']],
    [['inspect', '../../etc']],
  ])('%j exits 2', async (words) => {
    const { exitCode, stdout, stderr } = await daemon.cli(words);
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' });
    expect(stderr).toMatch(/^ringfence: ./);
  });
});

describe('a configuration of the daemon', () => {
  const SECRET = 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz';

  async function startOn(change: (paths: ReturnType<typeof layOutDaemon>) => void) {
    const paths = layOutDaemon({ sinks: { ops: { url: 'http://127.0.0.1:9/', secret: SECRET } } });
    try {
      change(paths);
      const places = ['--config', paths.config, '--state', paths.state, '--socket', paths.socket];
      const { exitCode, stderr } = await cli(['daemon', ...places]);
      const made = [...readdirSync(paths.state), ...readdirSync(paths.sockets)];
      return { exitCode, made, stderr: stderr.replaceAll(paths.folder, 'FOLDER') };
    } finally {
      paths.remove();
    }
  }
  const refusedWith = (text: string) => ({ exitCode: 2, made: [], stderr: expect.stringContaining(text) as string });

  it('whose secret others can read', async () => {
    const refused = await startOn(({ folder }) => chmodSync(`${folder}/ops.secret`, 0o644));
    expect(refused).toEqual(refusedWith('sinks.ops.secretFiles: FOLDER/ops.secret can be read by others (mode 644)'));
    expect(refused.stderr).toContain('hint: chmod 600 FOLDER/ops.secret');
  });

  it('that others can write', async () => {
    const refused = await startOn(({ config }) => chmodSync(config, 0o666));
    expect(refused).toEqual(refusedWith('FOLDER/config.yaml can be written by others (mode 666)'));
  });

  it('that belongs to somebody else', async () => {
    const refused = await startOn(({ config }) => chownSync(config, 12_345, 12_345));
    expect(refused).toEqual(refusedWith('FOLDER/config.yaml belongs to user 12345; it must belong to root'));
  });

  it.each([
    ['an unknown key', 'runsMax: 3\nrunMax: 4\n', ':2:1 runMax: is an unknown key; did you mean runsMax?'],
    ['a wrong value', 'runsMax: many\n', ':1:10 runsMax: must be a number, got "many"'],
    ['a wrong mode', 'socket:\n  mode: "0999"\n', ':2:9 socket.mode: must be an octal mode such as "0660", got "0999"'],
    ['a duplicate key', 'runsMax: 3\nrunsMax: 4\n', ':2:1 runsMax: is there twice; the first is in line 1'],
    ['half a value', 'dns: { upstreams: [192.0.2.1\n', ':1:'],
  ])('with %s', async (_what, text, said) => {
    const refused = await startOn(({ config }) => writeFileSync(config, text, { mode: 0o600 }));
    expect(refused).toEqual(refusedWith(`FOLDER/config.yaml${said}`));
  });

  it('that is not there although somebody named it', async () => {
    const refused = await startOn(({ config }) => rmSync(config));
    expect(refused).toEqual(refusedWith('FOLDER/config.yaml: ENOENT'));
  });
});
