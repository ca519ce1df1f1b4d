import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parseProfile } from './parse.ts';
import { GENERATED_START, referenceTable, withTable } from './reference.ts';
import { resolveProfile } from './resolve.ts';
import { profileJsonSchema } from './schema.ts';
import type { Spec } from './spec.ts';

const root = new URL('../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');
const names = readdirSync(new URL('profiles/', root))
  .filter((file) => file.endsWith('.yaml'))
  .map((file) => file.slice(0, -'.yaml'.length));

function specOf(name: string): Spec {
  const parsed = parseProfile({ file: `${name}.yaml`, text: read(`profiles/${name}.yaml`) });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  const resolved = resolveProfile({ parsed, digest: `sha256:${'0'.repeat(64)}`, folder: '/srv/profiles' });
  if (!resolved.ok) throw new Error(JSON.stringify(resolved.problems));
  return resolved.spec;
}

test('there are examples', () => {
  expect(names.length).toBeGreaterThan(10);
});

test.each(names)('profiles/%s.yaml is valid and explains itself', (name) => {
  const spec = specOf(name);
  const lines = read(`profiles/${name}.yaml`).split('\n');
  expect(spec.name).toBe(name);
  expect(lines[0]).toBe('# yaml-language-server: $schema=./profile.schema.json');
  expect(lines.filter((line) => /(?:^| )# \S+ \S+/.test(line)).length).toBeGreaterThanOrEqual(3);
  expect(spec.description.length).toBeGreaterThan(10);
  expect(spec.owner).toMatch(/@example\.com$/);
  expect(spec.limits.diskBytesMax).toBeLessThanOrEqual(spec.limits.memoryBytesMax);
});

test('the agents of the demo have the bounds that the demo shows', () => {
  const [reader, burner, rome] = ['reader', 'burner', 'rome'].map(specOf);
  const shown = (spec: Spec | undefined) => ({
    image: spec?.image,
    command: spec?.command,
    allow: spec?.egress.allow.map(({ text }) => text),
    wallMs: spec?.budget.wallMs,
    cpuMs: spec?.budget.cpuMs,
    denials: spec?.budget.denials,
    quarantine: spec?.quarantine,
    alerts: spec?.alerts,
  });
  expect([reader, burner, rome].map(shown)).toEqual([
    {
      image: 'ringfence/agent-python:local',
      command: ['python3', '/agent/reader.py'],
      allow: ['docs.example.test:443'],
      wallMs: 60_000,
      cpuMs: 20_000,
      denials: { count: 0, windowMs: null },
      quarantine: false,
      alerts: ['ops'],
    },
    {
      image: 'ringfence/agent-python:local',
      command: ['python3', '/agent/burner.py'],
      allow: [],
      wallMs: 60_000,
      cpuMs: 3000,
      denials: null,
      quarantine: false,
      alerts: ['ops'],
    },
    {
      image: 'ringfence/agent-shell:local',
      command: ['python3', '/agent/rome.py'],
      allow: ['git.example.test:443', 'llm.example.test:443'],
      wallMs: 120_000,
      cpuMs: 60_000,
      denials: { count: 0, windowMs: null },
      quarantine: true,
      alerts: ['ops'],
    },
  ]);
});

test('the JSON Schema in the repository is the one that the code makes: `npm run generate`', () => {
  expect(read('profiles/profile.schema.json')).toBe(`${JSON.stringify(profileJsonSchema(), null, 2)}\n`);
});

test('the reference table in the documentation is the one that the code makes: `npm run generate`', () => {
  const page = read('docs/profile.md');
  expect(withTable(page, referenceTable(profileJsonSchema()))).toBe(page);
  expect(page.split(GENERATED_START)[0]).toContain('# The profile');
});

test('the smallest profile of the documentation is valid', () => {
  const example = /```yaml\n(apiVersion:[^`]*)```/.exec(read('docs/profile.md'));
  const parsed = parseProfile({ file: 'docs/profile.md', text: example?.[1] ?? '' });
  expect(parsed).toMatchObject({ ok: true });
});

test('every key of the schema has a description, so that the table and the editor say something', () => {
  const silent = referenceTable(profileJsonSchema())
    .split('\n')
    .filter((line) => /\| *(?:\*\*required\*\*|[^|]*) \| +\|$/.test(line));
  expect(silent).toEqual([]);
});
