import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf } from '../../src/daemon/profile-file.ts';
import { parseProfile } from '../../src/profile/parse.ts';
import { resolveProfile } from '../../src/profile/resolve.ts';
import type { Spec } from '../../src/profile/spec.ts';

export type SimulatedProfile = {
  readonly path: string;
  readonly text: string;
  readonly spec: Spec;
  /** Texts that a living run may be changed to. */
  readonly others: readonly { readonly text: string; readonly spec: Spec }[];
};

/** Where there is one, a folder in memory: every launch reads a file. */
const MEMORY = '/dev/shm';

/** Real files, because a launch reads what it was sent from the disk. `close` removes them. */
export function openProfiles(): {
  readonly profiles: readonly SimulatedProfile[];
  readonly specs: ReadonlyMap<string, Spec>;
  close(): void;
} {
  const folder = mkdtempSync(join(existsSync(MEMORY) ? MEMORY : tmpdir(), 'ringfence-simulation-'));
  const specs = new Map<string, Spec>();
  const read = (text: string, path: string): Spec => {
    const parsed = parseProfile({ text, file: path });
    if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
    const resolved = resolveProfile({ parsed, digest: digestOf(text), folder });
    if (!resolved.ok) throw new Error(JSON.stringify(resolved.problems));
    specs.set(resolved.spec.profileDigest, resolved.spec);
    return resolved.spec;
  };
  const profiles = PROFILES.map(({ name, lines, egress }) => {
    const path = join(folder, `${name}.yaml`);
    const [text = '', ...others] = egress.map((allowed) => textOf(name, [...lines, `egress: ${allowed}`]));
    writeFileSync(path, text, { mode: 0o600 });
    const own = read(text, path);
    return { path, text, spec: own, others: others.map((other) => ({ text: other, spec: read(other, path) })) };
  });
  return { profiles, specs, close: () => rmSync(folder, { recursive: true, force: true }) };
}

const PROFILES = [
  {
    name: 'plain',
    lines: ['budget: { wall: 20s }', 'alerts: [ops]', 'on: { quarantine: false, grace: 1s }'],
    egress: ['{ allow: [api.openai.com] }', '{ allow: [api.openai.com, github.com] }', '{}'],
  },
  {
    name: 'strict',
    lines: ['budget: { wall: 5s, cpu: 4s, denials: 3 }', 'alerts: [ops]', 'on: { quarantine: true, grace: 2s }'],
    egress: ['{}', '{ allow: [pypi.org] }'],
  },
  {
    name: 'shaped',
    lines: ['budget: { wall: 15s, egress: 1MiB }', 'on: { quarantine: false, budget.wall: stop, grace: 1s }'],
    egress: ['{ allow: [pypi.org, files.pythonhosted.org] }', '{ allow: [pypi.org] }'],
  },
] as const;

function textOf(name: string, lines: readonly string[]): string {
  const bandwidth = name === 'shaped' ? ', bandwidth: 20Mbit/s' : '';
  return [
    'apiVersion: ringfence/v1',
    `name: ${name}`,
    'owner: simulation@example.com',
    'image: simulated:local',
    'command: [agent]',
    `limits: { cpu: 1, memory: 64MiB, pids: 16${bandwidth} }`,
    ...lines,
    '',
  ].join('\n');
}
