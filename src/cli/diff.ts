import type { Command } from 'commander';
import { createHash } from 'node:crypto';
import { dirname } from 'node:path';

import { fail } from '../core/errors.ts';
import { describeChange, diffSpecs } from '../profile/diff.ts';
import { parseProfile } from '../profile/parse.ts';
import { resolveProfile } from '../profile/resolve.ts';
import type { Spec } from '../profile/spec.ts';
import type { Invoke } from './commands.ts';
import { readProfile } from './launch-request.ts';

export function define(command: Command, invoke: Invoke): void {
  command
    .argument('<before>', 'profile file')
    .argument('<after>', 'profile file')
    .action((before: string, after: string) =>
      invoke(async (context) => {
        const { cwd } = context.terminal;
        const changes = diffSpecs({ from: await specOf(before, cwd), to: await specOf(after, cwd) });
        await context.answer({
          json: changes,
          text: () => (changes.length === 0 ? 'nothing changes' : changes.map(describeChange).join('\n')),
        });
        return 0;
      }),
    );
}

async function specOf(file: string, cwd: string): Promise<Spec> {
  const { profilePath, profileText } = await readProfile({ file, cwd, command: 'diff' });
  const parsed = parseProfile({ file, text: profileText });
  if (!parsed.ok) throw fail('PROFILE_INVALID', { problems: parsed.problems });
  const digest = `sha256:${createHash('sha256').update(profileText).digest('hex')}`;
  const resolved = resolveProfile({ parsed, digest, folder: dirname(profilePath) });
  if (!resolved.ok) throw fail('PROFILE_INVALID', { problems: resolved.problems });
  return resolved.spec;
}
