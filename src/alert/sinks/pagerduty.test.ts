import { describe, expect, test } from 'vitest';
import { ROUTING_KEY, startPagerDuty } from '../../../test/support/pagerduty-receiver.ts';
import type { Alert, AlertSeverity, AlertType } from '../../core/ports/alert.ts';
import type { Deliverer } from '../deliverer.ts';
import { alertOf, HOSTILE, hostileAlert } from '../testing.ts';
import { openPagerDuty } from './pagerduty.ts';

const never = new AbortController().signal;

function open(url: string, routingKey = ROUTING_KEY): Deliverer {
  return openPagerDuty({ type: 'pagerduty', url, routingKey, allowPrivate: true }, { nowMs: Date.now });
}

function turn(type: AlertType): Alert {
  return alertOf(`i0123456789ab_${type.slice(9)}`, { type, key: 'i0123456789ab' });
}

describe('PagerDuty', () => {
  test('is triggered, acknowledged on release and resolved, as one alert under the id of the incident', async () => {
    await using pagerduty = await startPagerDuty();
    const sink = open(pagerduty.url);
    const states: unknown[] = [];
    for (const alert of [alertOf('i0123456789ab'), turn('incident.released'), turn('incident.resolved')]) {
      expect(await sink.send(alert, never)).toEqual({ kind: 'delivered', status: 202 });
      states.push(pagerduty.alerts.get('i0123456789ab'));
    }
    expect(states).toEqual(['triggered', 'acknowledged', 'resolved']);
    expect(pagerduty.pages).toEqual(['i0123456789ab']);
    expect(pagerduty.requests[0]?.json).toEqual({
      routing_key: ROUTING_KEY,
      event_action: 'trigger',
      dedup_key: 'i0123456789ab',
      client: 'Ringfence',
      payload: {
        summary: 'rome tried to reach 203.0.113.10:22/tcp and was killed.',
        source: expect.any(String),
        severity: 'error',
        timestamp: '2026-10-05T08:00:00.000Z',
        component: 'rome',
        class: 'incident.opened',
        custom_details: { alert: 'i0123456789ab', rule: 'budget.denials' },
      },
    });
    expect(pagerduty.requests[1]?.json).toEqual({
      routing_key: ROUTING_KEY,
      event_action: 'acknowledge',
      dedup_key: 'i0123456789ab',
    });
  });

  test('hears a severity of its own four', async () => {
    await using pagerduty = await startPagerDuty();
    const severities: readonly AlertSeverity[] = ['critical', 'high', 'medium', 'low', 'info'];
    for (const severity of severities) await open(pagerduty.url).send(alertOf(`a-${severity}`, { severity }), never);
    const heard = pagerduty.requests.map(({ json }) => (json as { payload: { severity: string } }).payload.severity);
    expect(heard).toEqual(['critical', 'error', 'warning', 'info', 'info']);
  });

  for (const [title, text] of HOSTILE) {
    test(`takes ${title}, bounded`, async () => {
      await using pagerduty = await startPagerDuty();
      expect(await open(pagerduty.url).send(hostileAlert(text), never)).toEqual({ kind: 'delivered', status: 202 });
      expect(pagerduty.requests[0]?.bytes).toBeLessThan(64 * 1024);
    });
  }

  test('is right for good about a bad event, and for as long as it says about too many', async () => {
    await using pagerduty = await startPagerDuty();
    const wrong = open(pagerduty.url, 'R00000000000000000000000000000000'.slice(0, 32));
    const refused = await wrong.send(alertOf('a1'), never);
    expect(refused).toMatchObject({ kind: 'rejected', message: expect.stringMatching(/'routing_key' is invalid/) });
    const sink = open(pagerduty.url);
    pagerduty.answerNext({ status: 429, body: '' }, { status: 429, body: '', headers: { 'retry-after': '3600' } });
    expect(await sink.send(alertOf('a1'), never)).toMatchObject({ kind: 'failed', retryAfterMs: 60_000 });
    expect(await sink.send(alertOf('a1'), never)).toMatchObject({ kind: 'failed', retryAfterMs: 3_600_000 });
    pagerduty.answerNext({ status: 200, body: '<html>Log in to the network</html>' }, { status: 500, body: '' });
    expect(await sink.send(alertOf('a1'), never)).toMatchObject({
      kind: 'failed',
      message: expect.stringMatching(/this is not the Events API/),
    });
    expect(await sink.send(alertOf('a1'), never)).toMatchObject({ kind: 'failed', message: 'answered 500' });
  });

  test('never sees its key in a message of ours', async () => {
    await using pagerduty = await startPagerDuty();
    pagerduty.answerNext({ status: 500, body: `no service for ${ROUTING_KEY}` });
    expect(await open(pagerduty.url).send(alertOf('a1'), never)).toMatchObject({
      message: 'answered 500: no service for ***',
    });
    expect(() => open(pagerduty.url, 'hunter2')).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    expect(() => open(pagerduty.url, 'hunter2')).not.toThrow(/hunter2/);
  });

  test('is left with nothing open after a test', async () => {
    await using pagerduty = await startPagerDuty();
    expect((await open(pagerduty.url).send(alertOf('t1', { type: 'test' }), never)).kind).toBe('delivered');
    expect([...pagerduty.alerts]).toEqual([['t1', 'resolved']]);
  });
});
