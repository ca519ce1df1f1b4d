import { messageOf } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import type { Cleaned } from './leftovers.ts';

/** The engine may be back in a moment, or tomorrow. */
const FIRST_MS = 2_000;
const LATER_MS_MAX = 300_000;

/** What is left behind, because the engine was away or there was no descriptor, is removed as soon as that works. */
export type CleanAgain = {
  /** Something was left. */
  soon(): void;
  /** The engine is back: what is left need not wait as long as it has come to. */
  engineBack(): void;
  stop(): void;
};

export function createCleanAgain(parts: {
  readonly clean: () => Promise<Pick<Cleaned, 'left'>>;
  readonly log: Log;
}): CleanAgain {
  const { clean, log } = parts;
  let timer: NodeJS.Timeout | null = null;
  let looking = false;
  let waitMs = FIRST_MS;
  let stopped = false;
  /** Left while the others are being removed: nobody knows whether these were among them. */
  let more = false;

  const wait = (): void => {
    if (stopped) return;
    timer = setTimeout(() => void look(), waitMs).unref();
    waitMs = Math.min(waitMs * 2, LATER_MS_MAX);
  };
  const look = async (): Promise<void> => {
    timer = null;
    looking = true;
    more = false;
    const isDone = await clean().then(
      ({ left }) => left.length === 0,
      (error: unknown) => {
        log.warn({ message: messageOf(error), againMs: waitMs }, 'what runs left behind could not be looked for');
        return false;
      },
    );
    looking = false;
    if (isDone) waitMs = FIRST_MS;
    if (!isDone || more) wait();
  };
  return {
    soon: () => {
      more = true;
      if (timer === null && !looking) wait();
    },
    engineBack: () => {
      waitMs = FIRST_MS;
      if (timer === null) return;
      clearTimeout(timer);
      void look();
    },
    stop: () => {
      stopped = true;
      if (timer !== null) clearTimeout(timer);
      timer = null;
    },
  };
}
