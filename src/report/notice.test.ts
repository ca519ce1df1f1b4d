import { expect, test } from 'vitest';
import { checkpointNotice, incidentNotice, incidentTurnNotice, withCheckpoint } from './notice.ts';
import { incidentOf, sshBreach } from './testing.ts';

const AT = '2026-10-05T09:00:00.000Z';

test('an incident that goes on is the same thing to a receiver', () => {
  const incident = incidentOf(sshBreach);
  const { severity, subject, key } = incidentNotice(incident);
  const released = incidentTurnNotice(incident, { kind: 'released', at: AT, by: 'user\u001b[2J 1000' });
  const resolved = incidentTurnNotice(incident, { kind: 'resolved', at: AT, by: null });
  for (const turn of [released, resolved]) expect(turn).toMatchObject({ severity, subject, key });
  expect([released, resolved].map(({ id, type, summary }) => [id, type, summary])).toEqual([
    ['i0123456789ab_released', 'incident.released', 'rome was released from quarantine by user\\u{1b}[2J 1000.'],
    ['i0123456789ab_resolved', 'incident.resolved', 'The incident of rome is over.'],
  ]);
  expect(JSON.parse(resolved.body)).toEqual({
    type: 'incident.resolved',
    timestamp: AT,
    data: { incidentId: key, profile: 'rome', runId: incident.subject.runId, severity, by: null },
  });
});

test('a checkpoint leaves the host with its signature and the key to check it', () => {
  const checkpoint = { seq: 4711, hash: 'sha256:1', note: 'ringfence/host-1\n4711\n…\n', key: 'ringfence/host-1+1+2' };
  const notice = checkpointNotice(checkpoint, { host: 'host-1', at: AT });
  expect({ ...notice, body: JSON.parse(notice.body) as unknown }).toEqual({
    id: 'checkpoint_4711',
    type: 'ledger.checkpoint',
    subject: 'ledger',
    severity: 'info',
    key: 'checkpoint_4711',
    summary: 'The ledger of host-1 stands at record 4711.',
    facts: [
      { name: 'record', value: '4711' },
      { name: 'hash', value: 'sha256:1' },
      { name: 'key', value: 'ringfence/host-1+1+2' },
    ],
    body: { type: 'ledger.checkpoint', timestamp: AT, data: { ...checkpoint, host: 'host-1' } },
  });
});

test('every alert says where the ledger was signed, as verify takes it', () => {
  const signed = { seq: 41, hash: 'ab'.repeat(32) };
  const incident = incidentOf(sshBreach);
  const opened = incidentNotice(incident);
  const resolved = incidentTurnNotice(incident, { kind: 'resolved', at: AT, by: null });
  for (const notice of [opened, resolved])
    expect(withCheckpoint(notice, signed).facts.filter(({ name }) => name === 'checkpoint')).toEqual([
      { name: 'checkpoint', value: `41:${signed.hash}` },
    ]);
  expect(withCheckpoint(opened, signed).body).toBe(opened.body);
  expect(JSON.parse(withCheckpoint(resolved, signed).body)).toMatchObject({
    timestamp: AT,
    data: { incidentId: incident.id, checkpoint: signed },
  });
  expect(withCheckpoint(resolved, null)).toEqual(resolved);
  const own = checkpointNotice({ ...signed, note: 'n', key: 'k' }, { host: 'host-1', at: AT });
  expect(withCheckpoint(own, signed)).toEqual(own);
});
