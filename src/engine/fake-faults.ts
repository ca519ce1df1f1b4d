import { fail } from '../core/errors.ts';
import type { Engine } from '../core/ports/engine.ts';

export type EngineCallName = Exclude<keyof Engine, 'events'>;

/** Faults for the next call of a name; several queue up. `calls` is every call so far, in order. */
export type FakeFaults = {
  readonly calls: readonly EngineCallName[];
  /** The call fails and nothing was done. */
  fail(call: EngineCallName, error?: Error): void;
  /** The call is done, and fails all the same. */
  loseReply(call: EngineCallName): void;
  /** The call is not done until the returned function is called. */
  hold(call: EngineCallName): () => void;
  /** For the fake itself: performs a call with the fault that waits for it. */
  pass<T>(call: EngineCallName, effect: () => T): Promise<T>;
};

type Fault =
  | { readonly kind: 'fail'; readonly error: Error }
  | { readonly kind: 'lose-reply' }
  | { readonly kind: 'hold'; readonly released: Promise<void> };

/** A test that makes more calls than this has a loop. */
const CALLS_MAX = 100_000;

export function createFaults(): FakeFaults {
  const waiting = new Map<EngineCallName, Fault[]>();
  const calls: EngineCallName[] = [];
  const add = (call: EngineCallName, fault: Fault): void => {
    waiting.set(call, [...(waiting.get(call) ?? []), fault]);
  };
  return {
    calls,
    fail: (call, error = fail('ENGINE_FAILED', { detail: `${call} failed on command`, statusCode: 500 })) =>
      add(call, { kind: 'fail', error }),
    loseReply: (call) => add(call, { kind: 'lose-reply' }),
    hold: (call) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      add(call, { kind: 'hold', released: promise });
      return resolve;
    },
    pass: async (call, effect) => {
      if (calls.length >= CALLS_MAX) throw new Error(`more than ${CALLS_MAX} calls of the engine`);
      calls.push(call);
      const fault = waiting.get(call)?.shift();
      if (fault?.kind === 'hold') await fault.released;
      // A real engine never answers in the same turn.
      else await Promise.resolve();
      if (fault?.kind === 'fail') throw fault.error;
      const result = effect();
      if (fault?.kind === 'lose-reply') {
        throw fail('ENGINE_UNREACHABLE', { detail: `the reply to ${call} was lost`, connectionLost: true });
      }
      return result;
    },
  };
}
