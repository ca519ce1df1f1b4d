import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { ownProgram } from '../kernel/own-program.ts';
import { messageOf } from '../core/errors.ts';
import type { GpuReading, Gpus } from '../core/ports/gpu.ts';
import type { Log } from '../core/ports/log.ts';
import { printable } from '../core/text.ts';
import { bootTimeMs } from '../kernel/libc.ts';
import type { GpuReport, GpuRequest } from './messages.ts';
import type { GpuSourcePlan } from './source.ts';

/**
 * The daemon's half of the process that reads GPUs. A reading that does not come is not waited for: the process is
 * killed and another one started, each time a little later, for as long as it takes.
 */
export type GpuClientOptions = {
  readonly source: GpuSourcePlan;
  readonly onReading: (reading: GpuReading) => void;
  readonly log: Log;
  readonly pace?: Partial<GpuPace>;
};

export type GpuPace = {
  readonly watchingMs: number;
  readonly idleMs: number;
  /** A reading that takes longer than this comes from a driver that hangs. */
  readonly readingMsMax: number;
  /** Loading the library initializes the driver: seconds on a host whose cards sleep. */
  readonly firstReadingMsMax: number;
  readonly restartMsMin: number;
  readonly restartMsMax: number;
};

const PACE: GpuPace = {
  watchingMs: 200,
  idleMs: 1_000,
  readingMsMax: 3_000,
  firstReadingMsMax: 15_000,
  restartMsMin: 200,
  restartMsMax: 30_000,
};
const EXIT_MS_MAX = 2_000;
const MESSAGE_CHARS_MAX = 300;
export const NVML_LIBRARY = 'libnvidia-ml.so.1';
const LIBRARY_FOLDERS = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/usr/local/nvidia/lib64',
  '/run/nvidia/driver/usr/lib/x86_64-linux-gnu',
];

/** Where the library of the driver lies on this host; null when it has none. */
export function findNvmlLibrary(configured: string | null): string | null {
  if (configured !== null) return configured;
  return LIBRARY_FOLDERS.map((folder) => `${folder}/${NVML_LIBRARY}`).find((path) => existsSync(path)) ?? null;
}

/** Resolves after the first reading, or when it is clear that there is none for now; never rejects. */
export async function startGpuClient(options: GpuClientOptions): Promise<Gpus> {
  const pace: GpuPace = { ...PACE, ...options.pace };
  let child: ChildProcess | null = null;
  let latest: GpuReading | null = null;
  let trouble: string | null = 'the driver has not answered yet';
  let everyMs = pace.idleMs;
  let restartMs = pace.restartMsMin;
  let restartTimer: NodeJS.Timeout | null = null;
  let deadline: NodeJS.Timeout | null = null;
  let closing = false;
  const settled = Promise.withResolvers<void>();

  const expect = (withinMs: number): void => {
    if (deadline !== null) clearTimeout(deadline);
    deadline = setTimeout(() => {
      fails(`the driver did not answer within ${withinMs} ms`);
      // Its death is what starts the next one.
      child?.kill('SIGKILL');
    }, withinMs);
  };

  const fails = (message: string): void => {
    const shown = printable(message).slice(0, MESSAGE_CHARS_MAX);
    if (trouble !== shown) options.log.warn({ source: options.source.kind, reason: shown }, 'GPUs cannot be read');
    trouble = shown;
    latest = null;
    settled.resolve();
  };

  const take = (report: GpuReport): void => {
    switch (report.kind) {
      case 'read': {
        const { reading } = report;
        if (trouble !== null)
          options.log.info({ source: reading.source, devices: reading.devices.length }, 'GPUs are read');
        trouble = null;
        latest = reading;
        restartMs = pace.restartMsMin;
        expect(everyMs + pace.readingMsMax);
        options.onReading(reading);
        settled.resolve();
        return;
      }
      case 'unreadable':
        // It answers, so it does not hang; whether that is soon enough is for whoever counts the readings.
        expect(everyMs + pace.readingMsMax);
        fails(report.message);
        return;
      case 'failed':
        fails(report.message);
        return;
      default:
        report satisfies never;
    }
  };

  const launch = (): void => {
    const made = spawnReader();
    child = made;
    expect(pace.firstReadingMsMax);
    made.on('message', (message) => {
      if (child === made) take(message as GpuReport);
    });
    made.once('error', (error) => fails(messageOf(error)));
    made.once('exit', (code, signal) => {
      if (child !== made) return;
      child = null;
      if (deadline !== null) clearTimeout(deadline);
      if (closing) return;
      if (trouble === null)
        fails(signal === null ? `its reader exited with code ${code}` : `its reader ended by ${signal}`);
      restartTimer = setTimeout(launch, restartMs);
      restartMs = Math.min(restartMs * 2, pace.restartMsMax);
    });
    send(made, { kind: 'start', source: options.source, everyMs });
  };

  launch();
  await settled.promise;
  return {
    latest: () => (latest !== null && bootTimeMs() - latest.atMs <= everyMs + pace.readingMsMax ? latest : null),
    problem: () => trouble,
    setPace: (wanted) => {
      const next = wanted === 'watching' ? pace.watchingMs : pace.idleMs;
      if (next === everyMs) return;
      everyMs = next;
      if (child !== null) send(child, { kind: 'pace', everyMs });
    },
    close: async () => {
      closing = true;
      if (restartTimer !== null) clearTimeout(restartTimer);
      if (deadline !== null) clearTimeout(deadline);
      if (child !== null) await ended(child);
    },
  };
}

function spawnReader(): ChildProcess {
  const entry = ownProgram('./process', import.meta.url);
  const { PATH = '', LD_LIBRARY_PATH } = process.env;
  return fork(entry, [], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    execArgv: [],
    env: { PATH, ...(LD_LIBRARY_PATH === undefined ? {} : { LD_LIBRARY_PATH }) },
  });
}

function send(child: ChildProcess, request: GpuRequest): void {
  // A channel that closes under a message shows as the exit of the child.
  child.send(request, () => undefined);
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  // It may hang in the driver; a process that even SIGKILL does not end holds nothing that is waited for.
  const timer = setTimeout(resolve, EXIT_MS_MAX);
  child.once('exit', () => resolve());
  child.kill('SIGKILL');
  await promise;
  clearTimeout(timer);
}
