import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Breach, Denial } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { RunEffect, RunEvent } from './events.ts';
import type { RunState } from './state.ts';
import { initialState, preparationsOf } from './state.ts';
import { EXIT_MS_MAX, step } from './step.ts';
import { specOf } from './testing.ts';

const INCIDENT = 'i000000000000';
const STAMP = { at: '2026-01-01T00:00:00.000Z', atMs: 1_000 };
const NO_TIMES = { detectedMs: null, signalledMs: null, emptyMs: null };
const CPU_BREACH: Breach = {
  reason: 'budget.cpu',
  rule: 'budget.cpu',
  measured: 3_010,
  limit: 3_000,
  unit: 'ms',
  action: 'kill',
  denial: null,
};
const WALL_BREACH: Breach = { ...CPU_BREACH, reason: 'budget.wall', rule: 'budget.wall' };

type Unstamped = RunEvent extends infer Event ? (Event extends RunEvent ? Omit<Event, 'at' | 'atMs'> : never) : never;

/** Feeds events and collects what the run made the world do. */
function play(events: readonly Unstamped[], from: RunState = freshRun()): { state: RunState; effects: RunEffect[] } {
  const effects: RunEffect[] = [];
  let state = from;
  for (const event of events) {
    const next = step(state, { ...event, ...STAMP }, INCIDENT);
    state = next.state;
    effects.push(...next.effects);
  }
  return { state, effects };
}

function freshRun(): RunState {
  return initialState({ runId: 'r000000000000', spec: specOf(), imageDigest: 'sha256:1' });
}

const PREPARATIONS = preparationsOf(specOf());
const LAUNCH: readonly Unstamped[] = [
  { kind: 'launch' },
  ...PREPARATIONS.map((preparation) => ({ kind: 'prepared', preparation }) as const),
  { kind: 'container-created', containerId: 'c1' },
  { kind: 'container-started', pid: 100, startedAt: STAMP.at },
  { kind: 'verified', bounds: [], note: null },
];
const EMPTIED: Unstamped = {
  kind: 'emptied',
  usage: USAGE_NONE,
  times: { detectedMs: 1, signalledMs: 2, emptyMs: 9 },
  breach: null,
};
const breached = (breach: Breach): Unstamped => ({ kind: 'breached', breach, usage: USAGE_NONE, times: NO_TIMES });

function kindsOf(effects: readonly RunEffect[]): string[] {
  return effects.map((effect) => (effect.kind === 'record' ? `record ${effect.draft.kind}` : effect.kind));
}

const REFUSED: Denial = {
  kind: 'packet',
  at: STAMP.at,
  destination: '203.0.113.10',
  port: 22,
  protocol: 'tcp',
  rule: 'egress',
  explanation: 'no rule',
};

describe('refused attempts', () => {
  const denied = (atMs: number, suppressed = 0): RunEvent => {
    return { kind: 'denied', denial: REFUSED, suppressed, at: STAMP.at, atMs };
  };
  const running = play(LAUNCH).state;

  function flood(from: RunState, events: readonly RunEvent[]): { state: RunState; counted: readonly number[] } {
    const counted: number[] = [];
    let state = from;
    for (const event of events) {
      const next = step(state, event, INCIDENT);
      state = next.state;
      for (const effect of next.effects)
        if (effect.kind === 'record' && effect.draft.kind === 'egress.denied')
          counted.push(1 + Number(effect.draft['suppressed']));
    }
    return { state, counted };
  }
  const sum = (counted: readonly number[]): number => counted.reduce((total, count) => total + count, 0);

  test('are recorded up to a rate, and a flood hides none that comes later', () => {
    const burst = flood(
      running,
      Array.from({ length: 10_000 }, () => denied(1_000_000, 3)),
    );
    expect(burst.counted).toEqual(Array.from({ length: 256 }, () => 4));
    const later = flood(burst.state, [denied(1_004_999), denied(1_005_000), denied(1_005_001)]);
    expect(later.counted).toEqual([(10_000 - 256) * 4 + 2]);
    // A day at any rate is bounded, and what it counts is all of it but what still waits.
    const day = flood(
      later.state,
      Array.from({ length: 100_000 }, (_, index) => denied(1_005_001 + index * 864)),
    );
    expect(day.counted.length).toBeLessThanOrEqual(86_400 / 5 + 1);
    expect(sum([...burst.counted, ...later.counted, ...day.counted]) + day.state.denialRecords.unrecorded).toBe(
      40_000 + 3 + 100_000,
    );
  });

  test.each([
    ['what this daemon did not write', 300, 0, 44],
    ['what the warden did not tell', 300, 1_000, 744],
    ['nothing where each has its record', 256, 256, null],
  ])('end with a count of the rest: %s', (_what, told, used, suppressed) => {
    const { state } = flood(
      running,
      Array.from({ length: told }, () => denied(1_000_000)),
    );
    const { effects } = play(
      [
        { ...EMPTIED, usage: { ...USAGE_NONE, denials: used } },
        { kind: 'died', exitCode: 0, oomKilledFlag: false },
      ],
      state,
    );
    const drafts = effects.flatMap((effect) => (effect.kind === 'record' ? [effect.draft] : []));
    const rest = drafts.filter(({ kind }) => kind === 'egress.suppressed');
    expect(rest.map((draft) => draft['suppressed'])).toEqual(suppressed === null ? [] : [suppressed]);
    expect(drafts.map(({ kind }) => kind)).toContain('run.ended');
  });
});

describe('a launch', () => {
  test('makes the boundary before the container, and reads it back before it counts as running', () => {
    const { state, effects } = play(LAUNCH);
    expect(state.phase).toBe('running');
    expect(kindsOf(effects)).toEqual([
      'set-deadline',
      'prepare',
      'prepare',
      'prepare',
      'prepare',
      'prepare',
      'create-container',
      'start-container',
      'record run.started',
      'read-back',
      'record run.verified',
    ]);
  });

  test('does not create the container while one preparation is missing', () => {
    for (const missing of PREPARATIONS) {
      const events = LAUNCH.filter((event) => !(event.kind === 'prepared' && event.preparation === missing)).slice(
        0,
        PREPARATIONS.length,
      );
      expect(kindsOf(play(events).effects), missing).not.toContain('create-container');
    }
  });

  test('that cannot arm the fence starts nothing and releases what it had', () => {
    const failure = { code: 'FENCE_FAILED', message: 'no ipset', exitCode: null, preparation: 'fence' as const };
    const { state, effects } = play([
      { kind: 'launch' },
      { kind: 'effect-failed', effect: 'prepare', failure },
      { kind: 'prepared', preparation: 'network' },
      { kind: 'prepared', preparation: 'secrets' },
      { kind: 'prepared', preparation: 'cgroup' },
    ]);
    expect(kindsOf(effects)).toEqual([
      'set-deadline',
      'prepare',
      'prepare',
      'prepare',
      'prepare',
      'record run.ended',
      'tear-down',
    ]);
    expect(state.outcome).toMatchObject({ reason: 'refused', detail: 'no ipset', incidentId: null });
  });

  test('with a limit that reads back wrong is killed and is an incident', () => {
    const { state, effects } = play([
      ...LAUNCH.slice(0, -1),
      { kind: 'mismatched', mismatches: [{ path: 'limits.memory', wanted: '64', got: '0' }] },
      EMPTIED,
    ]);
    expect(kindsOf(effects).slice(-5)).toEqual([
      'kill',
      'set-deadline',
      'open-incident',
      'record run.ended',
      'tear-down',
    ]);
    expect(state.outcome).toMatchObject({
      reason: 'enforcement.mismatch',
      rule: 'limits.memory',
      incidentId: INCIDENT,
    });
  });

  test('whose read-back fails is not taken to be in force', () => {
    const failure = { code: 'ENGINE_UNREACHABLE', message: 'no answer', exitCode: null };
    const { state } = play([...LAUNCH.slice(0, -1), { kind: 'effect-failed', effect: 'read-back', failure }, EMPTIED]);
    expect(state.outcome?.reason).toBe('enforcement.mismatch');
  });

  test('of a command that is not in the image ends with the code of a shell', () => {
    const failure = { code: 'ENGINE_FAILED', message: 'no such file', exitCode: 127 };
    const { state } = play([...LAUNCH.slice(0, -2), { kind: 'effect-failed', effect: 'start-container', failure }]);
    expect(state.outcome).toMatchObject({ reason: 'exited', exitCode: 127, detail: 'no such file' });
  });
});

describe('an end', () => {
  test('by itself waits for the exit code and is no incident', () => {
    const { state, effects } = play([
      ...LAUNCH,
      EMPTIED,
      { kind: 'died', exitCode: 3, oomKilledFlag: false },
      { kind: 'torn-down', failures: [] },
    ]);
    expect(state.phase).toBe('over');
    expect(state.outcome).toMatchObject({ reason: 'exited', exitCode: 3, incidentId: null });
    expect(kindsOf(effects).slice(-4)).toEqual(['record run.ended', 'tear-down', 'record run.cleaned', 'settle']);
  });

  test('by a breach is recorded, reported, and only then cleaned up', () => {
    const { state, effects } = play([...LAUNCH, breached(CPU_BREACH), EMPTIED]);
    expect(kindsOf(effects).slice(-5)).toEqual([
      'record breach',
      'set-deadline',
      'open-incident',
      'record run.ended',
      'tear-down',
    ]);
    expect(state.outcome).toMatchObject({ reason: 'budget.cpu', latencyMs: 8, incidentId: INCIDENT });
  });

  test('with two breaches has the first reason, and one incident', () => {
    const { state, effects } = play([...LAUNCH, breached(CPU_BREACH), breached(WALL_BREACH), EMPTIED]);
    expect(state.outcome?.reason).toBe('budget.cpu');
    expect(state.end?.alsoBreached).toEqual([WALL_BREACH]);
    expect(kindsOf(effects).filter((kind) => kind === 'open-incident')).toHaveLength(1);
  });

  test('by hand after a breach keeps the breach as the reason', () => {
    const request: Unstamped = { kind: 'end-requested', how: 'kill', reason: 'killed', rule: null, detail: 'by hand' };
    expect(play([...LAUNCH, breached(CPU_BREACH), request, EMPTIED]).state.outcome?.reason).toBe('budget.cpu');
  });

  test.each([
    { exitCode: 3, signal: 'SIGTERM', why: 'heeded' },
    { exitCode: 137, signal: 'SIGKILL', why: 'ignored until the grace was over' },
  ])('that was asked for and $why has the code of the agent and the signal it took', ({ exitCode, signal }) => {
    const asked = play([...LAUNCH, breached({ ...WALL_BREACH, action: 'stop' }), EMPTIED]);
    expect({ outcome: asked.state.outcome, last: asked.effects.at(-1) }).toEqual({
      outcome: null,
      last: { kind: 'set-deadline', name: 'exit', afterMs: EXIT_MS_MAX },
    });
    const { state } = play([{ kind: 'died', exitCode, oomKilledFlag: false }], asked.state);
    expect(state.outcome).toMatchObject({ reason: 'budget.wall', exitCode, signal });
  });

  test('asked for while the engine starts the container reaches its processes once they exist', () => {
    const request: Unstamped = { kind: 'end-requested', how: 'stop', reason: 'stopped', rule: null, detail: 'by hand' };
    const { effects } = play([
      ...LAUNCH.slice(0, -2),
      request,
      { kind: 'container-started', pid: 1, startedAt: STAMP.at },
    ]);
    expect(kindsOf(effects).slice(-2)).toEqual(['kill', 'set-deadline']);
  });

  test('is classified from the counters of the kernel, not from the flag of the engine', () => {
    const oom = { ...EMPTIED, usage: { ...USAGE_NONE, oomKills: 1 } } as Unstamped;
    const died = (exitCode: number, oomKilledFlag: boolean): Unstamped => ({ kind: 'died', exitCode, oomKilledFlag });
    const pids = { ...EMPTIED, usage: { ...USAGE_NONE, pidsRefusals: 4 } } as Unstamped;
    expect(play([...LAUNCH, oom, died(137, false)]).state.outcome?.reason).toBe('oom');
    expect(play([...LAUNCH, EMPTIED, died(137, true)]).state.outcome?.reason).toBe('exited');
    expect(play([...LAUNCH, oom, died(1, false)]).state.outcome?.reason).toBe('oom');
    expect(play([...LAUNCH, pids, died(2, false)]).state.outcome?.reason).toBe('limit.pids');
    expect(play([...LAUNCH, pids, died(0, false)]).state.outcome?.reason).toBe('exited');
    const full = { ...EMPTIED, usage: { ...USAGE_NONE, diskFull: ['mounts[0].size'] } } as Unstamped;
    const { outcome } = play([...LAUNCH, full, died(3, false)]).state;
    expect({ reason: outcome?.reason, rule: outcome?.rule }).toEqual({ reason: 'limit.disk', rule: 'mounts[0].size' });
    expect(play([...LAUNCH, full, died(0, false)]).state.outcome?.reason).toBe('exited');
    expect(play([...LAUNCH, EMPTIED, died(3, false)]).state.outcome?.reason).toBe('exited');
  });
});

describe('any sequence of events', () => {
  const anyEvent = fc.oneof(
    fc.constantFrom(...LAUNCH, EMPTIED, breached(CPU_BREACH), breached(WALL_BREACH)),
    fc.record({
      kind: fc.constant('end-requested' as const),
      how: fc.constantFrom('stop' as const, 'kill' as const),
      reason: fc.constant('killed' as const),
      rule: fc.constant(null),
      detail: fc.constant(''),
    }),
    fc.record({
      kind: fc.constant('effect-failed' as const),
      effect: fc.constantFrom(
        'create-container' as const,
        'start-container' as const,
        'read-back' as const,
        'inspect-exit' as const,
      ),
      failure: fc.constant({ code: 'ENGINE_FAILED', message: 'no', exitCode: null }),
    }),
    fc.record({ kind: fc.constant('died' as const), exitCode: fc.nat(255), oomKilledFlag: fc.boolean() }),
    fc.record({
      kind: fc.constant('deadline' as const),
      name: fc.constantFrom('launch' as const, 'empty' as const, 'exit' as const),
    }),
    fc.constant<Unstamped>({ kind: 'undead', pids: [7] }),
    fc.constant<Unstamped>({ kind: 'torn-down', failures: [] }),
  );

  test('gives one outcome, one incident at most, one tear-down at most, and nothing after the run is over', () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 40 }), (events) => {
        const { state, effects } = play(events);
        const kinds = kindsOf(effects);
        const count = (kind: string): number => kinds.filter((each) => each === kind).length;
        expect(count('tear-down')).toBeLessThanOrEqual(1);
        expect(count('open-incident')).toBeLessThanOrEqual(1);
        expect(count('record run.ended')).toBe(count('tear-down'));
        expect(count('settle')).toBeLessThanOrEqual(1);
        expect(state.phase === 'over').toBe(count('settle') === 1);
        if (state.outcome !== null) expect(state.outcome.reason).toBe(state.end?.reason);
        expect(count('start-container')).toBeLessThanOrEqual(count('create-container'));
        if (state.phase === 'running') expect(count('record run.verified')).toBeGreaterThan(0);
      }),
      { numRuns: 2_000 },
    );
  });

  test('never changes the first reason', () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 40 }), (events) => {
        let state = freshRun();
        let first: string | null = null;
        for (const event of events) {
          state = step(state, { ...event, ...STAMP }, INCIDENT).state;
          first ??= state.end?.reason ?? null;
          expect(state.end?.reason ?? null).toBe(first);
        }
      }),
      { numRuns: 1_000 },
    );
  });
});
