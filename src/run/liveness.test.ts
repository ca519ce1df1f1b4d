import fc from 'fast-check';
import { expect, test } from 'vitest';
import { USAGE_NONE } from '../core/outcome.ts';
import type { RunEffect, RunEvent } from './events.ts';
import { initialState } from './state.ts';
import { step } from './step.ts';
import { specOf } from './testing.ts';

const NO_TIMES = { detectedMs: null, signalledMs: null, emptyMs: null };
const BREACH = {
  reason: 'budget.cpu',
  rule: 'budget.cpu',
  measured: 2,
  limit: 1,
  unit: 'ms',
  action: 'kill',
  denial: null,
} as const;
const FAILURE = { code: 'ENGINE_FAILED', message: 'no', exitCode: null };
const ADOPT = {
  kind: 'adopt',
  containerId: 'c',
  pid: 1,
  startedAt: '2026-01-01T00:00:00.000Z',
  startedAtMs: 0,
} as const;
const STEPS_MAX = 400;

type Happening = RunEvent extends infer Event ? (Event extends RunEvent ? Omit<Event, 'at' | 'atMs'> : never) : never;

/**
 * A world that answers every effect once, some day: with success or failure, in any order, with breaches, requests and
 * deaths in between. Deadlines come when nothing else is left, as they would after a long silence.
 */
class World {
  readonly waiting: Happening[];
  readonly deadlines: Happening[] = [];
  #processes: 'none' | 'alive' | 'gone';
  released = 0;
  settled = 0;
  /** Changes asked for, and what was answered to them. */
  changes = 0;
  answered = 0;

  constructor(begin: 'launch' | 'adopt') {
    this.waiting = begin === 'launch' ? [{ kind: 'launch' }] : [ADOPT];
    this.#processes = begin === 'launch' ? 'none' : 'alive';
  }

  take(effect: RunEffect, fails: boolean): void {
    switch (effect.kind) {
      case 'adopt':
        this.waiting.push(fails ? { kind: 'effect-failed', effect: 'adopt', failure: FAILURE } : { kind: 'adopted' });
        return;
      case 'prepare':
        this.waiting.push(
          fails
            ? { kind: 'effect-failed', effect: 'prepare', failure: { ...FAILURE, preparation: effect.preparation } }
            : { kind: 'prepared', preparation: effect.preparation },
        );
        return;
      case 'create-container':
        this.waiting.push(
          fails
            ? { kind: 'effect-failed', effect: 'create-container', failure: FAILURE }
            : { kind: 'container-created', containerId: 'c' },
        );
        return;
      case 'start-container':
        this.#processes = 'alive';
        this.waiting.push(
          fails
            ? { kind: 'effect-failed', effect: 'start-container', failure: FAILURE }
            : { kind: 'container-started', pid: 1, startedAt: '2026-01-01T00:00:00.000Z' },
        );
        return;
      case 'read-back':
        this.waiting.push(
          fails
            ? { kind: 'mismatched', mismatches: [{ path: 'limits.cpu', wanted: '1', got: '2' }] }
            : { kind: 'verified', bounds: [], note: null },
        );
        return;
      case 'change-fence':
        this.waiting.push(
          fails ? { kind: 'effect-failed', effect: 'change-fence', failure: FAILURE } : { kind: 'fence-changed' },
        );
        return;
      case 'change-watch':
        this.waiting.push(
          fails ? { kind: 'effect-failed', effect: 'change-watch', failure: FAILURE } : { kind: 'watch-changed' },
        );
        return;
      case 'slow-network':
      case 'grant-more':
        this.waiting.push(
          fails
            ? { kind: 'effect-failed', effect: effect.kind, failure: FAILURE }
            : { kind: effect.kind === 'slow-network' ? 'network-slowed' : 'more-granted' },
        );
        return;
      case 'answer-change':
        this.answered += 1;
        return;
      case 'kill':
      case 'stop':
      case 'force-kill':
        this.end(effect.kind === 'force-kill');
        return;
      case 'inspect-exit':
        this.waiting.push(
          fails
            ? { kind: 'effect-failed', effect: 'inspect-exit', failure: FAILURE }
            : { kind: 'died', exitCode: 0, oomKilledFlag: false },
        );
        return;
      case 'set-deadline':
        this.deadlines.push({ kind: 'deadline', name: effect.name });
        return;
      case 'tear-down':
        this.released += 1;
        this.waiting.push({ kind: 'torn-down', failures: [] });
        return;
      case 'settle':
        this.settled += 1;
        return;
      case 'record':
      case 'open-incident':
      case 'notify-held':
    }
  }

  /** The processes end: the cgroup is empty, and the engine tells of it, once each. A forced kill always answers. */
  end(forced: boolean): void {
    if (this.#processes === 'alive') this.waiting.push({ kind: 'died', exitCode: 137, oomKilledFlag: false });
    if (this.#processes === 'alive' || forced)
      this.waiting.push({ kind: 'emptied', usage: USAGE_NONE, times: NO_TIMES, breach: null });
    if (this.#processes === 'alive') this.#processes = 'gone';
  }

  interfere(kind: number): void {
    if (kind === 1)
      this.waiting.push({ kind: 'end-requested', how: 'stop', reason: 'stopped', rule: null, detail: '' });
    if (kind === 2)
      this.waiting.push({ kind: 'end-requested', how: 'kill', reason: 'enforcement.lost', rule: 'egress', detail: '' });
    if (kind === 3 && this.#processes === 'alive') {
      this.waiting.push({ kind: 'breached', breach: BREACH, usage: USAGE_NONE, times: NO_TIMES });
      this.end(false);
    }
    if (kind === 4 && this.#processes === 'alive') this.end(false);
    if (kind === 5) {
      this.changes += 1;
      this.waiting.push({ kind: 'change', spec: specOf({ graceMs: 1_000 }), draft: { kind: 'run.changed' } });
    }
    if (kind === 6) this.waiting.push({ kind: 'held', breach: { ...BREACH, action: 'pause' }, usage: USAGE_NONE });
    if (kind === 8) this.waiting.push({ kind: 'held', breach: { ...BREACH, action: 'throttle' }, usage: USAGE_NONE });
    if (kind === 9) this.waiting.push({ kind: 'resume' });
    if (kind === 7) this.waiting.push({ kind: 'resumed' });
  }
}

test('every run is over some day, whatever fails, in whatever order the answers come', () => {
  const choices = fc.array(fc.record({ pick: fc.nat(20), fails: fc.nat(6), interference: fc.nat(14) }), {
    minLength: 60,
    maxLength: 60,
  });
  fc.assert(
    fc.property(fc.constantFrom('launch' as const, 'adopt' as const), choices, (begin, script) => {
      const world = new World(begin);
      let state = initialState({ runId: 'r000000000000', spec: specOf(), imageDigest: null });
      for (let turn = 0; turn < STEPS_MAX && state.phase !== 'over'; turn += 1) {
        const choice = script[turn % script.length] ?? { pick: 0, fails: 0, interference: 0 };
        if (turn < script.length) world.interfere(choice.interference);
        // An agent that nobody ends ends by itself, or else waiting for it would be the fault.
        if (world.waiting.length === 0 && world.deadlines.length === 0) world.end(false);
        const from = world.waiting.length > 0 ? world.waiting : world.deadlines;
        const [event] = from.splice(choice.pick % Math.max(1, from.length), 1);
        if (event === undefined) break;
        const next = step(state, { ...event, at: '2026-01-01T00:00:00.000Z', atMs: turn }, 'i000000000000');
        state = next.state;
        for (const effect of next.effects) world.take(effect, choice.fails === 0);
      }
      expect({ phase: state.phase, settled: world.settled, released: world.released }).toEqual({
        phase: 'over',
        settled: 1,
        released: 1,
      });
      expect(world.answered).toBeLessThanOrEqual(world.changes);
      if (state.spec.graceMs === 1_000) expect(world.answered).toBeGreaterThan(0);
    }),
    { numRuns: 5_000 },
  );
});
