import { execa } from 'execa';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Network namespaces of a test's own: entered with nsenter, since `ip netns exec` would remount /sys. */
const COMMAND_TIMEOUT_MS = 20_000;

export type Namespace = {
  readonly name: string;
  readonly path: string;
  /** Runs a command inside; rejects on a failing exit code unless told otherwise. */
  run(file: string, args: readonly string[], options?: RunOptions): Promise<RunResult>;
  remove(): Promise<void>;
};

export type RunOptions = { readonly input?: string; readonly mayFail?: boolean; readonly timeoutMs?: number };
export type RunResult = { readonly exitCode: number; readonly stdout: string; readonly stderr: string };

/** `folder` comes before everything else on the path of what runs inside. */
export async function makeNamespace(purpose: string, folder: string | null = null): Promise<Namespace> {
  const name = `rft-${purpose}-${randomBytes(3).toString('hex')}`;
  const path = `/run/netns/${name}`;
  await execa('ip', ['netns', 'add', name], { timeout: COMMAND_TIMEOUT_MS });
  const run: Namespace['run'] = async (file, args, options = {}) => {
    const result = await execa('nsenter', [`--net=${path}`, file, ...args], {
      timeout: options.timeoutMs ?? COMMAND_TIMEOUT_MS,
      reject: options.mayFail !== true,
      env: pathWith(folder),
      ...(options.input === undefined ? { stdin: 'ignore' } : { input: options.input }),
    });
    return { exitCode: result.exitCode ?? -1, stdout: result.stdout, stderr: result.stderr };
  };
  const remove = async (): Promise<void> => {
    await execa('ip', ['netns', 'del', name], { timeout: COMMAND_TIMEOUT_MS, reject: false });
  };
  try {
    await run('ip', ['link', 'set', 'lo', 'up']);
  } catch (error) {
    await remove();
    throw error;
  }
  return { name, path, run, remove };
}

export function pathWith(folder: string | null): { readonly PATH?: string } {
  return folder === null ? {} : { PATH: `${folder}:${globalThis.process.env['PATH'] ?? ''}` };
}

/** A folder in which the plain names of iptables are those of one backend. */
export function makeBackendFolder(backend: 'nft' | 'legacy'): string {
  const folder = mkdtempSync(join(tmpdir(), 'rft-path-'));
  for (const name of ['iptables', 'ip6tables']) {
    for (const suffix of ['', '-save', '-restore']) {
      symlinkSync(`/usr/sbin/xtables-${backend}-multi`, join(folder, `${name}${suffix}`));
    }
  }
  return folder;
}

/** The absolute path of a file beside this one. */
export function besideThis(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url));
}
