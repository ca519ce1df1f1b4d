import { describe, expect, it } from 'vitest';
import type { ContainerState, RunPhase } from '../run/state.ts';
import { initialState } from '../run/state.ts';
import { specOf } from '../run/testing.ts';
import { streamsOf } from './run-streams.ts';

const CREATED: ContainerState = { kind: 'created', containerId: 'c1' };
const STARTED: ContainerState = { kind: 'started', containerId: 'c1', pid: 42 };

/** What a signal of the caller leads to, with a run in this state. */
async function signal(name: string, at: { readonly phase: RunPhase; readonly container: ContainerState }) {
  const happened: unknown[] = [];
  const state = { ...initialState({ runId: 'r000000000001', spec: specOf(), imageDigest: null }), ...at };
  const driver = {
    state,
    attachment: Promise.resolve(null),
    started: Promise.resolve(true),
    outcome: new Promise<never>(() => undefined),
    post: (event: unknown) => void happened.push(event),
  };
  const engine = {
    resizeTty: async () => undefined,
    signalContainer: async (containerId: string, sent: string) => void happened.push([containerId, sent]),
  };
  await streamsOf(driver, engine).signal(name);
  return happened;
}

const stop = (name: string) => ({
  kind: 'end-requested',
  how: 'stop',
  reason: 'stopped',
  rule: 'signal',
  detail: `${name} came before the agent had started`,
});

describe('a signal of an attached caller', () => {
  it.each([
    ['SIGTERM', 'preparing', { kind: 'none' }, [stop('SIGTERM')]],
    ['SIGINT', 'preparing', { kind: 'creating' }, [stop('SIGINT')]],
    ['SIGHUP', 'preparing', CREATED, [stop('SIGHUP')]],
    ['SIGTERM', 'preparing', { kind: 'starting', containerId: 'c1' }, [['c1', 'SIGTERM']]],
    ['SIGUSR1', 'preparing', CREATED, []],
    ['SIGTERM', 'preparing', STARTED, [['c1', 'SIGTERM']]],
    ['SIGUSR1', 'running', STARTED, [['c1', 'SIGUSR1']]],
    ['SIGTERM', 'cleaning', STARTED, []],
    ['SIGTERM', 'over', { kind: 'none' }, []],
  ] as const)('%s in phase %s with the container %o leads to %o', async (name, phase, container, expected) => {
    expect(await signal(name, { phase, container })).toEqual(expected);
  });
});

describe('the size of an attached terminal', () => {
  it('that came before the container is set as soon as it has started, and only the latest', async () => {
    const sizes: unknown[] = [];
    const started = Promise.withResolvers<boolean>();
    const state = initialState({ runId: 'r000000000001', spec: specOf(), imageDigest: null });
    const driver = {
      state: { ...state, container: { kind: 'starting', containerId: 'c1' } as ContainerState },
      attachment: Promise.resolve(null),
      started: started.promise,
      outcome: new Promise<never>(() => undefined),
      post: () => undefined,
    };
    const engine = {
      resizeTty: async (...size: readonly unknown[]) => void sizes.push(size),
      signalContainer: async () => undefined,
    };
    const streams = streamsOf(driver, engine);
    await streams.resize({ columns: 80, rows: 24 });
    await streams.resize({ columns: 101, rows: 41 });
    expect(sizes).toEqual([]);
    started.resolve(true);
    await started.promise;
    expect(sizes).toEqual([['c1', { columns: 101, rows: 41 }]]);
    driver.state = { ...driver.state, container: STARTED };
    await streams.resize({ columns: 120, rows: 50 });
    expect(sizes.at(-1)).toEqual(['c1', { columns: 120, rows: 50 }]);
  });
});
