import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** A filesystem that stands still: who writes to it sleeps, and no signal wakes it, until the disk goes on. */
export type StuckDisk = {
  readonly directory: string;
  /** Everybody who waits goes on, or dies of the signal that waits. */
  goOn(): Promise<void>;
  remove(): Promise<void>;
};

const COMMAND_MS_MAX = 20_000;

export async function makeStuckDisk(): Promise<StuckDisk> {
  const place = mkdtempSync(join(tmpdir(), 'rf-stuck-'));
  const image = join(place, 'image');
  const directory = join(place, 'disk');
  const command = (file: string, args: readonly string[]): Promise<unknown> =>
    execa(file, args, { timeout: COMMAND_MS_MAX, stdin: 'ignore' });
  mkdirSync(directory);
  await command('truncate', ['--size', '16M', image]);
  await command('mkfs.ext4', ['-q', image]);
  await command('mount', ['-o', 'loop', image, directory]);
  let stuck = false;
  const goOn = async (): Promise<void> => {
    if (stuck) await command('fsfreeze', ['--unfreeze', directory]);
    stuck = false;
  };
  const remove = async (): Promise<void> => {
    await goOn();
    await command('umount', [directory]);
    rmSync(place, { recursive: true, force: true });
  };
  try {
    await command('fsfreeze', ['--freeze', directory]);
    stuck = true;
  } catch (error) {
    await remove();
    throw error;
  }
  return { directory, goOn, remove };
}
