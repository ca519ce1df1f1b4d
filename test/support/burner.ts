import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll } from 'vitest';
import { lab } from './lab.ts';
import { SHELL, type ProfileDraft } from './supervised.ts';

/** Agents that use up their budget of CPU time when they are told to, however long their start took. */
export type Burner = {
  draft(name: string): ProfileDraft;
  burn(name: string): void;
};

/** Registers the hooks that make and remove the folder in which the agents look for their sign. */
export function useBurner(): Burner {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(`${lab.scratch}/burner-`);
    chmodSync(folder, 0o755);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return {
    draft: (name) => ({
      name,
      command: SHELL(`until [ -e /signs/${name} ]; do sleep 0.1; done; while :; do :; done`),
      budget: { wall: '10m', cpu: '5s' },
      more: { mounts: [{ host: folder, path: '/signs', mode: 'ro' }] },
    }),
    burn: (name) => writeFileSync(`${folder}/${name}`, ''),
  };
}
