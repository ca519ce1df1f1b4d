import { execa } from 'execa';
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { onlyFileIn } from './tar.ts';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ringfence-tar-'));
  await writeFile(join(folder, 'bundle.pem'), 'x'.repeat(70_000));
  await writeFile(join(folder, 'empty'), '');
  await symlink('bundle.pem', join(folder, 'link.pem'));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

async function tarOf(name: string, format: string): Promise<Buffer> {
  const args = ['-C', folder, `--format=${format}`, '-cf', '-', name];
  const { stdout } = await execa('tar', args, { encoding: 'buffer', timeout: 20_000 });
  return Buffer.from(stdout);
}

describe.each(['ustar', 'gnu', 'pax'])('an archive in the format %s', (format) => {
  test('of a file gives its content', async () => {
    expect(onlyFileIn(await tarOf('bundle.pem', format))?.toString()).toBe('x'.repeat(70_000));
    expect(onlyFileIn(await tarOf('empty', format))?.length).toBe(0);
  });

  test('of a link or a folder gives nothing', async () => {
    expect(onlyFileIn(await tarOf('link.pem', format))).toBe(null);
    expect(onlyFileIn(await tarOf('.', format))).toBe(null);
  });

  test('that is cut short gives nothing', async () => {
    const archive = await tarOf('bundle.pem', format);
    expect(onlyFileIn(archive.subarray(0, 60_000))).toBe(null);
    expect(onlyFileIn(archive.subarray(0, 100))).toBe(null);
  });
});

test('bytes that are no archive give nothing', () => {
  expect(onlyFileIn(Buffer.from('{"message":"no such file"}'.padEnd(2_000)))).toBe(null);
  expect(onlyFileIn(Buffer.alloc(2_000, 0xff))).toBe(null);
});
