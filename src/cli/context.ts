import { homedir } from 'node:os';
import { resolve } from 'node:path';

import type { Client } from '../api/client.ts';
import { writeSlowly } from '../api/stream.ts';
import type { Terminal } from './terminal.ts';

const SOCKET_PATH = '/run/ringfence/ringfenced.sock';
const STATE_PATH = '/var/lib/ringfence';
const CONFIG_PATH = '/etc/ringfence/config.yaml';

/** The options that every command takes, as commander hands them over. */
export type GlobalOptions = {
  readonly socket?: string;
  readonly state?: string;
  readonly config?: string;
  readonly json?: boolean;
};

/** What a command works with: where things are, how to answer, and the daemon when it needs it. */
export type Context = {
  readonly terminal: Terminal;
  readonly json: boolean;
  readonly socketPath: string;
  readonly statePath: string;
  readonly configPath: string;
  /** True when a person named the config file, so that its absence is an error. */
  readonly configNamed: boolean;
  readonly client: () => Promise<Client>;
  /** The result, on stdout: text for people, or with `--json` the one value. */
  readonly answer: (answer: { readonly json: unknown; readonly text: () => string | Promise<string> }) => Promise<void>;
  /** One value on a line of its own, for streams with `--json`. */
  readonly answerLine: (value: unknown) => Promise<void>;
  /** Everything that is not the result. */
  readonly note: (text: string) => Promise<void>;
};

export function createContext(terminal: Terminal, options: GlobalOptions): Context {
  const { stdout, stderr, env, cwd } = terminal;
  const json = options.json === true;
  const socketPath = resolve(cwd, expanded(options.socket ?? nonEmpty(env['RINGFENCE_SOCKET']) ?? SOCKET_PATH));
  return {
    terminal,
    json,
    socketPath,
    statePath: resolve(cwd, expanded(options.state ?? STATE_PATH)),
    configPath: resolve(cwd, expanded(options.config ?? CONFIG_PATH)),
    configNamed: options.config !== undefined,
    client: async () => {
      // Loaded here, so that commands without a daemon start without an HTTP client.
      const { connectClient } = await import('../api/client.ts');
      return connectClient({ socketPath });
    },
    answer: async (answer) => {
      const text = json ? JSON.stringify(answer.json, null, 2) : await answer.text();
      if (text !== '') await writeSlowly(stdout, text.endsWith('\n') ? text : `${text}\n`);
    },
    answerLine: async (value) => void (await writeSlowly(stdout, `${JSON.stringify(value)}\n`)),
    note: async (text) => void (await writeSlowly(stderr, `${text}\n`)),
  };
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}

/** `--socket=~/x` reaches us with its tilde, which shells expand only at the start of a word. */
function expanded(path: string): string {
  return path === '~' || path.startsWith('~/') ? `${homedir()}${path.slice(1)}` : path;
}
