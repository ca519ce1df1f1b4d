import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** The lines of a small profile by key; a test replaces, adds or (with null) leaves out what it is about. */
export type ProfileLines = Readonly<Record<string, string | null>>;

const LINES: ProfileLines = {
  apiVersion: 'ringfence/v1',
  name: 'probe',
  image: 'ringfence/agent-shell:local',
  command: '[/bin/true]',
  user: '10001',
  limits: '{ cpu: 1, memory: 64MiB, pids: 16, disk: 16MiB }',
  budget: '{ wall: 1m }',
  egress: '{}',
};

/** `apiVersion` is line 1, and so on in the order of `LINES`; what is added comes from line 9 on. */
export function profileText(changes: ProfileLines = {}): string {
  const lines = Object.entries({ ...LINES, ...changes }).filter(([, value]) => value !== null);
  return lines.map(([key, value]) => `${key}: ${value}\n`).join('');
}

/** Writes it as a person would; returns the path. */
export function writeProfile(path: string, changes: ProfileLines = {}): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, profileText(changes), { mode: 0o644 });
  return path;
}

/** A profile whose agent is this shell script. */
export function writeShellProfile(path: string, script: string, changes: ProfileLines = {}): string {
  return writeProfile(path, { command: JSON.stringify(['/bin/sh', '-c', script]), ...changes });
}
