import { spawn, type ChildProcess } from 'node:child_process';
import { isAbsolute } from 'node:path';
import { fail, messageOf } from '../../core/errors.ts';
import type { Alert, ExecSink } from '../../core/ports/alert.ts';
import { printable } from '../../core/text.ts';
import type { Deliverer, Delivery } from '../deliverer.ts';
import { failed } from '../deliverer.ts';

const ERROR_BYTES_MAX = 4_096;
/** What does not end after SIGKILL hangs in the kernel, and is not waited for. */
const KILLED_MS_MAX = 2_000;
const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * A program of the host: no shell, nothing of the alert among its arguments, the body on its standard input. Exit code 0
 * means that it has taken the alert.
 */
export function openExec(sink: ExecSink): Deliverer {
  const [file] = sink.command;
  if (!isAbsolute(file)) {
    throw fail('CONFIG_INVALID', {
      detail: `the command of a sink must be an absolute path, not "${printable(file)}"`,
    });
  }
  return { kind: 'exec', says: () => true, send: async (alert, signal) => await run(sink, alert, signal) };
}

/**
 * In a process group of its own, so that at the deadline everything it started in that group goes with it; and over when it
 * exits, whoever still holds its pipes. execa waits for the pipes, so it is not used here.
 */
function run(sink: ExecSink, alert: Alert, signal: AbortSignal): Promise<Delivery> {
  const { promise, resolve } = Promise.withResolvers<Delivery>();
  const [file, ...args] = sink.command;
  let child: ChildProcess;
  try {
    child = spawn(file, args, {
      shell: false,
      detached: true,
      cwd: '/',
      env: environmentOf(alert),
      stdio: ['pipe', 'ignore', 'pipe'],
    });
  } catch (error) {
    return Promise.resolve(failed(printable(messageOf(error))));
  }
  let why: string | null = null;
  let last: NodeJS.Timeout | null = null;
  const end = (reason: string): void => {
    why ??= reason;
    killGroup(child);
    last ??= setTimeout(() => settle(failed(`${reason}, and it cannot be killed`)), KILLED_MS_MAX);
  };
  const timer = setTimeout(() => end(`no end within ${sink.timeoutMs / 1000} s`), sink.timeoutMs);
  const onAbort = (): void => end('the daemon stops');
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  const said: Buffer[] = [];
  let saidBytes = 0;
  child.stderr?.on('data', (chunk: Buffer) => {
    if (saidBytes < ERROR_BYTES_MAX) said.push(chunk.subarray(0, ERROR_BYTES_MAX - saidBytes));
    saidBytes += chunk.length;
  });
  const settle = (delivery: Delivery): void => {
    clearTimeout(timer);
    if (last !== null) clearTimeout(last);
    signal.removeEventListener('abort', onAbort);
    child.stdin?.destroy();
    child.stderr?.destroy();
    resolve(delivery);
  };
  child.on('error', (error) => settle(failed(printable(messageOf(error)))));
  child.on('exit', (code, killedBy) => {
    if (why === null && code === 0) return settle({ kind: 'delivered', status: 0 });
    const ending = why ?? (code === null ? `ended by ${killedBy ?? 'a signal'}` : `exit code ${code}`);
    const text = printable(Buffer.concat(said).toString('utf8').trim(), 160);
    return settle(failed(text === '' ? ending : `${ending}: ${text}`));
  });
  // A program that does not want the body closes its end; its exit code counts.
  child.stdin?.on('error', () => {});
  child.stdin?.end(alert.body);
  return promise;
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has ended in the meantime.
  }
}

/** Nothing of the daemon's own environment, which may name sockets and secrets; of the alert only what we chose. */
function environmentOf(alert: Alert): Readonly<Record<string, string>> {
  return {
    PATH: SEARCH_PATH,
    LANG: 'C.UTF-8',
    RINGFENCE_ALERT_ID: alert.id,
    RINGFENCE_TYPE: alert.type,
    RINGFENCE_SEVERITY: alert.severity,
    RINGFENCE_KEY: alert.key,
  };
}
