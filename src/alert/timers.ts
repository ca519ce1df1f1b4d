/** Timers as the outbox needs them, so that a test can hold the clock. */
export type Timers = {
  /** Calls once after `delayMs`; the result takes it back. */
  after(delayMs: number, call: () => void): () => void;
};

export const REAL_TIMERS: Timers = {
  after(delayMs, call) {
    const timer = setTimeout(call, delayMs);
    // What waits for its next attempt is on disk; it keeps no process alive.
    timer.unref();
    return () => clearTimeout(timer);
  },
};
