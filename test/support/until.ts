import { setTimeout as delay } from 'node:timers/promises';

const POLL_MS = 20;

/**
 * Waits for a fact: the first value of `check` that is not undefined, null or false. After the deadline it throws
 * with `what`, so that a test fails with the sentence that did not come true.
 */
export async function until<T>(
  what: string,
  check: () => T | Promise<T>,
  options: { readonly deadlineMs: number },
): Promise<Exclude<T, undefined | null | false>> {
  const deadline = performance.now() + options.deadlineMs;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== null && value !== false) return value as Exclude<T, undefined | null | false>;
    if (performance.now() > deadline) throw new Error(`not within ${options.deadlineMs} ms: ${what}`);
    await delay(POLL_MS);
  }
}
