import { describe, expect, test } from 'vitest';
import { startAlertmanager } from '../../../test/support/alertmanager-receiver.ts';
import type { AlertmanagerSink } from '../../core/ports/alert.ts';
import type { Deliverer } from '../deliverer.ts';
import { alertOf, HOSTILE, hostileAlert } from '../testing.ts';
import { openAlertmanager } from './alertmanager.ts';

const never = new AbortController().signal;
const NOW_MS = Date.parse('2026-10-05T08:00:10.000Z');
const HOUR_MS = 3_600_000;

function open(url: string, more: Partial<AlertmanagerSink> = {}): Deliverer {
  const sink: AlertmanagerSink = {
    type: 'alertmanager',
    url,
    allowPrivate: true,
    labels: { team: 'agents' },
    firingMs: 24 * HOUR_MS,
    bearerToken: null,
    ...more,
  };
  return openAlertmanager(sink, { nowMs: () => NOW_MS }, 60_000);
}

const resolved = alertOf('i0123456789ab_resolved', { type: 'incident.resolved', key: 'i0123456789ab' });

describe('Alertmanager', () => {
  test('has an incident firing until it is over, by the same labels', async () => {
    await using alertmanager = await startAlertmanager();
    const sink = open(alertmanager.url);
    expect(await sink.send(alertOf('i0123456789ab'), never)).toEqual({ kind: 'delivered', status: 200 });
    const labels = {
      alertname: 'RingfenceIncident',
      severity: 'high',
      profile: 'rome',
      host: expect.any(String),
      incident: 'i0123456789ab',
      team: 'agents',
    };
    expect(alertmanager.requests[0]?.json).toEqual([
      {
        labels,
        annotations: {
          summary: 'rome tried to reach 203.0.113.10:22/tcp and was killed.',
          rule: 'budget.denials',
        },
        startsAt: '2026-10-05T08:00:00.000Z',
        endsAt: '2026-10-06T08:00:10.000Z',
      },
    ]);
    expect(alertmanager.firing(NOW_MS + 23 * HOUR_MS)).toEqual([labels]);
    expect((await sink.send(resolved, never)).kind).toBe('delivered');
    // Even where its clock is a little behind ours.
    expect(alertmanager.firing(NOW_MS - 20_000)).toEqual([]);
  });

  test('may be told what it does not know', async () => {
    await using alertmanager = await startAlertmanager();
    expect((await open(alertmanager.url).send(resolved, never)).kind).toBe('delivered');
    expect(alertmanager.firing(NOW_MS)).toEqual([]);
  });

  test('has the heartbeat firing for three intervals, always as the same alert', async () => {
    await using alertmanager = await startAlertmanager();
    const sink = open(alertmanager.url);
    for (const id of ['b1', 'b2']) await sink.send(alertOf(id, { type: 'heartbeat', subject: 'ringfence' }), never);
    expect(alertmanager.firing(NOW_MS + 179_000)).toMatchObject([{ alertname: 'RingfenceHeartbeat' }]);
    expect(alertmanager.firing(NOW_MS + 181_000)).toEqual([]);
  });

  for (const [title, text] of HOSTILE) {
    test(`takes ${title}, bounded`, async () => {
      await using alertmanager = await startAlertmanager();
      expect(await open(alertmanager.url).send(hostileAlert(text), never)).toEqual({ kind: 'delivered', status: 200 });
      expect(alertmanager.requests[0]?.bytes).toBeLessThan(64 * 1024);
    });
  }

  test('gets a token when it wants one, and no message shows it', async () => {
    await using alertmanager = await startAlertmanager({ token: 'hunter2hunter2' });
    expect(await open(alertmanager.url).send(alertOf('a1'), never)).toMatchObject({
      message: 'answered 401: Unauthorized',
    });
    const sink = open(`${alertmanager.url}/`, { bearerToken: 'hunter2hunter2' });
    expect((await sink.send(alertOf('a1'), never)).kind).toBe('delivered');
    alertmanager.answerNext({ status: 503, body: 'no peer for hunter2hunter2' });
    expect(await sink.send(alertOf('a1'), never)).toMatchObject({ message: 'answered 503: no peer for ***' });
  });

  test('is right for good about a bad alert', async () => {
    await using alertmanager = await startAlertmanager();
    alertmanager.answerNext({ status: 400, body: '"bad label"' });
    expect((await open(alertmanager.url).send(alertOf('a1'), never)).kind).toBe('rejected');
    expect(() => open(alertmanager.url, { labels: { 'no-label': 'x' } })).toThrow(/no-label/);
  });
});
