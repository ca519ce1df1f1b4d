import type { Stamp } from './events.ts';

/**
 * The time since boot, in milliseconds, at which the agent began, from the wall-clock time that the engine gives for it.
 * It lies between the call to start (`asked`) and the answer (`now`) whatever the engine says and however the clock was
 * set in between: an earlier start would charge the agent for the runtime's work, a later one would give time away.
 */
export function startTime(engineSays: string | null, asked: Stamp, now: Stamp): number {
  const agoMs = engineSays === null ? Number.NaN : Date.parse(now.at) - Date.parse(engineSays);
  if (Number.isNaN(agoMs)) return asked.atMs;
  return Math.min(now.atMs, Math.max(asked.atMs, now.atMs - agoMs));
}
