import { expect, it } from 'vitest';
import { parseProfile } from './parse.ts';
import { resolveProfile } from './resolve.ts';

/** What a profile says of one bound, as a person would write it; every other one is right. */
function problemsOf(section: 'limits' | 'budget', key: string, value: string): readonly string[] {
  const limits = { cpu: '1', memory: '64MiB', pids: '16' };
  const budget = { wall: '1m' };
  const written = { limits, budget, [section]: { ...(section === 'limits' ? limits : budget), [key]: value } };
  const flow = (entries: Readonly<Record<string, string>>): string =>
    `{ ${Object.entries(entries)
      .map(([name, text]) => `${name}: ${text}`)
      .join(', ')} }`;
  const text = `apiVersion: ringfence/v1
name: probe
image: probe:local
command: [/bin/true]
user: 10001
limits: ${flow(written.limits)}
budget: ${flow(written.budget)}
egress: {}
`;
  const parsed = parseProfile({ text, file: 'probe.yaml' });
  if (!parsed.ok) return parsed.problems.map(({ line, path, message }) => `${line} ${path}: ${message}`);
  const resolved = resolveProfile({ parsed, digest: `sha256:${'0'.repeat(64)}`, folder: '/srv' });
  return resolved.ok ? [] : resolved.problems.map(({ line, path, message }) => `${line} ${path}: ${message}`);
}

const AMOUNTS = {
  limits: {
    cpu: ['1', '0', '-1', '1e9', '99999999999999999999'],
    memory: ['64MiB', '0MiB', '-1MiB', '99999999999TiB', '9007199254740993B'],
    pids: ['1', '0', '-1', '99999999999', '1.5', '99999999999999999999', '-99999999999999999999'],
    disk: ['1MiB', '0MiB', '-1GiB', '99999999999TiB'],
    files: ['16', '0', '-16', '99999999999', '99999999999999999999'],
    bandwidth: ['1Mbit/s', '0Mbit/s', '-1Mbit/s', '99999999999999999Mbit/s'],
    io: ['1MiB/s', '0MiB/s', '-1MiB/s', '99999999999999999MiB/s'],
  },
  budget: {
    wall: ['1s', '0s', '-1s', '99999999999999999d'],
    cpu: ['1s', '0s', '-5m', '99999999999999999d'],
    egress: ['1KiB', '0KiB', '-1KiB', '99999999999TiB'],
    ingress: ['1KiB', '0KiB', '-1KiB', '99999999999TiB'],
    connections: ['1', '0', '-1', '99999999999', '99999999999999999999', '-99999999999999999999'],
    denials: ['0', '-1', '1.5', '99999999999', '99999999999999999999', '5/0s', '-5/1m'],
  },
} as const;

const CASES = Object.entries(AMOUNTS).flatMap(([section, keys]) =>
  Object.entries(keys).map(([key, [right, ...wrong]]) => ({ section, key, right, wrong })),
) as readonly { section: 'limits' | 'budget'; key: string; right: string; wrong: readonly string[] }[];

it.each(CASES)(
  'takes the least $section.$key, and refuses what is less and what nobody can count, with place, value and rule',
  ({ section, key, right, wrong }) => {
    expect(problemsOf(section, key, right).filter((problem) => problem.includes(`${section}.${key}`))).toEqual([]);
    for (const value of wrong) {
      const problems = problemsOf(section, key, value);
      expect({ value, problems }).toEqual({
        value,
        problems: [
          expect.stringMatching(new RegExp(`^${section === 'limits' ? 6 : 7} ${section}\\.${key}: must .*got `)),
        ],
      });
    }
  },
);
