import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  statfs,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { performBySystemd } from '../../src/volume/hands.ts';
import { VolumeStore, type VolumeRequest } from '../../src/volume/store.ts';
import { lab } from '../support/lab.ts';
import { until } from '../support/until.ts';

/** Mounts with a size, by themselves: what the kernel holds, what outlives whom, and what is refused. */
const MIB = 2 ** 20;
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

let folder: string;
let workspace: string;
let store: VolumeStore;

beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(lab.scratch, 'volumes-')));
});
afterAll(async () => {
  // What runs use stays; the next daemon knows of no runs.
  await store.close();
  await (await reopened()).close();
  expect(await mountsBelow(folder)).toEqual([]);
  await untilNoLoops(folder);
  await rm(folder, { recursive: true });
});
beforeEach(async (test) => {
  await (store as VolumeStore | undefined)?.close();
  workspace = join(folder, test.task.id);
  await mkdir(workspace, { mode: 0o750 });
  await execa('chown', ['10001:10002', workspace]);
  store = await reopened();
});

const reopened = async (): Promise<VolumeStore> =>
  await VolumeStore.open({ directory: join(folder, 'state'), log: quiet });

async function requestOf(size: number, path = workspace): Promise<VolumeRequest> {
  const { dev, ino } = await stat(path);
  return { realPath: path, device: dev, inode: ino, sizeBytesMax: size };
}

async function mountsBelow(path: string): Promise<readonly string[]> {
  const table = await readFile('/proc/self/mountinfo', 'utf8');
  return table.split('\n').filter((line) => line.includes(` ${path}`));
}

async function loopsBelow(path: string): Promise<readonly string[]> {
  const { stdout } = await execa('losetup', ['--noheadings', '--output', 'BACK-FILE']);
  return stdout.split('\n').filter((line) => line.startsWith(path));
}

/** Whoever starts a container anywhere on this machine holds copies of all mounts for a moment. */
const untilNoLoops = (path: string) =>
  until(`no loop device is left below ${path}`, async () => (await loopsBelow(path)).length === 0, {
    deadlineMs: 20_000,
  });

const fill = (name: string, mebibytes: number) =>
  execa('dd', ['if=/dev/zero', `of=${join(workspace, name)}`, 'bs=1M', `count=${mebibytes}`], { reject: false });

describe('a volume', () => {
  it('has its size, the owner and mode of its folder, and nothing in it', async () => {
    const volume = await store.acquire('run-1', await requestOf(32 * MIB));
    const found = await stat(workspace);
    expect({ uid: found.uid, gid: found.gid, mode: found.mode & 0o7777, names: await readdir(workspace) }).toEqual({
      uid: 10001,
      gid: 10002,
      mode: 0o750,
      names: [],
    });
    const { blocks, bsize } = await statfs(workspace);
    expect(blocks * bsize).toBeLessThanOrEqual(32 * MIB);
    expect(blocks * bsize).toBeGreaterThan(24 * MIB);
    expect(volume).toMatchObject({ device: found.dev, location: { path: '/', type: 'ext4' } });
    const [line = ''] = await mountsBelow(workspace);
    expect(line).toContain('nosuid,nodev');
    const full = await fill('big', 40);
    expect(full.stderr).toContain('No space left on device');
    expect((await stat(join(workspace, 'big'))).size).toBeLessThanOrEqual(32 * MIB);
    await rm(join(workspace, 'big'));
    expect((await fill('fits', 20)).exitCode).toBe(0);
  });

  it('holds as many files as its size allows, and takes what it may hold from the host at once', async () => {
    await store.acquire('run-1', await requestOf(8 * MIB));
    const { files } = await statfs(workspace);
    expect(files).toBeLessThanOrEqual(1024);
    const made = await execa('sh', ['-c', `cd ${workspace} && for n in $(seq 1100); do : > f$n || exit 7; done`], {
      reject: false,
    });
    expect(made).toMatchObject({ exitCode: expect.any(Number), stderr: expect.stringContaining('No space left') });
    const images = (await readdir(join(folder, 'state'))).filter((name) => name.endsWith('.img'));
    const sizes = await Promise.all(images.map((name) => stat(join(folder, 'state', name))));
    // What is reserved stays reserved, also what mkfs and files that were deleted do not use.
    for (const { blocks, size } of sizes) expect(blocks * 512).toBeGreaterThanOrEqual(size);
  });

  it('keeps what is in it over runs, stopped daemons and killed ones', async () => {
    await store.acquire('run-1', await requestOf(8 * MIB));
    await writeFile(join(workspace, 'kept'), 'kept');
    await store.release('run-1');
    expect(await readdir(workspace)).toEqual(['kept']);
    await store.close();
    expect(await readdir(workspace)).toEqual([]);
    await untilNoLoops(folder);
    store = await reopened();
    expect(await readFile(join(workspace, 'kept'), 'utf8')).toBe('kept');
    // A daemon that was killed has left its mounts: the next one takes them over, and mounts nothing twice.
    store = await reopened();
    await store.acquire('run-2', await requestOf(8 * MIB));
    expect(await mountsBelow(workspace)).toHaveLength(1);
    expect(await readFile(join(workspace, 'kept'), 'utf8')).toBe('kept');
  });

  it('that a run uses stays mounted when the daemon leaves', async () => {
    await store.acquire('run-1', await requestOf(8 * MIB));
    await store.close();
    expect(await mountsBelow(workspace)).toHaveLength(1);
    store = await reopened();
  });

  it('grows and shrinks between runs, never below what it holds', async () => {
    await store.acquire('run-1', await requestOf(16 * MIB));
    expect((await fill('ten', 10)).exitCode).toBe(0);
    const larger = await requestOf(32 * MIB);
    await expect(store.acquire('run-2', larger)).rejects.toMatchObject({
      code: 'MOUNT_REFUSED',
      message: expect.stringContaining('another run uses its volume, which has 16 MiB'),
    });
    await store.release('run-1');
    await store.acquire('run-2', larger);
    expect((await fill('more', 14)).exitCode).toBe(0);
    await rm(join(workspace, 'more'));
    await store.release('run-2');
    await expect(store.acquire('run-3', await requestOf(8 * MIB))).rejects.toMatchObject({
      code: 'MOUNT_REFUSED',
      message: expect.stringContaining('it holds 10'),
    });
    await store.acquire('run-3', await requestOf(16 * MIB));
    const { blocks, bsize } = await statfs(workspace);
    expect({ held: blocks * bsize <= 16 * MIB, ten: (await stat(join(workspace, 'ten'))).size }).toEqual({
      held: true,
      ten: 10 * MIB,
    });
  });

  it('is one for runs that share a folder', async () => {
    // Both were checked before there was a volume.
    const request = await requestOf(8 * MIB);
    const [first, second] = await Promise.all([store.acquire('run-1', request), store.acquire('run-2', request)]);
    expect(second).toBe(first);
    expect(await mountsBelow(workspace)).toHaveLength(1);
  });
});

describe('refused', () => {
  it('is a folder with something in it', async () => {
    await writeFile(join(workspace, 'mine'), 'mine');
    const request = await requestOf(8 * MIB);
    const refused = { code: 'MOUNT_REFUSED', message: expect.stringContaining('such as mine') };
    await expect(store.check(request)).rejects.toMatchObject(refused);
    await expect(store.acquire('run-1', request)).rejects.toMatchObject(refused);
    expect(await mountsBelow(workspace)).toEqual([]);
    await rm(join(workspace, 'mine'));
    await expect(store.check(request)).resolves.toBeUndefined();
  });

  it('is a size that the host does not have, or that holds no filesystem', async () => {
    await expect(store.check(await requestOf(2 ** 50))).rejects.toMatchObject({
      code: 'HOST_CANNOT_ENFORCE',
      message: expect.stringMatching(/^must be at most .*, what the disk of this host has left, got 1024 TiB$/),
    });
    await expect(store.check(await requestOf(MIB))).rejects.toMatchObject({ code: 'HOST_CANNOT_ENFORCE' });
    await expect(store.check(await requestOf(4 * MIB))).resolves.toBeUndefined();
    await store.acquire('run-1', await requestOf(4 * MIB));
  });

  it('is a folder that was exchanged after it was checked, by a link or by another', async () => {
    const victim = join(folder, 'victim');
    await mkdir(victim);
    const request = await requestOf(8 * MIB);
    await rename(workspace, `${workspace}-away`);
    await symlink(victim, workspace);
    await expect(store.acquire('run-1', request)).rejects.toMatchObject({ code: 'MOUNT_REFUSED' });
    await rm(workspace);
    await mkdir(workspace);
    await expect(store.acquire('run-1', request)).rejects.toMatchObject({ code: 'MOUNT_REFUSED' });
    expect([...(await mountsBelow(victim)), ...(await mountsBelow(workspace))]).toEqual([]);
  });

  it('is a folder above it that was exchanged for a link', async () => {
    const inner = join(workspace, 'inner');
    await mkdir(inner);
    const request = await requestOf(8 * MIB, inner);
    await rename(workspace, `${workspace}-away`);
    await symlink(`${workspace}-away`, workspace);
    await expect(store.acquire('run-1', request)).rejects.toMatchObject({ code: 'MOUNT_REFUSED' });
    expect(await mountsBelow(`${workspace}-away`)).toEqual([]);
  });

  it('is a volume over which somebody mounted something else', async () => {
    const request = await requestOf(8 * MIB);
    await store.acquire('run-1', request);
    await store.release('run-1');
    await execa('mount', ['-t', 'tmpfs', 'tmpfs', workspace]);
    try {
      await expect(store.acquire('run-2', await requestOf(8 * MIB))).rejects.toMatchObject({
        code: 'MOUNT_REFUSED',
        message: expect.stringContaining('something else is there now'),
      });
    } finally {
      await execa('umount', [workspace]);
    }
    await store.acquire('run-2', await requestOf(8 * MIB));
  });
});

/**
 * As in the packaged unit, where systemd mounts. There is none here: `systemd-run` is a script that starts the ordered
 * process and nothing more. scripts/vm-test has the real one.
 */
describe('by the hands of systemd', () => {
  const path = process.env['PATH'];
  beforeEach(async () => {
    const bin = join(folder, 'bin');
    await mkdir(bin, { recursive: true });
    const script = '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n';
    await writeFile(join(bin, 'systemd-run'), script, { mode: 0o755 });
    process.env['PATH'] = `${bin}:${path}`;
    await store.close();
    const hands = { kind: 'systemd', act: performBySystemd } as const;
    store = await VolumeStore.open({ directory: join(folder, 'state-systemd'), log: quiet, hands });
  });
  afterEach(async () => {
    process.env['PATH'] = path;
    // What it mounted is taken over and unmounted, by whichever hands.
    await (await VolumeStore.open({ directory: join(folder, 'state-systemd'), log: quiet })).close();
    store = await reopened();
  });

  it('a volume is made, mounted and unmounted, and keeps what is in it', async () => {
    await store.acquire('run-1', await requestOf(8 * MIB));
    const { uid, gid, mode } = await stat(workspace);
    expect({ uid, gid, mode: mode & 0o7777, names: await readdir(workspace) }).toEqual({
      uid: 10001,
      gid: 10002,
      mode: 0o750,
      names: [],
    });
    expect((await fill('big', 12)).stderr).toContain('No space left on device');
    await store.release('run-1');
    await store.close();
    expect(await readdir(workspace)).toEqual([]);
    await untilNoLoops(join(folder, 'state-systemd'));
  });

  it('what stands in its way is told as it is', async () => {
    const request = await requestOf(8 * MIB);
    const order = {
      act: 'mount',
      image: join(folder, 'none.img'),
      folder: workspace,
      inode: request.inode + 1,
    } as const;
    await expect(performBySystemd(order)).rejects.toMatchObject({
      code: 'MOUNT_REFUSED',
      message: expect.stringContaining('not the folder any more that was checked'),
    });
    await writeFile(join(folder, 'bin', 'systemd-run'), '#!/bin/sh\necho Access denied >&2\nexit 1\n', { mode: 0o755 });
    await expect(store.acquire('run-1', request)).rejects.toMatchObject({
      code: 'HOST_CANNOT_ENFORCE',
      message: expect.stringContaining('systemd did not mount for the daemon: Access denied'),
    });
    expect(await mountsBelow(workspace)).toEqual([]);
  });
});
