import { readFile } from 'node:fs/promises';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';

import { COMMANDS } from './commands.ts';

describe('every command', () => {
  it('stands in docs/cli.md as it stands in the table', async () => {
    const page = await readFile(new URL('../../docs/cli.md', import.meta.url), 'utf8');
    const rows = COMMANDS.map(({ name, summary, example }) => `| \`${name}\` | ${summary} | \`${example}\` |`);
    expect(page).toContain(`|---|---|---|\n${rows.join('\n')}\n`);
  });

  it.each(COMMANDS.map((entry) => [entry.name, entry] as const))(
    '%s has a file that gives it work',
    async (name, entry) => {
      const command = new Command(name);
      (await entry.load()).define(command, async () => undefined);
      expect(command.commands.length > 0 || 'action' in command).toBe(true);
    },
  );

  it.each(COMMANDS.map((entry) => [entry.name, entry.example] as const))(
    '%s has an example of itself',
    (name, example) => {
      expect(example.startsWith(`ringfence ${name}`)).toBe(true);
    },
  );

  it('is one that this version has: nothing absent is listed', () => {
    const absent = ['review', 'learn', 'redteam'];
    expect(COMMANDS.filter(({ name }) => absent.includes(name))).toEqual([]);
  });
});
