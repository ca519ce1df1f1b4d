import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Long enough that one who launches run after run is never kept waiting. */
const IDLE_MS = 10_000;

/**
 * Gives back, once nothing has run for a while, what many runs took: V8 does so at a full collection, and none comes where
 * nothing is allocated any more.
 */
export type IdleMemory = {
  /** A run is over and cleaned up. */
  runCleaned(): void;
  stop(): void;
};

export function createIdleMemory(parts: {
  readonly isIdle: () => boolean;
  readonly collect?: () => Promise<void>;
}): IdleMemory {
  const { isIdle, collect = collectAll } = parts;
  let timer: NodeJS.Timeout | undefined;
  return {
    runCleaned: () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (isIdle()) void collect();
      }, IDLE_MS).unref();
    },
    stop: () => clearTimeout(timer),
  };
}

/** What `node --expose-gc` puts into every context is here put into one that nobody else sees. */
async function collectAll(): Promise<void> {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as (options: object) => Promise<void>;
  setFlagsFromString('--no-expose-gc');
  await gc({ type: 'major', execution: 'async', flavor: 'last-resort' });
}
