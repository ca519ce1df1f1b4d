import { messageOf, RingfenceError } from '../core/errors.ts';
import type { CgroupPaths } from '../core/ports/warden.ts';
import type { EffectFailure, RunEffect } from './events.ts';

export function failureOf(error: unknown, effect: RunEffect): EffectFailure {
  const code = error instanceof RingfenceError ? error.code : 'INTERNAL';
  const exitCode =
    error instanceof RingfenceError && typeof error.facts['exitCode'] === 'number' ? error.facts['exitCode'] : null;
  const facts = { code, message: messageOf(error), exitCode };
  return effect.kind === 'prepare' ? { ...facts, preparation: effect.preparation } : facts;
}

/** What is done at once, where others take their time. */
export async function now(work: () => void): Promise<void> {
  work();
}

/** A first process that is already gone has no cgroup to look up: the parent's counters still tell its use. */
export function leafPathsOrNull(look: () => CgroupPaths): CgroupPaths | null {
  try {
    return look();
  } catch {
    return null;
  }
}
