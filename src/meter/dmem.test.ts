import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dmemRegionOf, holdDmem, isDmemHeld, type DmemBound } from './dmem.ts';

const CARD = '0000:03:00.0';
const REGION = `drm/${CARD}/vram`;
const CAPACITY = `${REGION} 17095983104\ndrm/0000:04:00.0/vram0 1000\ndrm/0000:04:00.0/vram1 1000\nnvidia/0000:05:00.0/vidmem 1000\n`;

describe('memory of a device in the kernel', () => {
  let mount: string;
  let bound: DmemBound;
  const at = (...names: readonly string[]): string => join(mount, ...names);
  beforeEach(() => {
    mount = mkdtempSync(join(tmpdir(), 'rf-dmem-'));
    const directory = at('ringfence', 'r000000000001');
    mkdirSync(directory, { recursive: true });
    for (const folder of [mount, at('ringfence'), directory]) writeFileSync(join(folder, 'cgroup.subtree_control'), '');
    writeFileSync(at('dmem.capacity'), CAPACITY);
    writeFileSync(join(directory, 'dmem.max'), '');
    bound = { directory, mount, region: REGION, bytesMax: 8 * 2 ** 30 };
  });
  afterEach(() => rmSync(mount, { recursive: true, force: true }));

  it.each([
    ['the one region of a card', CARD, REGION],
    ['none of several, whose sum nothing bounds', '0000:04:00.0', null],
    ['none that another driver keeps itself', '0000:05:00.0', null],
    ['none of a card that is not listed', '0000:06:00.0', null],
  ])('is found: %s', (_, card, region) => {
    expect(dmemRegionOf(card, mount)).toBe(region);
  });

  it('is not there without the controller', () => {
    expect(dmemRegionOf(CARD, null)).toBeNull();
    rmSync(at('dmem.capacity'));
    expect(dmemRegionOf(CARD, mount)).toBeNull();
  });

  it('is bounded in the cgroup of the run, and the controller handed down to it', () => {
    holdDmem(bound);
    expect(readFileSync(join(bound.directory, 'dmem.max'), 'utf8')).toBe(`${REGION} 8589934592`);
    const handed = [mount, at('ringfence'), bound.directory].map((folder) =>
      readFileSync(join(folder, 'cgroup.subtree_control'), 'utf8'),
    );
    expect(handed).toEqual(['+dmem', '+dmem', '']);
    expect(isDmemHeld(bound)).toBe(true);
  });

  it.each([
    ['what was asked for', `${REGION} 8589934592\n`, true],
    ['less', `drm/0000:04:00.0/vram0 max\n${REGION} 4096\n`, true],
    ['more', `${REGION} 8589934593\n`, false],
    ['no bound', `${REGION} max\n`, false],
    ['the bound of another card', 'drm/0000:04:00.0/vram0 4096\n', false],
    ['nothing', '', false],
  ])('is said to hold by what the kernel says: %s', (_, says, held) => {
    writeFileSync(join(bound.directory, 'dmem.max'), says);
    expect(isDmemHeld(bound)).toBe(held);
  });

  it('is not said to hold where the file is not there or does not take it, and no file is made', () => {
    rmSync(join(bound.directory, 'dmem.max'));
    holdDmem(bound);
    expect(isDmemHeld(bound)).toBe(false);
    mkdirSync(join(bound.directory, 'dmem.max'));
    chmodSync(join(bound.directory, 'dmem.max'), 0o500);
    holdDmem(bound);
    expect(isDmemHeld(bound)).toBe(false);
  });
});
