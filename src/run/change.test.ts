import { describe, expect, test } from 'vitest';
import type { Breach } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { Spec } from '../profile/spec.ts';
import { boundsOf } from './bounds.ts';
import type { RunEffect, RunEvent } from './events.ts';
import type { RunState } from './state.ts';
import { initialState, preparationsOf } from './state.ts';
import { step } from './step.ts';
import { specOf } from './testing.ts';

const STAMP = { at: '2026-01-01T00:00:00.000Z', atMs: 1_000 };
const NO_TIMES = { detectedMs: null, signalledMs: null, emptyMs: null };
const FAILURE = { code: 'FENCE_FAILED', message: 'no ipset', exitCode: null };
const TO: Spec = specOf({ profileDigest: `sha256:${'1'.repeat(64)}`, graceMs: 1 });
const CHANGE: Unstamped = { kind: 'change', spec: TO, draft: { kind: 'run.changed' } };
const EMPTIED: Unstamped = { kind: 'emptied', usage: USAGE_NONE, times: NO_TIMES, breach: null };
const DIED: Unstamped = { kind: 'died', exitCode: 0, oomKilledFlag: false };
const PAUSE: Breach = {
  reason: 'budget.egress',
  rule: 'budget.egress',
  measured: 11,
  limit: 10,
  unit: 'bytes',
  action: 'pause',
  denial: null,
};
const HELD: Unstamped = { kind: 'held', breach: PAUSE, usage: USAGE_NONE };

type Unstamped = RunEvent extends infer Event ? (Event extends RunEvent ? Omit<Event, 'at' | 'atMs'> : never) : never;

function play(events: readonly Unstamped[], spec: Spec = specOf()): { state: RunState; effects: RunEffect[] } {
  const effects: RunEffect[] = [];
  let state = initialState({ runId: 'r000000000000', spec, imageDigest: 'sha256:1' });
  for (const event of events) {
    const next = step(state, { ...event, ...STAMP }, 'i000000000000');
    state = next.state;
    effects.push(...next.effects);
  }
  return { state, effects };
}

function launchOf(spec: Spec): readonly Unstamped[] {
  return [
    { kind: 'launch' },
    ...preparationsOf(spec).map((preparation) => ({ kind: 'prepared', preparation }) as const),
    { kind: 'container-created', containerId: 'c1' },
    { kind: 'container-started', pid: 100, startedAt: STAMP.at },
    { kind: 'verified', bounds: [], note: null },
  ];
}
const LAUNCH = launchOf(specOf());

/** What a run was made to do after its launch. */
function after(events: readonly Unstamped[]): { state: RunState; effects: readonly RunEffect[] } {
  const { state, effects } = play([...LAUNCH, ...events]);
  return { state, effects: effects.slice(play(LAUNCH).effects.length) };
}

function answersIn(effects: readonly RunEffect[]): readonly unknown[] {
  return effects.flatMap((effect) => (effect.kind === 'answer-change' ? [effect.refusal?.code ?? 'in force'] : []));
}

describe('a change of the profile', () => {
  test('tells the fence, then the warden, and only then is the profile of the run', () => {
    const halfway = after([CHANGE, { kind: 'fence-changed' }]);
    expect(halfway.effects.map(({ kind }) => kind)).toEqual(['set-deadline', 'change-fence', 'change-watch']);
    expect(halfway.state.spec).toEqual(specOf());
    const whole = after([CHANGE, { kind: 'fence-changed' }, { kind: 'watch-changed' }]);
    expect(answersIn(whole.effects)).toEqual(['in force']);
    expect(whole.state).toMatchObject({
      phase: 'running',
      spec: TO,
      changingTo: null,
      bounds: boundsOf(TO),
      pending: [],
    });
  });

  test('is the profile that the outcome names', () => {
    const { state } = after([CHANGE, { kind: 'fence-changed' }, { kind: 'watch-changed' }, EMPTIED, DIED]);
    expect(state.outcome?.profileDigest).toBe(TO.profileDigest);
  });

  test.each([
    ['the fence fails', [{ kind: 'effect-failed', effect: 'change-fence', failure: FAILURE }]],
    [
      'the warden refuses',
      [
        { kind: 'fence-changed' },
        { kind: 'effect-failed', effect: 'change-watch', failure: { ...FAILURE, code: 'METER_FAILED' } },
      ],
    ],
    ['nobody answers', [{ kind: 'deadline', name: 'change' }]],
  ] as const)('ends the run when %s', (_, events) => {
    const { state, effects } = after([CHANGE, ...events]);
    expect(state).toMatchObject({
      phase: 'ending',
      spec: specOf(),
      end: { reason: 'enforcement.lost', rule: 'reload' },
    });
    expect(effects.map(({ kind }) => kind).slice(-3)).toEqual(['answer-change', 'kill', 'set-deadline']);
    expect(answersIn(effects)).toEqual(['RUN_OVER']);
  });

  test('that could not be recorded changes nothing', () => {
    const failure = { ...FAILURE, code: 'LEDGER_UNWRITABLE' };
    const { state, effects } = after([CHANGE, { kind: 'effect-failed', effect: 'change-fence', failure }]);
    expect(state).toEqual(play(LAUNCH).state);
    expect(answersIn(effects)).toEqual(['LEDGER_UNWRITABLE']);
  });

  test('is refused before the run is verified, while it ends, and while another one is made', () => {
    expect(answersIn(play([...LAUNCH.slice(0, -1), CHANGE]).effects)).toEqual(['RUN_NOT_RUNNING']);
    const request: Unstamped = { kind: 'end-requested', how: 'stop', reason: 'stopped', rule: null, detail: '' };
    expect(answersIn(after([request, CHANGE]).effects)).toEqual(['RUN_OVER']);
    expect(answersIn(after([CHANGE, CHANGE]).effects)).toEqual(['RUN_NOT_RUNNING']);
  });

  test('under way holds up what releases the run, until it has answered', () => {
    const waiting = after([CHANGE, EMPTIED, DIED]);
    expect(waiting.effects.map(({ kind }) => kind)).not.toContain('tear-down');
    const { state, effects } = after([CHANGE, EMPTIED, DIED, { kind: 'fence-changed' }]);
    expect(answersIn(effects)).toEqual(['RUN_OVER']);
    expect(effects.at(-1)).toEqual({ kind: 'tear-down' });
    expect(state.outcome?.profileDigest).toBe(specOf().profileDigest);
  });

  test('whose new bound ends the run at once is the profile that it broke', () => {
    const breach: Breach = { ...PAUSE, reason: 'budget.wall', rule: 'budget.wall', unit: 'ms', action: 'kill' };
    const breached: Unstamped = { kind: 'breached', breach, usage: USAGE_NONE, times: NO_TIMES };
    const { state, effects } = after([
      CHANGE,
      { kind: 'fence-changed' },
      breached,
      EMPTIED,
      DIED,
      { kind: 'watch-changed' },
    ]);
    expect(answersIn(effects)).toEqual(['in force']);
    expect(state.outcome).toMatchObject({ reason: 'budget.wall', profileDigest: TO.profileDigest });
  });

  test('is not taken for a launch that hangs', () => {
    const { state } = after([CHANGE, { kind: 'deadline', name: 'launch' }]);
    expect(state.phase).toBe('running');
  });

  test('that is answered in time is not ended by its deadline', () => {
    const changed = [CHANGE, { kind: 'fence-changed' }, { kind: 'watch-changed' }] as const;
    const { state } = after([...changed, { kind: 'deadline', name: 'change' }]);
    expect(state.phase).toBe('running');
  });
});

describe('a run that is held', () => {
  test('says so, tells people once, and goes on when it is resumed', () => {
    const held = after([HELD, HELD]);
    expect(held.state).toMatchObject({ phase: 'running', held: PAUSE, end: null });
    const kinds = held.effects.map((effect) => (effect.kind === 'record' ? effect.draft.kind : effect.kind));
    expect(kinds).toEqual(['run.held', 'notify-held', 'run.held']);
    const resumed = after([HELD, { kind: 'resumed' }, { kind: 'resumed' }]);
    expect(resumed.state.held).toBeNull();
    expect(resumed.effects.filter(({ kind }) => kind === 'record')).toHaveLength(2);
  });

  const THROTTLE: Breach = {
    ...PAUSE,
    rule: 'budget.cpu',
    measured: 1_100,
    limit: 1_000,
    unit: 'ms',
    action: 'throttle',
  };
  const SLOWED: Unstamped = { kind: 'held', breach: THROTTLE, usage: USAGE_NONE };
  const kindsIn = (effects: readonly RunEffect[]): readonly string[] =>
    effects.map((effect) => (effect.kind === 'record' ? effect.draft.kind : effect.kind));

  test('by a throttle has its network slowed once, and is slow still when a pause is over', () => {
    const slowed = after([SLOWED, SLOWED, { kind: 'network-slowed' }]);
    expect(kindsIn(slowed.effects)).toEqual(['run.held', 'notify-held', 'slow-network', 'run.held']);
    expect(slowed.state).toMatchObject({ held: THROTTLE, slowedBy: THROTTLE, pending: [] });
    const both = after([SLOWED, { kind: 'network-slowed' }, HELD, SLOWED]);
    expect(both.state.held).toEqual(PAUSE);
    expect(after([SLOWED, { kind: 'network-slowed' }, HELD, { kind: 'resumed' }]).state.held).toEqual(THROTTLE);
  });

  test('is let go on by a person through the fence, once, and only out of a pause', () => {
    expect(kindsIn(after([HELD, { kind: 'resume' }, { kind: 'resume' }]).effects).slice(2)).toEqual(['grant-more']);
    expect(kindsIn(after([SLOWED, { kind: 'resume' }]).effects)).not.toContain('grant-more');
    expect(after([{ kind: 'resume' }]).effects).toEqual([]);
  });

  test.each(['slow-network', 'grant-more'] as const)('ends when the fence does not do as told: %s', (effect) => {
    const asked: readonly Unstamped[] = effect === 'slow-network' ? [SLOWED] : [HELD, { kind: 'resume' }];
    const { state } = after([...asked, { kind: 'effect-failed', effect, failure: FAILURE }]);
    expect(state.end).toMatchObject({ reason: 'enforcement.lost', rule: 'egress' });
  });

  test.each([
    ['a larger budget', 2_000, null],
    ['a budget that is used up as well', 1_050, THROTTLE],
  ])('by a throttle, under %s', (_, cpuMs, slowedBy) => {
    const spec = specOf({ budget: { ...specOf().budget, cpuMs }, on: { ...specOf().on, cpu: 'throttle' } });
    const change: Unstamped = { kind: 'change', spec, draft: { kind: 'run.changed' } };
    const { state, effects } = after([
      SLOWED,
      { kind: 'network-slowed' },
      change,
      { kind: 'fence-changed' },
      { kind: 'watch-changed' },
    ]);
    expect(effects.find(({ kind }) => kind === 'change-fence')).toMatchObject({ slowed: slowedBy !== null });
    expect({ held: state.held, slowedBy: state.slowedBy }).toEqual({ held: slowedBy, slowedBy });
  });

  test('and ends is not held any more by what comes late', () => {
    const request: Unstamped = { kind: 'end-requested', how: 'kill', reason: 'killed', rule: null, detail: '' };
    expect(after([request, HELD]).state.held).toBeNull();
  });
});

describe('a rate of the network', () => {
  const limits = { ...specOf().limits, bandwidthBitsPerSecond: 1_000_000 };
  const shaped = specOf({ limits });
  const prepared = (
    ...names: readonly ('cgroup' | 'network' | 'fence' | 'meter' | 'secrets' | 'shape')[]
  ): Unstamped[] => names.map((preparation) => ({ kind: 'prepared', preparation }));
  const shapes = (effects: readonly RunEffect[]): number =>
    effects.filter((effect) => effect.kind === 'prepare' && effect.preparation === 'shape').length;

  test('is put on the bridge once, when the bridge and the grant are there', () => {
    const launch: Unstamped = { kind: 'launch' };
    expect(shapes(play([launch, ...prepared('cgroup', 'meter', 'secrets', 'network')], shaped).effects)).toBe(0);
    expect(shapes(play([launch, ...prepared('network', 'fence')], shaped).effects)).toBe(1);
    expect(shapes(play([launch, ...prepared('fence', 'network', 'cgroup')], shaped).effects)).toBe(1);
    expect(shapes(play([launch, ...prepared('fence', 'network', 'cgroup')]).effects)).toBe(0);
  });

  test('is in force before the container is made, or the launch ends', () => {
    const most = [{ kind: 'launch' } as const, ...prepared('cgroup', 'network', 'fence', 'meter', 'secrets')];
    const kinds = (effects: readonly RunEffect[]): readonly string[] => effects.map(({ kind }) => kind);
    expect(kinds(play(most, shaped).effects)).not.toContain('create-container');
    expect(kinds(play([...most, ...prepared('shape')], shaped).effects).at(-1)).toBe('create-container');
    const failure = { ...FAILURE, preparation: 'shape' as const };
    const failed = play([...most, { kind: 'effect-failed', effect: 'prepare', failure }], shaped);
    expect(failed.state.outcome).toMatchObject({ reason: 'refused', detail: 'no ipset' });
  });
});
