import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ReportQueue } from '../../src/checker/reports.ts';
import type { CheckerReport } from '../../src/checker/messages.ts';
import type { FenceDenial } from '../../src/core/ports/fence.ts';
import { DenialFeed } from '../../src/gate/denials.ts';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import type { RunEvent } from '../../src/run/events.ts';
import { initialState } from '../../src/run/state.ts';
import { step } from '../../src/run/step.ts';
import { specOf } from '../../src/run/testing.ts';

/**
 * Whoever sets the clock of a host, or lets it be set, changes no budget, deadline, window or quarantine: those are
 * counted by clocks that only go on. The wall clock is for what is written down, and for what has to outlive a boot.
 */
const SOURCES = join(import.meta.dirname, '../../src');

/** Each file that asks the wall clock for a number, and what for. */
const READERS: Readonly<Record<string, string>> = {
  'alert/outbox.ts': 'when to try an alert again stands in a file that outlives the boot',
  'checker/inspect/inspector.ts': 'the dates in certificates',
  'daemon/compose.ts': 'the times of approvals and alerts as people read them; a timer ends an approval',
  'daemon/fence-guard.ts': 'when the rules were last read back, as a metric',
  'daemon/metrics.ts': 'when the daemon was started, as a metric',
  'daemon/retention.ts': 'the age of ledger files in days',
  'engine/docker.ts': 'the engine gives the times of its containers by it',
  'engine/events.ts': 'the engine is asked for its events since a time',
  'gpu/process.ts': 'NVIDIA’s library stamps its samples by it',
  'main.ts': 'the age of what the command line shows',
};

function sources(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).flatMap((entry) => {
    const isSource = entry.isFile() && entry.name.endsWith('.ts') && !/\.test\.ts$|^testing/.test(entry.name);
    return isSource ? [join(entry.parentPath, entry.name)] : [];
  });
}

it('is read by nothing that is not on the list, and by all that is', () => {
  const readers = sources(SOURCES).filter((path) => readFileSync(path, 'utf8').includes('Date.now'));
  expect(readers.map((path) => relative(SOURCES, path)).toSorted()).toEqual(Object.keys(READERS).toSorted());
});

describe.each([
  ['back by a year', -365],
  ['on by a year', 365],
])('a clock that is set %s', (_, days) => {
  const set = (): void => void vi.setSystemTime(Date.now() + days * 86_400_000);
  beforeEach(() => void vi.useFakeTimers({ toFake: ['Date', 'performance'], now: new Date('2026-06-01T00:00:00Z') }));
  afterEach(() => void vi.useRealTimers());

  it('leaves the clock of the warden, of every run and of its budgets as it was', () => {
    const before = bootTimeMs();
    set();
    const after = bootTimeMs();
    expect([after >= before, after - before < 60_000]).toEqual([true, true]);
  });

  it('neither hides a refused name from its budget nor counts one twice', () => {
    const told: FenceDenial[] = [];
    const feed = new DenialFeed({
      send: (denial) => told.push(denial) > 0,
      now: () => performance.now(),
      utc: () => new Date().toISOString(),
    });
    const refused = {
      kind: 'name',
      destination: 'x.test',
      port: 53,
      protocol: 'udp',
      rule: 'r',
      explanation: '',
    } as const;
    feed.report('10.213.0.2', refused);
    set();
    feed.report('10.213.0.2', refused);
    expect(told).toHaveLength(1);
    vi.advanceTimersByTime(5_000);
    feed.report('10.213.0.2', refused);
    expect(told).toHaveLength(2);
  });

  it('neither hides a connection without a name from its budget nor counts one twice', () => {
    const told: CheckerReport[] = [];
    const queue = new ReportQueue((report) => void told.push(report));
    const denied = {
      kind: 'denied',
      source: '10.213.0.2',
      destination: 'x',
      port: 443,
      rule: 'check.no-name',
      explanation: '',
    } as const;
    queue.push(denied);
    set();
    queue.push(denied);
    expect(told).toHaveLength(1);
    vi.advanceTimersByTime(1_000);
    queue.push(denied);
    expect(told).toHaveLength(2);
  });

  it('decides nothing in the life of a run', () => {
    const at = (ms: number): string => new Date(Date.parse('2026-06-01T00:00:00Z') + ms).toISOString();
    const effectsOf = (jumpMs: number): readonly string[] => {
      let state = initialState({ runId: 'r000000000000', spec: specOf(), imageDigest: 'sha256:1' });
      const events = [
        { kind: 'launch', at: at(0), atMs: 1_000 },
        { kind: 'prepared', preparation: 'cgroup', at: at(jumpMs), atMs: 1_001 },
        { kind: 'deadline', name: 'launch', at: at(-jumpMs), atMs: 61_000 },
      ] satisfies readonly RunEvent[];
      return events.flatMap((event) => {
        const next = step(state, event, 'i000000000000');
        state = next.state;
        return next.effects.map((effect) => (effect.kind === 'record' ? `record ${effect.draft.kind}` : effect.kind));
      });
    };
    expect(effectsOf(days * 86_400_000)).toEqual(effectsOf(0));
  });
});
