import { execFileSync, spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, openSync, closeSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { command, lab, type CommandOptions, type CommandResult } from './lab.ts';
import { until } from './until.ts';

const START_MS_MAX = 60_000;
const STOP_MS_MAX = 30_000;
const LOG_TAIL_CHARACTERS = 4_000;

/** The program under test: the build, or the sources themselves when RINGFENCE_FROM_SOURCE is set. */
const MAIN = join(import.meta.dirname, '../..', process.env['RINGFENCE_FROM_SOURCE'] ? 'src/main.ts' : 'dist/main.js');

export type DaemonOptions = {
  /** Merged over the defaults, key by key at the top level. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Sinks by name; the secret is written to a file only root can read. */
  readonly sinks?: Readonly<Record<string, { readonly url: string; readonly secret: string }>>;
  readonly env?: Readonly<Record<string, string>>;
  /** The state directory is a filesystem of its own, of this size, in memory. */
  readonly stateBytes?: number;
};

export type SpawnOptions = {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdio?: StdioOptions;
};

/** A daemon of its own: configuration, state and socket in a folder below the lab's scratch. */
export type TestDaemon = AsyncDisposable & {
  readonly folder: string;
  readonly config: string;
  readonly state: string;
  readonly socket: string;
  readonly pid: number;
  log(): string;
  cli(args: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** A command that stays: an attached run, `logs -f`. The caller ends it. */
  spawnCli(args: readonly string[], options?: SpawnOptions): ChildProcess;
  /** Ends it without warning, as a crash would; the folder stays. */
  crash(): Promise<void>;
  /** Ends it in good order; the folder stays. */
  stop(): Promise<void>;
  /** SIGUSR2: it leaves its runs to the next one. */
  handOver(): Promise<void>;
  /** Starts it again on the same folder, after `crash` or `stop`. */
  start(): Promise<void>;
  /** Ends it if it runs and removes the folder. */
  close(): Promise<void>;
};

export async function startDaemon(options: DaemonOptions = {}): Promise<TestDaemon> {
  const paths = layOutDaemon(options);
  let child = launch(paths, options);

  const running = (): boolean => child.exitCode === null && child.signalCode === null;
  const start = async (): Promise<void> => {
    if (!running()) child = launch(paths, options);
    await untilReady(paths, child);
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (!running()) return;
    child.kill(signal);
    await until(`the daemon ends after ${signal}`, () => !running(), { deadlineMs: STOP_MS_MAX }).catch(
      (error: unknown) => {
        child.kill('SIGKILL');
        throw withLog(error, paths.log);
      },
    );
  };
  const close = async (): Promise<void> => {
    await end('SIGTERM');
    paths.remove();
  };

  try {
    await start();
  } catch (error) {
    const explained = withLog(error, paths.log);
    await end('SIGKILL');
    throw explained;
  }
  return {
    folder: paths.folder,
    config: paths.config,
    state: paths.state,
    socket: paths.socket,
    get pid() {
      return child.pid ?? 0;
    },
    log: () => readFileSync(paths.log, 'utf8'),
    cli: (args, commandOptions) =>
      cli(args, { ...commandOptions, env: { RINGFENCE_SOCKET: paths.socket, ...commandOptions?.env } }),
    spawnCli: (args, spawnOptions) =>
      spawn(process.execPath, [MAIN, ...args], {
        env: { ...process.env, RINGFENCE_SOCKET: paths.socket, ...spawnOptions?.env },
        stdio: spawnOptions?.stdio ?? 'pipe',
      }),
    crash: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    handOver: () => end('SIGUSR2'),
    start,
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** The command line as a person would run it; no daemon is implied. */
export async function cli(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return await command(process.execPath, [MAIN, ...args], options);
}

export type DaemonPaths = {
  readonly folder: string;
  readonly sockets: string;
  readonly config: string;
  readonly state: string;
  readonly socket: string;
  readonly log: string;
  remove(): void;
};

/** Makes the folders and the configuration of a daemon, for those who start it in a way of their own. */
export function layOutDaemon(options: DaemonOptions): DaemonPaths {
  const folder = mkdtempSync(`${lab.scratch}/daemon-`);
  // A socket's path may hold 107 bytes, so it lies in the lab's short folder.
  const sockets = mkdtempSync(`${lab.runtime}/d-`);
  const paths: DaemonPaths = {
    folder,
    sockets,
    config: `${folder}/config.yaml`,
    state: `${folder}/state`,
    socket: `${sockets}/daemon.sock`,
    log: `${folder}/daemon.log`,
    remove: () => {
      if (options.stateBytes !== undefined) execFileSync('umount', ['--lazy', `${folder}/state`]);
      rmSync(folder, { recursive: true, force: true });
      rmSync(sockets, { recursive: true, force: true });
    },
  };
  mkdirSync(paths.state, { mode: 0o700 });
  if (options.stateBytes !== undefined) {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${options.stateBytes},mode=0700`, 'rf-state', paths.state]);
  }
  const sinks = Object.entries(options.sinks ?? {}).map(([name, sink]) => {
    const secretFile = `${folder}/${name}.secret`;
    writeFileSync(secretFile, `${sink.secret}\n`, { mode: 0o600 });
    return [name, { type: 'webhook', url: sink.url, secretFiles: [secretFile], allowPrivate: true }];
  });
  const config = {
    engine: `unix://${lab.dockerSocket}`,
    dns: { upstreams: [lab.resolver] },
    fence: { pool: '10.213.0.0/16' },
    socket: { mode: '0660', group: 'root' },
    sinks: Object.fromEntries(sinks),
    ...options.config,
  };
  // JSON is YAML too.
  writeFileSync(paths.config, JSON.stringify(config, null, 2));
  chmodSync(paths.config, 0o600);
  return paths;
}

function launch(paths: DaemonPaths, options: DaemonOptions): ChildProcess {
  const log = openSync(paths.log, 'a');
  const args = ['daemon', '--config', paths.config, '--state', paths.state, '--socket', paths.socket];
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, ...options.env },
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  return child;
}

async function untilReady(paths: DaemonPaths, child: ChildProcess): Promise<void> {
  await until(
    'the daemon answers on its socket',
    async () => {
      if (child.exitCode !== null || child.signalCode !== null)
        throw new Error(`the daemon ended: ${child.exitCode ?? child.signalCode}`);
      return await accepts(paths.socket);
    },
    { deadlineMs: START_MS_MAX },
  );
}

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function withLog(error: unknown, log: string): Error {
  const message = error instanceof Error ? error.message : String(error);
  return new Error(`${message}\nthe end of its log:\n${readFileSync(log, 'utf8').slice(-LOG_TAIL_CHARACTERS)}`, {
    cause: error,
  });
}
