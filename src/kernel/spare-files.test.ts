import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const MODULE = fileURLToPath(new URL('spare-files.ts', import.meta.url));

/** Runs in a process with few descriptors, which takes all that there are before it does its work. */
function inNeed(work: string): string {
  const script = `
import { openSync, readFileSync, closeSync } from 'node:fs';
const { keepSpareFiles, withSpareFiles, isForWantOfFiles } = await import('${MODULE}');
const all = [];
const takeAll = () => { try { for (;;) all.push(openSync('/dev/null', 'r')); } catch (error) { if (!isForWantOfFiles(error)) throw error; } };
const read = () => readFileSync('/proc/self/stat', 'latin1').length > 0;
const tried = (work) => { try { return work(); } catch (error) { return error.code; } };
${work}`;
  const { stdout, stderr, status } = spawnSync(
    'sh',
    ['-c', 'ulimit -n 96; exec "$0" --input-type=module -e "$1"', process.execPath, script],
    { encoding: 'utf8' },
  );
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout.trim();
}

test('work that finds no descriptor is done with a spare one, again and again', () => {
  const said = inNeed(`
keepSpareFiles();
takeAll();
console.log(tried(read), tried(() => withSpareFiles(read)), tried(read), tried(() => withSpareFiles(read)));
takeAll();
console.log(tried(() => withSpareFiles(() => [openSync('/dev/null', 'r'), read()].length)), tried(read));`);
  expect(said).toBe('EMFILE true EMFILE true\n2 EMFILE');
});

test('who has kept none has none', () => {
  expect(inNeed(`takeAll(); console.log(tried(() => withSpareFiles(read)));`)).toBe('EMFILE');
});

test('what fails for another reason is not tried twice', () => {
  const said = inNeed(`
keepSpareFiles();
let times = 0;
console.log(tried(() => withSpareFiles(() => { times += 1; readFileSync('/nothing'); })), times);`);
  expect(said).toBe('ENOENT 1');
});
