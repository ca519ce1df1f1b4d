import { describe, expect, test } from 'vitest';
import type { Alert } from '../core/ports/alert.ts';
import type { Delivery } from './deliverer.ts';
import { failed } from './deliverer.ts';
import { Heartbeat } from './heartbeat.ts';
import { plainDraft } from './own-alerts.ts';
import { ManualClock, recordingLog } from './testing.ts';

type Setting = {
  readonly answers?: Delivery[];
  readonly open?: () => boolean;
  readonly make?: () => ReturnType<typeof plainDraft> | null;
};

function start({ answers = [], open = () => true, make }: Setting) {
  const clock = new ManualClock();
  const log = recordingLog();
  const sent: Alert[] = [];
  const heartbeat = new Heartbeat({
    sink: 'ops',
    deliverer: {
      kind: 'webhook',
      says: () => true,
      send: async (alert) => {
        sent.push(alert);
        return answers.shift() ?? { kind: 'delivered', status: 200 };
      },
    },
    intervalMs: 60_000,
    make: make ?? (() => plainDraft('heartbeat', { id: `beat_${clock.nowMs}`, nowMs: clock.nowMs })),
    open,
    log,
    timers: clock,
    nowMs: () => clock.nowMs,
  });
  return { clock, log, sent, heartbeat };
}

/** The answer of this file's sink is there before the next turn of the event loop. */
const turn = async (): Promise<void> => await new Promise((resolve) => setImmediate(resolve));

describe('the heartbeat', () => {
  test('begins after one interval and comes once in each', async () => {
    const { clock, sent, heartbeat } = start({});
    expect(clock.advance(59_999)).toBe(false);
    for (const beats of [1, 2, 3]) {
      expect(clock.advance(60_000)).toBe(true);
      await turn();
      expect(sent).toHaveLength(beats);
      expect(heartbeat.state.lastOkMs).toBe(clock.nowMs);
    }
    expect(new Set(sent.map(({ id }) => id)).size).toBe(3);
    await heartbeat.stop();
    expect(clock.advance(600_000)).toBe(false);
  });

  test('says once in the log that it does not arrive, and once that it does again', async () => {
    const { clock, log, heartbeat } = start({ answers: [failed('answered 500'), failed('answered 500')] });
    for (const error of ['answered 500', 'answered 500', null]) {
      clock.advance(60_000);
      await turn();
      expect(heartbeat.state.error).toBe(error);
    }
    expect(log.lines).toEqual([
      { level: 'warn', message: 'heartbeats do not arrive' },
      { level: 'info', message: 'heartbeats arrive again' },
    ]);
    await heartbeat.stop();
  });

  test('keeps silent when the daemon is not well, and when the sink wants nothing', async () => {
    let well = false;
    let open = true;
    const draft = plainDraft('heartbeat', { id: 'beat_1', nowMs: 0 });
    const { clock, sent, heartbeat } = start({ open: () => open, make: () => (well ? draft : null) });
    clock.advance(60_000);
    await turn();
    well = true;
    open = false;
    clock.advance(60_000);
    await turn();
    expect(sent).toEqual([]);
    open = true;
    clock.advance(60_000);
    await turn();
    expect(sent).toHaveLength(1);
    await heartbeat.stop();
  });

  test('goes on after what it should say could not be made', async () => {
    let broken = true;
    const { clock, sent, heartbeat } = start({
      make: () => {
        if (broken) throw new Error('no facts');
        return plainDraft('heartbeat', { id: 'beat_1', nowMs: 0 });
      },
    });
    clock.advance(60_000);
    await turn();
    expect(heartbeat.state.error).toBe('no facts');
    broken = false;
    clock.advance(60_000);
    await turn();
    expect(sent).toHaveLength(1);
    await heartbeat.stop();
  });
});
