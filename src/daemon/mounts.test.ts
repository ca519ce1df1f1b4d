import { chmod, chown, mkdir, mkdtemp, realpath, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkMount, recheckMount } from './mounts.ts';
import type { HostPlaces, MountRequest } from './mounts.ts';

let folder: string;
let agent: string;

beforeEach(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'ringfence-mounts-')));
  // mkdtemp closes the folder to others, and these tests are about who may enter.
  await chmod(folder, 0o755);
  agent = join(folder, 'agent');
  await mkdir(agent);
});

afterEach(() => rm(folder, { recursive: true, force: true }));

const ROOT = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
const NOBODY = { uid: 65_534, gid: 65_534 };

function check(hostPath: string, change: Partial<MountRequest> = {}, places: HostPlaces = { forbidden: [] }) {
  return checkMount(
    { hostPath, mode: 'rw', grantor: ROOT, profilePath: join(folder, 'agent.yaml'), ...change },
    places,
  );
}

async function refusal(pending: Promise<unknown>): Promise<string> {
  const error: unknown = await pending.then(
    () => null,
    (failure: unknown) => failure,
  );
  expect(error).toMatchObject({ code: 'MOUNT_REFUSED' });
  return (error as Error).message;
}

describe('checkMount', () => {
  it('takes a folder made for the agent, and says where it really is', async () => {
    await mkdir(join(agent, 'deep', 'er'), { recursive: true });
    await writeFile(join(agent, 'deep', 'file'), '');
    const link = join(folder, 'link');
    await symlink(agent, link);
    expect(await check(agent)).toMatchObject({ hostPath: agent, realPath: agent, mode: 'rw' });
    expect(await check(link)).toMatchObject({ hostPath: link, realPath: agent });
    expect(await check(join(agent, 'deep', 'file'), { mode: 'ro' })).toMatchObject({ mode: 'ro' });
  });

  it.each([
    '/',
    '/etc',
    '/etc/ssl',
    '/proc',
    '/proc/self',
    '/sys',
    '/dev',
    '/dev/shm',
    '/run',
    '/var/run',
    '/root',
    '/boot',
    '/var',
    '/home',
    '/tmp',
  ])('refuses %s, straight and through a link and ..', async (place) => {
    await refusal(check(place, { mode: 'ro' }));
    await refusal(check(`${agent}/../../../../..${place}`, { mode: 'ro' }));
    const link = join(agent, 'link');
    await symlink(place, link);
    const message = await refusal(check(link, { mode: 'ro' }));
    expect(message).toContain(`the mount of ${link} is refused: `);
  });

  it('refuses the programs of the host only for writing', async () => {
    expect(await refusal(check('/usr/share'))).toContain('reaches /usr');
    await expect(check('/usr/share', { mode: 'ro' })).resolves.toMatchObject({ realPath: '/usr/share' });
  });

  it('refuses the supervisor’s own folders, what holds them and what is in them', async () => {
    const state = join(folder, 'state');
    await mkdir(join(state, 'inside'), { recursive: true });
    const places = { forbidden: [state, join(folder, 'not-there')] };
    for (const path of [state, join(state, 'inside'), folder])
      expect(await refusal(check(path, {}, places))).toContain(state);
    await expect(check(agent, {}, places)).resolves.toBeDefined();
  });

  it('refuses what is not there, and what is neither folder nor file', async () => {
    expect(await refusal(check(join(folder, 'nothing')))).toContain('ENOENT');
    const pipe = join(folder, 'pipe');
    await execa('mkfifo', [pipe]);
    expect(await refusal(check(pipe))).toContain('a socket, a device or a pipe');
    expect(await refusal(check('agent'))).toContain('not an absolute path');
    expect(await refusal(check('/dev/null', { mode: 'ro' }))).toContain('/dev');
  });

  it('refuses a folder with a socket in it, listening or not, and names it', async () => {
    const deep = join(agent, 'a', 'b');
    await mkdir(deep, { recursive: true });
    await expect(check(agent)).resolves.toBeDefined();
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(deep, 'x.sock'), resolve));
    expect(await refusal(check(agent, { mode: 'ro' }))).toContain(`the listening socket ${join(deep, 'x.sock')}`);
    // Renamed, the kernel's list still has the old name; the walk finds the new one.
    const moved = join(folder, 'moved');
    await rename(agent, moved);
    expect(await refusal(check(moved))).toContain(`the socket ${join(moved, 'a', 'b', 'x.sock')}`);
    expect(await refusal(check(join(moved, 'a', 'b', 'x.sock')))).toMatch(/ENXIO|a socket/);
    await new Promise((resolve) => server.close(resolve));
  });

  it('refuses to let the agent write its own profile, and lets it read it', async () => {
    const profilePath = join(agent, 'agent.yaml');
    await writeFile(profilePath, '');
    expect(await refusal(check(agent, { profilePath }))).toContain('holds the profile itself');
    expect(await refusal(check(profilePath, { profilePath }))).toContain('holds the profile itself');
    await expect(check(agent, { profilePath, mode: 'ro' })).resolves.toBeDefined();
  });

  it('does not lend the eyes of root to who grants the mount', async () => {
    const closed = join(folder, 'closed');
    await mkdir(join(closed, 'below'), { recursive: true });
    await chmod(closed, 0o700);
    expect(await refusal(check(join(closed, 'below'), { grantor: NOBODY, mode: 'ro' }))).toContain(
      `may not enter ${closed}`,
    );
    expect(await refusal(check(closed, { grantor: NOBODY, mode: 'ro' }))).toContain('may not use it this way');
    await chmod(closed, 0o755);
    await expect(check(closed, { grantor: NOBODY, mode: 'ro' })).resolves.toBeDefined();
    expect(await refusal(check(closed, { grantor: NOBODY }))).toContain('may not use it this way');
  });

  it.runIf(ROOT.uid === 0)('lets a folder be written only by the word of its owner', async () => {
    await chmod(agent, 0o777);
    await chown(agent, 1234, 1234);
    expect(await refusal(check(agent, { grantor: NOBODY }))).toContain('belongs to user 1234');
    await expect(check(agent, { grantor: { uid: 1234, gid: 1234 } })).resolves.toBeDefined();
    await expect(check(agent, { grantor: ROOT })).resolves.toBeDefined();
  });
});

describe('recheckMount', () => {
  it('finds a folder that was exchanged for another or for a link', async () => {
    const checked = await check(agent);
    await expect(recheckMount(checked)).resolves.toBeUndefined();
    await rename(agent, join(folder, 'away'));
    expect(await refusal(recheckMount(checked))).toContain('was replaced');
    await mkdir(agent);
    expect(await refusal(recheckMount(checked))).toContain('was replaced');
    await rm(agent, { recursive: true });
    await symlink('/etc', agent);
    expect(await refusal(recheckMount(checked))).toContain('was replaced');
  });
});
