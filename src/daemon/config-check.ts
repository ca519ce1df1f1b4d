import { isDeepStrictEqual } from 'node:util';
import { messageOf, RingfenceError } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import { loadConfig, type DaemonConfig } from './config.ts';
import { readSinks } from './sinks-config.ts';

/**
 * What SIGHUP does: the configuration is read and checked as a start would, so that a mistake is found while the old
 * one is still in force, and the log names what differs. Nothing is swapped under living runs: pool, ports, sinks and
 * groups are promises to them, and a restart that keeps the runs takes seconds.
 */
export async function checkAgain(options: {
  readonly configPath: string;
  readonly configRequired: boolean;
  readonly current: DaemonConfig;
  readonly log: Log;
}): Promise<void> {
  const { configPath, current, log } = options;
  try {
    const next = await loadConfig(configPath, { required: options.configRequired });
    await readSinks(next.sinks);
    const needsRestart = differingKeys(current, next);
    if (needsRestart.length === 0) log.info({ configPath }, 'configuration is valid and in force');
    else log.warn({ configPath, needsRestart }, 'configuration is valid; a restart puts it in force');
  } catch (error) {
    const problems = error instanceof RingfenceError ? error.facts['problems'] : undefined;
    log.error({ configPath, reason: messageOf(error), problems }, 'configuration is not valid; the old one stays');
  }
}

function differingKeys(current: DaemonConfig, next: DaemonConfig): readonly string[] {
  const names = new Set([...Object.keys(current), ...Object.keys(next)]) as Set<keyof DaemonConfig>;
  return [...names].filter((name) => !isDeepStrictEqual(current[name], next[name])).toSorted();
}
