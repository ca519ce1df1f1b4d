import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { WardenReport } from '../core/ports/warden.ts';
import { AFTERLIFE_FILE, openAfterlife, takeAfterlife } from './afterlife.ts';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'afterlife-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const AT = '2026-11-29T05:00:00.000Z';
const resumed = (runId: string): WardenReport => ({ kind: 'resumed', runId });
const IDS = ['r000000000001', 'r000000000002', 'r000000000003'] as const;
const taken = (): readonly string[] =>
  takeAfterlife(directory).map(({ report }) => ('runId' in report ? report.runId : ''));

/** A place that takes no file, whoever writes: a folder of that name stands there. */
const block = (): void => mkdirSync(join(directory, AFTERLIFE_FILE));
const unblock = (): void => rmSync(join(directory, AFTERLIFE_FILE), { recursive: true });

test('what is recorded is taken once, in its order', () => {
  const afterlife = openAfterlife(directory);
  for (const id of IDS) afterlife.record(resumed(id), AT);
  expect(afterlife.save()).toBe(true);
  expect(taken()).toEqual(IDS);
  expect(taken()).toEqual([]);
});

test('what the disk does not take is kept, and written when it does', () => {
  const afterlife = openAfterlife(directory);
  block();
  for (const id of IDS) afterlife.record(resumed(id), AT);
  expect(afterlife.save()).toBe(false);
  unblock();
  expect(afterlife.save()).toBe(true);
  expect(taken()).toEqual(IDS);
});

test('without the folder nobody is left to tell', () => {
  const afterlife = openAfterlife(directory);
  block();
  afterlife.record(resumed(IDS[0]), AT);
  rmSync(directory, { recursive: true });
  expect(afterlife.save()).toBe(true);
});

test('half a line that a full disk took costs no other one', () => {
  const afterlife = openAfterlife(directory);
  block();
  afterlife.record(resumed(IDS[0]), AT);
  unblock();
  writeFileSync(join(directory, AFTERLIFE_FILE), `{"at":"${AT}","repo`);
  expect(afterlife.save()).toBe(true);
  afterlife.record(resumed(IDS[1]), AT);
  expect(taken()).toEqual([IDS[0], IDS[1]]);
});

test('the file is bounded, and so is what waits for it', () => {
  const afterlife = openAfterlife(directory);
  block();
  for (let count = 0; count < 5_000; count += 1) afterlife.record(resumed(IDS[0]), AT);
  unblock();
  expect(afterlife.save()).toBe(true);
  expect(readFileSync(join(directory, AFTERLIFE_FILE), 'utf8').trim().split('\n')).toHaveLength(4_096);
  for (let count = 0; count < 20_000; count += 1) afterlife.record(resumed(IDS[1]), AT);
  expect(readFileSync(join(directory, AFTERLIFE_FILE)).length).toBeLessThan(2 ** 20 + 200);
});

test('who held a run last is told, and only its holder lets go of it', () => {
  const afterlife = openAfterlife(directory);
  expect(afterlife.holder(IDS[0])).toBeNull();
  afterlife.hold(IDS[0]);
  expect([afterlife.holder(IDS[0]), afterlife.takenByOther(IDS[0])]).toEqual([process.pid, false]);
  // The parent of this process is alive and is not this one.
  writeFileSync(join(directory, `${IDS[0]}.holder`), String(process.ppid));
  expect(afterlife.takenByOther(IDS[0])).toBe(true);
  afterlife.release(IDS[0]);
  expect(afterlife.holder(IDS[0])).toBe(process.ppid);
});
