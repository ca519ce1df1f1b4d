import { chmod, chown, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { commandWithSecrets } from '../run/environment.ts';
import { readSecrets, SECRET_BYTES_MAX, SecretStore } from './secrets.ts';

const OWN = { uid: process.getuid?.() ?? 0 };
const IS_ROOT = OWN.uid === 0;

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ringfence-secrets-'));
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function secretFile(content: string | Uint8Array, mode = 0o600): Promise<string> {
  const file = join(folder, 'secret');
  await rm(file, { force: true });
  await writeFile(file, content);
  await chmod(file, mode);
  return file;
}

async function read(file: string, reader = { grantor: OWN, sharedFolders: [] as string[] }): Promise<string> {
  const [secret] = await readSecrets([{ env: 'KEY', file }], reader);
  return Buffer.from(secret?.value ?? []).toString();
}

describe('readSecrets', () => {
  it.each([
    ['s3cret', 's3cret'],
    ['s3cret\n', 's3cret'],
    ['s3cret\n\n', 's3cret\n'],
    ['  two\nlines ', '  two\nlines '],
  ])('reads %j as %j', async (content, value) => {
    expect(await read(await secretFile(content))).toBe(value);
  });

  it('takes the greatest size and refuses one byte more', async () => {
    expect((await read(await secretFile('x'.repeat(SECRET_BYTES_MAX)))).length).toBe(SECRET_BYTES_MAX);
    await expect(read(await secretFile('x'.repeat(SECRET_BYTES_MAX + 1)))).rejects.toThrow(/larger than 65536 bytes/);
  });

  it.each([0o640, 0o604, 0o620, 0o601])('refuses a file of mode %o', async (mode) => {
    const pending = read(await secretFile('s3cret', mode));
    await expect(pending).rejects.toMatchObject({ code: 'SECRET_UNREADABLE' });
    await expect(pending).rejects.toThrow(/can be read by others/);
  });

  it('refuses what is not a plain file with something in it', async () => {
    await expect(read(await secretFile('\n'))).rejects.toThrow(/is empty/);
    await expect(read(await secretFile('a\0b'))).rejects.toThrow(/NUL/);
    await expect(read(join(folder, 'none'))).rejects.toThrow(/cannot be opened \(ENOENT\)/);
    await mkdir(join(folder, 'directory'), { mode: 0o700 });
    await expect(read(join(folder, 'directory'))).rejects.toThrow(/not a regular file/);
    await symlink(await secretFile('s3cret'), join(folder, 'link'));
    await expect(read(join(folder, 'link'))).rejects.toThrow(/symbolic link/);
    await execa('mkfifo', ['-m', '600', join(folder, 'pipe')]);
    await expect(read(join(folder, 'pipe'))).rejects.toThrow(/not a regular file/);
  });

  it('never shows the value in an error', async () => {
    const failure = await read(await secretFile('s3cret\0')).catch((error: unknown) => error as Error);
    expect(JSON.stringify([failure, (failure as Error).message])).not.toContain('s3cret');
  });

  it.runIf(IS_ROOT)('gives a user what is theirs and what root shares, and nothing else of root', async () => {
    const user = { grantor: { uid: 1234 }, sharedFolders: [] as string[] };
    const file = await secretFile('s3cret');
    await expect(read(file, user)).rejects.toThrow(/belongs to user 0, and the profile to user 1234/);
    expect(await read(file, { ...user, sharedFolders: [folder] })).toBe('s3cret');
    await expect(read(file, { ...user, sharedFolders: [join(folder, 'other')] })).rejects.toThrow(/belongs to user 0/);
    await chown(file, 1234, 1234);
    expect(await read(file, user)).toBe('s3cret');
    await expect(read(file)).rejects.toThrow(/belongs to user 1234, and the profile to user 0/);
  });
});

describe.runIf(IS_ROOT)('SecretStore', () => {
  const user = { uid: 10_001, gid: 10_002 };
  const runId = 'rtest00000001';

  it('keeps secrets in memory, for one user to read, until they are removed', async () => {
    const store = await SecretStore.open(join(folder, 'store'));
    try {
      const secrets = [{ fileName: 'KEY', value: Buffer.from('s3cret') }];
      const staged = await store.stage({ runId, user, secrets });
      const [inside, file, above] = [
        await lstat(staged),
        await lstat(join(staged, 'KEY')),
        await lstat(join(folder, 'store')),
      ];
      const owned = (entry: typeof file) => [entry.uid, entry.gid, (entry.mode & 0o7777).toString(8)];
      expect([owned(inside), owned(file), owned(above)]).toEqual([
        [10_001, 10_002, '500'],
        [10_001, 10_002, '400'],
        [0, 0, '700'],
      ]);
      expect(await readFile('/proc/self/mountinfo', 'utf8')).toMatch(
        new RegExp(`${join(folder, 'store')} rw,nosuid,nodev,noexec[^\n]* - tmpfs ringfence-secrets`),
      );
      await store.unstage(runId);
      await store.unstage(runId);
      expect(await readdir(join(folder, 'store'))).toEqual([]);
    } finally {
      await store.close();
    }
    expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(folder);
  });

  it('is taken over from a supervisor that was killed, and cleaned of its runs', async () => {
    const killed = await SecretStore.open(join(folder, 'store'));
    await killed.stage({ runId, user, secrets: [] });
    await killed.stage({ runId: 'rtest00000002', user, secrets: [] });
    const store = await SecretStore.open(join(folder, 'store'));
    expect(await store.collectGarbage(new Set([runId]))).toEqual(['rtest00000002']);
    expect(await readdir(join(folder, 'store'))).toEqual([runId]);
    await store.close();
    expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(folder);
  });

  it('goes nowhere that somebody else owns', async () => {
    await mkdir(join(folder, 'theirs'));
    await chown(join(folder, 'theirs'), 1234, 1234);
    await expect(SecretStore.open(join(folder, 'theirs'))).rejects.toMatchObject({ code: 'SECRET_UNREADABLE' });
    await symlink('/tmp', join(folder, 'link'));
    await expect(SecretStore.open(join(folder, 'link'))).rejects.toMatchObject({ code: 'SECRET_UNREADABLE' });
  });
});

describe('the line of shell that reads secrets', () => {
  it.each(['plain', 'two words', 'a\nb', 'a\n\n', '\n\na', '$(id)`id`"\'\\n\\', '-n -e', ' \t lead and trail \t '])(
    'gives %j to the command unchanged, in every shell there is',
    async (value) => {
      await writeFile(join(folder, 'KEY'), value);
      const [, flag = '', script = '', ...rest] = commandWithSecrets(['printenv', 'KEY'], ['KEY']);
      const here = script.replaceAll('/run/secrets', folder);
      for (const shell of [['sh'], ['bash', '--posix'], ['busybox', 'sh']]) {
        const [file = '', ...args] = shell;
        const result = await execa(file, [...args, flag, here, ...rest], {
          reject: false,
          stripFinalNewline: false,
          extendEnv: true,
        });
        if (result.code === 'ENOENT') continue;
        expect(result.stdout).toBe(`${value}\n`);
      }
    },
  );

  it('does not start the command without its secret', async () => {
    const [, flag = '', script = '', ...rest] = commandWithSecrets(['echo', 'started'], ['KEY']);
    const result = await execa('sh', [flag, script.replaceAll('/run/secrets', folder), ...rest], { reject: false });
    expect({ code: result.exitCode, out: result.stdout }).toEqual({ code: 126, out: '' });
  });
});
