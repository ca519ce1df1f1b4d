import { expect, test } from 'vitest';
import type { Alert } from '../core/ports/alert.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { RecordDraft } from '../core/ports/record.ts';
import { endedState, incidentOf, outcomeWith, spec, sshBreach } from '../report/testing.ts';
import { IncidentDesk, type RunOrigin } from './incident-desk.ts';

const SILENT = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const CALLER = { uid: 1_000, gid: 1_000, pid: 7 };
const origin: RunOrigin = {
  caller: CALLER,
  labels: {},
  command: ['true'],
  traceparent: null,
  fromSeq: 5,
  allowed: [],
  logLines: [],
};
const settled = new Set<string>();

function deskOf(past: ConstructorParameters<typeof IncidentDesk>[0]['past'] = []) {
  const drafts: RecordDraft[] = [];
  const sent: Alert[] = [];
  const desk = new IncidentDesk({
    version: '0.1.0',
    ledger: {
      append: (draft) => {
        drafts.push(draft);
        return { seq: 9 + drafts.length, hash: 'aa', flushed: Promise.resolve() };
      },
      head: () => ({ seq: 9 + drafts.length, hash: 'aa' }),
      latestCheckpoint: () => ({ seq: 8, hash: 'bb', note: 'note' }),
    },
    outbox: { enqueue: async (alert: Alert) => void sent.push(alert) } as never,
    log: SILENT,
    past,
    quarantined: [],
    countByProfile: new Map(),
  });
  return { desk, drafts, sent };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const told = (sent: readonly Alert[]): readonly string[] => sent.map(({ type, id }) => `${type} ${id}`);

test('knows the one before, the signed place of the record, and the curve of its run', () => {
  const { desk } = deskOf();
  desk.keepSample('r0123456789ab', { ...USAGE_NONE, wallMs: 1_000, cpuMs: 400 });
  desk.open(endedState(sshBreach), 'i1', origin);
  desk.open(endedState(sshBreach), 'i2', origin);
  const [first, second] = [desk.get('i1'), desk.get('i2')];
  expect(first?.evidence.curve.map(({ cpuMs }) => cpuMs)).toEqual([400, 1_250]);
  expect(first?.trust.checkpoint).toEqual({ seq: 8, note: 'note' });
  expect([first?.context.last, second?.context.last?.id, second?.context.earlierIncidents]).toEqual([null, 'i1', 1]);
});

test('a release closes every open incident of the profile, and says both things in order', async () => {
  const { desk, drafts, sent } = deskOf();
  desk.open(endedState(sshBreach), 'i1', origin);
  await turn();
  expect([desk.isQuarantined('rome'), desk.hasOpen('rome'), desk.hasOpen('paris')]).toEqual([true, true, false]);
  desk.release('rome', CALLER);
  await turn();
  expect(told(sent)).toEqual(['incident.opened i1', 'incident.released i1_released', 'incident.resolved i1_resolved']);
  expect(drafts.at(-1)).toMatchObject({ kind: 'incident.closed', incidentId: 'i1', how: 'released', by: 'user 1000' });
  expect(desk.list()).toMatchObject([{ id: 'i1', quarantined: false, closedAt: expect.any(String) }]);
  expect(desk.hasOpen('rome')).toBe(false);
});

test('only a run that was admitted later and ended well closes it', async () => {
  const { desk, sent } = deskOf();
  desk.open(endedState(sshBreach), 'i1', origin);
  const seq = desk.get('i1')?.trust.toSeq ?? 0;
  desk.runEnded(outcomeWith({}), seq);
  desk.runEnded(outcomeWith({ exitCode: 1 }), seq + 1);
  desk.runEnded(outcomeWith({ reason: 'stopped' }), seq + 1);
  desk.runEnded(outcomeWith({ profile: 'paris' }), seq + 1);
  expect(desk.get('i1')?.context.closed).toBeNull();
  desk.runEnded(outcomeWith({}), seq + 1);
  await turn();
  expect(desk.get('i1')?.context.closed).toMatchObject({ how: 'clean-run', by: null });
  expect(told(sent)).toEqual(['incident.opened i1', 'incident.resolved i1_resolved']);
});

test('after a crash what was not sent is sent, the end of it too, and nothing twice', async () => {
  const now = new Date().toISOString();
  const open = incidentOf(sshBreach, { id: 'i1' });
  const over = incidentOf(sshBreach, { id: 'i2' });
  const closed = { at: now, how: 'released' as const, by: 'user 0' };
  const past = [
    { at: now, sinks: spec.alerts, incident: open },
    { at: now, sinks: spec.alerts, incident: { ...over, context: { ...over.context, closed } } },
    { at: '2020-01-01T00:00:00.000Z', sinks: spec.alerts, incident: incidentOf(sshBreach, { id: 'i0' }) },
  ];
  const { desk, sent } = deskOf(past);
  settled.add('ops i2').add('ops i2_released');
  await desk.requeue(past, { settled, nowMs: Date.now() });
  expect(told(sent)).toEqual(['incident.opened i1', 'incident.resolved i2_resolved']);
});
