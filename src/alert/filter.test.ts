import { describe, expect, test } from 'vitest';
import type { AlertSeverity, AlertType, Sink } from '../core/ports/alert.ts';
import { rulesOf, wants } from './filter.ts';
import { openSink } from './open-sink.ts';
import { alertOf, KEY } from './testing.ts';

const at = { url: 'https://sink.example/', allowPrivate: false };
const SINKS: readonly Sink[] = [
  { type: 'webhook', keys: [KEY], ...at },
  { type: 'slack', ...at },
  { type: 'pagerduty', routingKey: 'R'.repeat(32), ...at },
  { type: 'alertmanager', labels: {}, firingMs: 60_000, bearerToken: null, ...at },
  { type: 'journald', socketPath: '/run/systemd/journal/socket' },
  { type: 'exec', command: ['/bin/true'], timeoutMs: 1_000 },
];
const TYPES: readonly AlertType[] = [
  'incident.opened',
  'incident.released',
  'incident.resolved',
  'approval.requested',
  'run.held',
  'ledger.checkpoint',
];

function taken(sink: Sink, alerts: readonly { type: AlertType; severity: AlertSeverity }[]): readonly string[] {
  const rules = rulesOf(sink);
  const deliverer = openSink({ name: 'ops', sink }, rules, { nowMs: Date.now });
  return alerts
    .filter((alert) => wants(alertOf('a1', alert), rules, deliverer))
    .map(({ type, severity }) => `${type} ${severity}`);
}

describe('what a sink gets', () => {
  test('is by its kind, where nothing else is said', () => {
    const alerts = TYPES.map((type) => ({ type, severity: 'high' as const }));
    const heard = SINKS.map((sink) => [sink.type, taken(sink, alerts).map((each) => each.split(' ')[0])]);
    const incidents = ['incident.opened', 'incident.released', 'incident.resolved'];
    expect(Object.fromEntries(heard)).toEqual({
      webhook: TYPES,
      slack: [...incidents, 'approval.requested', 'run.held'],
      pagerduty: incidents,
      alertmanager: ['incident.opened', 'incident.resolved'],
      journald: TYPES,
      exec: TYPES,
    });
  });

  test('is at least as grave as it says, checkpoints aside', () => {
    const [webhook] = SINKS;
    if (webhook === undefined) throw new Error('no sink');
    const alerts = (['low', 'high', 'critical'] as const).map((severity) => ({
      type: 'incident.opened' as const,
      severity,
    }));
    const all = [...alerts, { type: 'ledger.checkpoint' as const, severity: 'info' as const }];
    expect(taken({ ...webhook, minSeverity: 'high' }, all)).toEqual([
      'incident.opened high',
      'incident.opened critical',
      'ledger.checkpoint info',
    ]);
    expect(taken({ ...webhook, types: ['incident.opened'] }, all)).toEqual([
      'incident.opened low',
      'incident.opened high',
      'incident.opened critical',
    ]);
  });
});

describe('a sink that can never work', () => {
  const bad: readonly (readonly [string, number, Partial<Sink>, RegExp])[] = [
    ['heartbeats in a chat', 1, { heartbeatMs: 60_000 }, /sinks\.ops: a sink of type slack cannot carry heartbeats/],
    ['heartbeats on a pager', 2, { heartbeatMs: 60_000 }, /cannot carry heartbeats/],
    ['a type without words', 3, { types: ['incident.released'] }, /has no way to say incident\.released/],
  ];
  for (const [title, index, more, message] of bad) {
    test(`${title} is refused at start`, () => {
      const sink = { ...SINKS[index], ...more } as Sink;
      const open = () => openSink({ name: 'ops', sink }, rulesOf(sink), { nowMs: Date.now });
      expect(open).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
      expect(open).toThrow(message);
    });
  }
});

test('an alert that cannot be put into words is a failed attempt', async () => {
  const [, slack] = SINKS;
  if (slack === undefined) throw new Error('no sink');
  const deliverer = openSink({ name: 'ops', sink: slack }, rulesOf(slack), { nowMs: Date.now });
  const broken = { ...alertOf('a1'), facts: null } as unknown as ReturnType<typeof alertOf>;
  expect(await deliverer.send(broken, new AbortController().signal)).toMatchObject({
    kind: 'failed',
    message: expect.stringMatching(/could not be put into words/),
  });
});
