import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { Problem } from '../core/errors.ts';
import { formatProblem, parseProfile } from './parse.ts';
import { resolveProfile } from './resolve.ts';

// Each case is a profile and what a person is told about it. `GOLDEN_UPDATE=1` writes the answers anew: read the diff.
const folder = new URL('../../test/golden/profiles/', import.meta.url);
const cases = readdirSync(folder)
  .filter((file) => file.endsWith('.yaml'))
  .map((file) => file.slice(0, -'.yaml'.length));

test('there are cases, and each has its answer', () => {
  expect(cases.length).toBeGreaterThan(40);
});

test.each(cases)('tells what is wrong with %s.yaml', (name) => {
  const told = tell(`${name}.yaml`, readFileSync(new URL(`${name}.yaml`, folder)));
  const answer = new URL(`${name}.txt`, folder);
  if (process.env['GOLDEN_UPDATE'] === '1') writeFileSync(answer, told);
  expect(told).toBe(readFileSync(answer, 'utf8'));
});

function tell(file: string, bytes: Uint8Array): string {
  const parsed = parseProfile({ file, bytes });
  if (!parsed.ok) return shown(parsed.problems);
  const resolved = resolveProfile({ parsed, digest: `sha256:${'0'.repeat(64)}`, folder: '/srv/profiles' });
  if (!resolved.ok) return shown(resolved.problems);
  const warned = parsed.warnings.length > 0 ? `warnings:\n${shown(parsed.warnings)}` : '';
  return `${warned}valid\n`;
}

function shown(problems: readonly Problem[]): string {
  return `${problems.map(formatProblem).join('\n')}\n`;
}
