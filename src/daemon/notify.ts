import { messageOf } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import { sendDatagram } from '../kernel/datagram.ts';

/**
 * What systemd hears of the daemon: sd_notify(3) by its socket, without its library. Outside a unit there is no socket,
 * and everything here does nothing. What feeds the watchdog comes from the warden's loop and is passed on by the
 * daemon's: whichever of the two stands still, systemd hears nothing any more and starts the daemon again.
 */
export type Notifier = {
  /** How often to feed; null where no watchdog is asked for, or where it is meant for another process. */
  readonly watchdogEveryMs: number | null;
  feedWatchdog(): void;
  /** The socket is open, and what the last daemon left is taken over. */
  ready(status: string): void;
  reloading(): void;
  stopping(): void;
};

type Environment = Record<string, string | undefined>;

const FEEDS_PER_TIME_OUT = 3;
const STATUS_CHARS_MAX = 200;

/** Takes the variables out of the environment: the tools that the daemon starts must not be able to speak for it. */
export function openNotifier(environment: Environment, log: Log): Notifier {
  const socketPath = environment['NOTIFY_SOCKET'] ?? '';
  const watchdogEveryMs = watchdogOf(environment);
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete environment[name];
  const tell = (...lines: readonly string[]): void => {
    if (socketPath === '') return;
    try {
      sendDatagram(socketPath, Buffer.from(lines.join('\n')));
    } catch (error) {
      // A start that systemd does not hear of ends by its own time-out; there is nobody else to tell.
      log.warn({ socketPath, reason: messageOf(error) }, 'systemd could not be told');
    }
  };
  return {
    watchdogEveryMs,
    feedWatchdog: () => tell('WATCHDOG=1'),
    ready: (status) => tell('READY=1', `STATUS=${status.replaceAll('\n', ' ').slice(0, STATUS_CHARS_MAX)}`),
    // Without the time systemd takes the READY=1 of the start for that of the reload.
    reloading: () => tell('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`),
    stopping: () => tell('STOPPING=1', 'STATUS=stopping'),
  };
}

function watchdogOf(environment: Environment): number | null {
  const asked = (environment['NOTIFY_SOCKET'] ?? '') !== '';
  const timeOutUs = Number(environment['WATCHDOG_USEC'] ?? '');
  const meantFor = environment['WATCHDOG_PID'] ?? String(process.pid);
  if (!asked || !Number.isInteger(timeOutUs) || timeOutUs <= 0) return null;
  if (meantFor !== String(process.pid)) return null;
  return Math.max(1, Math.floor(timeOutUs / 1000 / FEEDS_PER_TIME_OUT));
}
