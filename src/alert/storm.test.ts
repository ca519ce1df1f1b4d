import { describe, expect, test } from 'vitest';
import type { Alert, SinkRules } from '../core/ports/alert.ts';
import { rulesOf } from './filter.ts';
import type { Spooled } from './spool.ts';
import { digestOf, Storm } from './storm.ts';
import { alertOf } from './testing.ts';

const pager: SinkRules = { ...rulesOf({ type: 'journald', socketPath: '/' }), stormAfter: 1 };
const AT_MS = Date.parse('2026-10-05T08:00:00.000Z');

function spooled(order: number, more: Partial<Alert> = {}): Spooled {
  const alert = alertOf(`i${order}`, more);
  return { alert, order, queuedAtMs: AT_MS + order, file: `${order}-ops.json`, carries: [] };
}

describe('a storm', () => {
  test('lets the first go, holds the rest, and is due when the window ends', () => {
    const storm = new Storm(pager);
    const passed = [0, 1, 2, 3].map((order) => storm.passes(spooled(order), AT_MS + order * 1_000));
    expect(passed).toEqual([true, false, false, false]);
    expect(storm.dueAtMs(AT_MS + 3_000)).toBe(AT_MS + 60_000);
    const { held, lead } = storm.take(AT_MS + 60_000);
    expect([lead?.id, held.map(({ alert }) => alert.id)]).toEqual(['i0', ['i1', 'i2', 'i3']]);
    expect(storm.dueAtMs(AT_MS + 60_000)).toBe(Infinity);
  });

  test('is over after a window in which nothing came', () => {
    const storm = new Storm(pager);
    expect(storm.passes(spooled(0), AT_MS)).toBe(true);
    expect(storm.passes(spooled(1), AT_MS + 59_999)).toBe(false);
    storm.take(AT_MS + 60_000);
    // The digest was the one message of the window that it began.
    expect(storm.passes(spooled(2), AT_MS + 61_000)).toBe(false);
    storm.take(AT_MS + 120_000);
    expect(storm.passes(spooled(3), AT_MS + 179_999)).toBe(false);
    storm.take(AT_MS + 180_000);
    expect(storm.passes(spooled(4), AT_MS + 240_000)).toBe(true);
  });

  test('does not hold what is graver than everything before', () => {
    const storm = new Storm(pager);
    const severities = ['low', 'low', 'high', 'medium', 'critical', 'critical'] as const;
    const passed = severities.map((severity, order) => storm.passes(spooled(order, { severity }), AT_MS + order));
    expect(passed).toEqual([true, false, true, false, true, false]);
  });

  test('does not wait for a clock that was set back', () => {
    const storm = new Storm(pager);
    storm.passes(spooled(0), AT_MS);
    storm.passes(spooled(1), AT_MS);
    expect(storm.dueAtMs(AT_MS - 3_600_000)).toBe(AT_MS - 3_600_000 + 60_000);
  });

  test('does not grow without bound before its digest', () => {
    const storm = new Storm(pager);
    for (let order = 0; order <= 1_000; order += 1) storm.passes(spooled(order), AT_MS);
    expect(storm.dueAtMs(AT_MS)).toBe(0);
  });

  test('holds nothing while as many come as may', () => {
    const storm = new Storm({ ...pager, stormAfter: 3 });
    expect([0, 1, 2, 3].map((order) => storm.passes(spooled(order), AT_MS))).toEqual([true, true, true, false]);
  });
});

describe('a digest', () => {
  test('counts by agent and rule, names the first and the last, and is the thing that somebody was called for', () => {
    const rule = (value: string) => ({ facts: [{ name: 'rule', value }] });
    const held = [
      spooled(1, { subject: 'reader', ...rule('budget.cpu'), severity: 'medium' }),
      spooled(2, rule('budget.denials')),
      spooled(3, { ...rule('budget.denials'), severity: 'critical' }),
    ];
    const digest = digestOf(held, { lead: alertOf('i0'), nowMs: AT_MS });
    const groups = [
      { subject: 'rome', type: 'incident.opened', reason: 'budget.denials', count: 2 },
      { subject: 'reader', type: 'incident.opened', reason: 'budget.cpu', count: 1 },
    ];
    expect({ ...digest, body: JSON.parse(digest.body) as unknown }).toEqual({
      id: 'i1_digest',
      sink: 'ops',
      type: 'digest',
      subject: 'reader',
      severity: 'critical',
      key: 'i0',
      summary: `3 more alerts of 2 agents in a short time; the first was: ${alertOf('i1').summary}`,
      facts: [
        { name: 'rome', value: '2 × incident.opened (budget.denials)' },
        { name: 'reader', value: '1 × incident.opened (budget.cpu)' },
        { name: 'first', value: 'i1 at 2026-10-05T08:00:00.001Z' },
        { name: 'last', value: 'i3 at 2026-10-05T08:00:00.003Z' },
      ],
      body: {
        type: 'digest',
        timestamp: '2026-10-05T08:00:00.000Z',
        data: {
          count: 3,
          groups,
          groupsLeftOut: 0,
          first: { id: 'i1', subject: 'reader', queuedAt: '2026-10-05T08:00:00.001Z' },
          last: { id: 'i3', subject: 'rome', queuedAt: '2026-10-05T08:00:00.003Z' },
        },
      },
    });
  });

  test('of very many agents stays small', () => {
    const held = Array.from({ length: 1_000 }, (_, order) => spooled(order, { subject: `agent-${order}` }));
    const digest = digestOf(held, { lead: null, nowMs: AT_MS });
    expect(digest.body.length).toBeLessThan(5_000);
    expect(digest.facts).toContainEqual({ name: 'and', value: '980 more agents or rules' });
  });
});
