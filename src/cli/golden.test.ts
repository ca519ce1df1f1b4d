import { execFile } from 'node:child_process';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

import { startApi, type ApiFixture } from '../../test/support/api-fixture.ts';
import { buildWorld } from '../../test/support/cli-world.ts';

/**
 * Golden scripts: `$ ringfence …` lines with what they print (stderr behind `! `) and their exit code (`? 0`), run
 * against the real server in front of a fake service. A line `< text` gives stdin. `RINGFENCE_GOLDEN=write` rewrites
 * them; what changed is then read in the diff.
 */
const GOLDEN = fileURLToPath(new URL('../../test/golden/cli/', import.meta.url));
const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url));
const COMMAND_MS_MAX = 20_000;

const scripts = (await readdir(GOLDEN)).filter((name) => name.endsWith('.txt'));

describe('the command line', () => {
  it('has golden scripts', () => {
    expect(scripts.length).toBeGreaterThan(5);
  });

  it.each(scripts)(
    'does what %s says',
    async (name) => {
      await using api = await startApi();
      await buildWorld(api.service, api.directory);
      const expected = await readFile(`${GOLDEN}${name}`, 'utf8');
      const actual = await replay(expected, api);
      if (process.env['RINGFENCE_GOLDEN'] === 'write') await writeFile(`${GOLDEN}${name}`, actual);
      else expect(actual).toBe(expected);
    },
    120_000,
  );
});

async function replay(script: string, api: ApiFixture): Promise<string> {
  const lines: string[] = [];
  const source = script.split('\n');
  for (const [index, line] of source.entries()) {
    if (line.startsWith('#')) lines.push(...(lines.length > 0 ? [''] : []), line);
    if (!line.startsWith('$ ')) continue;
    if (lines.length > 0 && !lines.at(-1)?.startsWith('#')) lines.push('');
    lines.push(line);
    const next = source[index + 1] ?? '';
    const stdin = next.startsWith('< ') ? `${next.slice(2)}\n` : '';
    if (stdin !== '') lines.push(next);
    lines.push(...(await runLine(line.slice(2), stdin, api)));
  }
  return `${lines.join('\n')}\n`;
}

async function runLine(line: string, stdin: string, api: ApiFixture): Promise<string[]> {
  const [program, ...words] = line.split(' ');
  expect(program).toBe('ringfence');
  const result = await new Promise<{ stdout: string; stderr: string; code: number }>((resolve) => {
    const child = execFile(
      process.execPath,
      [MAIN, ...words],
      {
        cwd: api.directory,
        timeout: COMMAND_MS_MAX,
        env: { PATH: process.env['PATH'], HOME: '/nonexistent', RINGFENCE_SOCKET: api.socketPath },
      },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
        resolve({ stdout, stderr, code });
      },
    );
    child.stdin?.end(stdin);
  });
  const shown = (text: string, mark: string) =>
    text === ''
      ? []
      : text
          .replace(/\n$/, '')
          .split('\n')
          .map((each) => `${mark}${scrubbed(each, api)}`.trimEnd());
  return [...shown(result.stdout, ''), ...shown(result.stderr, '! '), `? ${result.code}`];
}

/** What differs between two runs of the same script: places, and the moments that a run is measured from. */
function scrubbed(line: string, api: ApiFixture): string {
  return line
    .replaceAll(api.directory, '/world')
    .replace(/"(admittedAt|startedAt|requestedAt|expiresAt)": "(?!2026-03)[^"]*"/, '"$1": "<time>"')
    .replace(/^(admitted|started)( +)20(?!26-03)\S+$/, '$1$2<time>')
    .replaceAll('\u001b', '<ESC>');
}
