import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { checkMount, recheckMount } from '../../src/daemon/mounts.ts';
import { readSecrets, SecretStore } from '../../src/daemon/secrets.ts';
import { ENGINE_HOST, until, useLaunchLab, WAIT } from '../support/launch-lab.ts';

/** What of the host reaches an agent: the folders and the secrets that its profile names, as they were checked. */
const lab = useLaunchLab();

describe('a mount', () => {
  const grantor = { uid: 0, gid: 0 };
  const places = { forbidden: [] };

  async function workspace(name: string): Promise<string> {
    const path = join(lab.folder, name);
    await mkdir(path, { recursive: true, mode: 0o777 });
    await execa('chown', ['10001:10001', path]);
    return path;
  }

  it.each(['rw', 'ro'] as const)('%s is what was checked, private, and of that mode', async (mode) => {
    const hostPath = await workspace(`workspace-${mode}`);
    await writeFile(join(hostPath, 'given'), 'given');
    const request = { hostPath, mode, grantor, profilePath: join(lab.folder, 'profile.yaml') };
    const checked = await checkMount(request, places);
    const spec = { mounts: [{ hostPath, path: '/workspace', mode, sizeBytesMax: null }] };
    const binds = [{ source: checked.realPath, target: '/workspace', readOnly: mode === 'ro' }];
    const script = `cat /workspace/given; echo made >/workspace/made && echo " written" || echo " refused"; ${WAIT}`;
    const launched = await lab.launch(script, { spec: { command: ['/bin/sh', '-c', script], ...spec }, binds });
    expect(await lab.mismatches(launched, { '/workspace': checked.location })).toEqual([]);
    await recheckMount(checked);
    await until(async () => (await lab.log(launched)).includes('\n'));
    expect(await lab.log(launched)).toContain(mode === 'rw' ? 'given written' : ' refused');
  });

  it('that was exchanged between check and launch is a mismatch', async () => {
    const hostPath = await workspace('exchanged');
    const other = await workspace('other');
    const checked = await checkMount({ hostPath, mode: 'rw', grantor, profilePath: '/p' }, places);
    await rm(hostPath, { recursive: true });
    await symlink(other, hostPath);
    const binds = [{ source: checked.realPath, target: '/workspace', readOnly: false }];
    const spec = { mounts: [{ hostPath, path: '/workspace', mode: 'rw' as const, sizeBytesMax: null }] };
    const launched = await lab.launch(WAIT, { spec, binds });
    const found = await lab.mismatches(launched, { '/workspace': checked.location });
    expect(found).toEqual([expect.stringMatching(/^mounts\.\/workspace\.source: .*exchanged, got .*other$/)]);
    await expect(recheckMount(checked)).rejects.toMatchObject({ code: 'MOUNT_REFUSED' });
  });

  it('of a folder with a socket in it is refused, and without it is not', async () => {
    const hostPath = await workspace('with-socket');
    const deep = join(hostPath, 'a', 'b');
    await mkdir(deep, { recursive: true });
    const request = { hostPath, mode: 'ro' as const, grantor, profilePath: '/p' };
    await expect(checkMount(request, places)).resolves.toMatchObject({ realPath: hostPath });
    const server = createServer().listen(join(deep, 'docker.sock'));
    await new Promise((resolve) => server.once('listening', resolve));
    await expect(checkMount(request, places)).rejects.toMatchObject({ code: 'MOUNT_REFUSED' });
    await new Promise((resolve) => server.close(resolve));
  });

  it('of a bind mount that leads to a forbidden folder is refused by where it leads', async () => {
    const hostPath = await workspace('led-astray');
    await expect(checkMount({ hostPath, mode: 'ro', grantor, profilePath: '/p' }, places)).resolves.toBeDefined();
    await execa('mount', ['--bind', '/etc', hostPath]);
    try {
      const refused = checkMount({ hostPath, mode: 'ro', grantor, profilePath: '/p' }, places);
      await expect(refused).rejects.toMatchObject({
        code: 'MOUNT_REFUSED',
        message: expect.stringContaining('/etc') as string,
      });
    } finally {
      await execa('umount', [hostPath]);
    }
  });
});

describe('a secret', () => {
  it.each([
    ['one line', 'sk-one-line\n', 'sk-one-line'],
    ['several lines and quotes', 'line one\n  $(id) `id` "two" \\n\n\n', 'line one\n  $(id) `id` "two" \\n\n'],
  ])('of %s reaches the agent whole and nobody else', async (_name, written, value) => {
    const file = join(lab.folder, 'secret-file');
    await rm(file, { force: true });
    await writeFile(file, written, { mode: 0o600 });
    const secrets = [
      { env: 'API_KEY', file },
      { env: 'TOKEN_FILE', file },
    ];
    const read = await readSecrets(secrets, { grantor: { uid: 0 }, sharedFolders: [] });
    const runId = lab.nextRunId();
    const store = await SecretStore.open(join(lab.folder, 'secrets'));
    const secretsFolder = await store.stage({
      runId,
      user: { uid: 10_001, gid: 10_001 },
      secrets: read,
    });
    const script = `printf '%s' "$API_KEY" >/tmp/got; cmp /tmp/got "$API_KEY_FILE" && cmp /tmp/got "$TOKEN_FILE" && echo same
      wc -c </tmp/got; echo x >>/run/secrets/API_KEY || echo unwritable; ${WAIT}`;
    const launched = await lab.launch(script, { spec: { secrets, command: ['/bin/sh', '-c', script] }, secretsFolder });
    await until(async () => (await lab.log(launched)).includes('unwritable'));
    expect(await lab.mismatches(launched)).toEqual([]);
    const log = await lab.log(launched);
    expect(log).toMatch(/^same$/m);
    expect(Number(/^ *(\d+)$/m.exec(log)?.[1])).toBe(Buffer.byteLength(value));
    const { stdout: inspection } = await execa('docker', ['inspect', launched.id], {
      env: { DOCKER_HOST: ENGINE_HOST },
    });
    const { stdout: processes } = await execa('ps', ['axww', '-o', 'args'], {});
    const marker = value.split('\n')[0] ?? '';
    expect({
      inspect: inspection.includes(marker),
      processes: processes.includes(marker),
      log: log.includes(marker),
    }).toEqual({
      inspect: false,
      processes: false,
      log: false,
    });
    await store.unstage(runId);
    await store.close();
  });
});
