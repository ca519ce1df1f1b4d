import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { afterEach } from 'vitest';
import type { RunDetail } from '../../src/api/service.ts';
import { SHELL, type ProfileDraft, type Supervised } from './supervised.ts';
import { until } from './until.ts';

/** Somebody at the shell of an agent. */
export type AgentShell = {
  readonly path: string;
  readonly run: RunDetail;
  /** Types a line and gives what came back; fails when the agent does not answer any more. */
  readonly type: (line: string) => Promise<string>;
  /** Everything that was ever said. */
  readonly said: () => string;
};

const SAID_MS_MAX = 45_000;

/** Opens shells of agents; each is left after its test. A line that is typed has `saidMsMax` to be done. */
export function useShells(
  supervised: Supervised,
  { saidMsMax } = { saidMsMax: SAID_MS_MAX },
): (draft: Omit<ProfileDraft, 'command'>) => Promise<AgentShell> {
  const leaving: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const leave of leaving.splice(0)) await leave();
  });
  return async (draft) => {
    // One stream, so that an error comes before the word that its line is done.
    const path = supervised.writeProfile({ ...draft, command: SHELL('exec sh 2>&1') });
    const child = supervised.daemon.spawnCli(['run', path], { stdio: 'pipe' });
    let output = '';
    child.stdout?.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')));
    child.stderr?.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')));
    const exit = once(child, 'exit');
    leaving.push(async () => {
      child.stdin?.end();
      await exit;
    });
    return {
      path,
      run: await supervised.running(draft.name).catch((error: unknown) => {
        throw new Error(`no shell: ${output}`, { cause: error });
      }),
      type: async (line) => {
        const from = output.length;
        const token = randomUUID();
        child.stdin?.write(`${line}\necho "done ${token} $?"\n`);
        await until(`the agent has done: ${line}`, () => output.includes(`done ${token}`), { deadlineMs: saidMsMax });
        return output.slice(from, output.indexOf(`done ${token}`));
      },
      said: () => output,
    };
  };
}
