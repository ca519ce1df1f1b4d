/**
 * A process that ends is noticed at once; one that stands still (stopped, or in a loop without end) is not. So each of
 * ours says again and again that its loop turns, and whoever started it listens.
 */
export const TURNING_MS = 1_000;
const SILENT_TURNS_MAX = 15;
export const SILENT_SECONDS_MAX = (SILENT_TURNS_MAX * TURNING_MS) / 1_000;

/** A child process with a channel. */
type Speaking = {
  on(event: 'message', listener: () => void): unknown;
  once(event: 'exit', listener: () => void): unknown;
};

export type TurningListener = {
  /** It said something, whatever it was. */
  heard(): void;
  stop(): void;
};

/**
 * Calls back once when nothing was heard for `SILENT_SECONDS_MAX`. Counted in turns of this process, so that one that was
 * stopped itself does not blame the other.
 */
export function listenForTurning(onStill: () => void): TurningListener {
  let silentTurns = 0;
  const timer = setInterval(() => {
    silentTurns += 1;
    if (silentTurns < SILENT_TURNS_MAX) return;
    clearInterval(timer);
    onStill();
  }, TURNING_MS).unref();
  return {
    heard: () => {
      silentTurns = 0;
    },
    stop: () => clearInterval(timer),
  };
}

/** The same for a child of whom every message counts, until it ends. */
export function listenToChild(child: Speaking, onStill: () => void): void {
  const listener = listenForTurning(onStill);
  child.on('message', () => listener.heard());
  child.once('exit', () => listener.stop());
}
