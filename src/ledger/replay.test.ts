import { expect, test } from 'vitest';
import type { Outcome } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { RecordDraft } from '../core/ports/record.ts';
import type { Replay } from './replay.ts';
import { ENDED_KEPT_MAX, replayLedger } from './replay.ts';
import { AT, openTestLedger, withDirectory, writeLedger } from './testing.ts';

async function replayOf(drafts: readonly RecordDraft[]): Promise<Replay> {
  return await withDirectory(async (directory) => {
    await writeLedger(directory, drafts);
    const ledger = await openTestLedger(directory);
    try {
      return await replayLedger(ledger);
    } finally {
      await ledger.close();
    }
  });
}

function outcomeOf(runId: string): Outcome {
  return {
    runId,
    profile: 'rome',
    profileDigest: 'sha256:1',
    imageDigest: null,
    reason: 'exited',
    rule: null,
    detail: 'the agent exited with code 0',
    exitCode: 0,
    signal: null,
    startedAt: AT,
    endedAt: AT,
    usage: USAGE_NONE,
    limits: [],
    rungs: {},
    detectedAt: null,
    killedAt: null,
    latencyMs: null,
    incidentId: null,
  };
}

function incidentOf(id: string): object {
  const seen = { breach: {}, usage: {}, alsoBreached: [], bounds: [], lastDenials: [], topProcesses: [] };
  return {
    id,
    cure: '',
    subject: { traceparent: null, command: [] },
    what: { tags: [] },
    evidence: { ...seen, lastAllowed: [], curve: [], logLines: [] },
    action: {},
    times: { crossedAt: null },
    context: { last: null, closed: null },
    trust: { checkpoint: null },
  };
}

/** As a version wrote it that told less. */
function oldIncidentOf(id: string): object {
  const evidence = { breach: {}, usage: {}, alsoBreached: [], bounds: [], lastDenials: [], topProcesses: [] };
  return { id, cure: '', subject: {}, what: {}, evidence, action: {}, times: {}, context: {}, trust: {} };
}

const admitted = (runId: string): RecordDraft => ({ kind: 'run.admitted', runId, profile: 'rome', image: 'x' });
const ended = (runId: string): RecordDraft => ({
  kind: 'run.ended',
  runId,
  profile: 'rome',
  outcome: outcomeOf(runId),
});

test('knows which profiles are in quarantine: set, released and set again', async () => {
  const { quarantined } = await replayOf([
    { kind: 'quarantine.set', profile: 'rome', incidentId: 'i1' },
    { kind: 'quarantine.set', profile: 'reader', incidentId: 'i2' },
    { kind: 'quarantine.released', profile: 'rome' },
    { kind: 'quarantine.released', profile: 'reader' },
    { kind: 'quarantine.set', profile: 'reader', incidentId: 'i3' },
  ]);
  expect([...quarantined]).toEqual([['reader', { incidentId: 'i3', at: AT }]]);
});

test('tells runs that ended from those that the daemon left', async () => {
  const replay = await replayOf([
    admitted('r1'),
    admitted('r2'),
    { kind: 'run.started', runId: 'r2', profile: 'rome', containerId: 'c2' },
    admitted('r3'),
    ended('r1'),
  ]);
  expect(replay.ended).toEqual([{ admittedAt: AT, outcome: outcomeOf('r1') }]);
  expect(replay.open).toMatchObject([
    { runId: 'r2', profile: 'rome', containerId: 'c2', admission: { image: 'x' } },
    { runId: 'r3', containerId: null },
  ]);
});

test('knows in which boot of the host a run started', async () => {
  const started = (runId: string): RecordDraft => ({ kind: 'run.started', runId, profile: 'rome', containerId: 'c' });
  const replay = await replayOf([
    { kind: 'daemon.started' },
    admitted('r1'),
    started('r1'),
    { kind: 'daemon.started', bootId: 'b1' },
    admitted('r2'),
    started('r2'),
    { kind: 'daemon.started', bootId: 'b2' },
    admitted('r3'),
  ]);
  expect(replay.open.map(({ runId, bootId }) => [runId, bootId])).toEqual([
    ['r1', null],
    ['r2', 'b1'],
    ['r3', null],
  ]);
});

test('knows how many refused attempts of an open run are on record', async () => {
  const denied = (runId: string, suppressed: unknown): RecordDraft => ({ kind: 'egress.denied', runId, suppressed });
  const replay = await replayOf([
    admitted('r1'),
    denied('r1', 0),
    denied('r1', 41),
    denied('r2', 3),
    denied('r1', '7'),
  ]);
  expect(replay.open.map(({ denialsOnRecord }) => denialsOnRecord)).toEqual([44]);
});

test('keeps the latest of many ended runs', async () => {
  const ids = Array.from({ length: ENDED_KEPT_MAX + 3 }, (_, index) => `r${index}`);
  const replay = await replayOf(ids.flatMap((id) => [admitted(id), ended(id)]));
  expect(replay.ended.map((run) => run.outcome.runId)).toEqual(ids.slice(3));
  expect(replay.open).toEqual([]);
});

test('counts incidents, and knows which alerts are settled', async () => {
  const replay = await replayOf([
    { kind: 'incident.opened', profile: 'rome', sinks: ['ops'], incident: incidentOf('i1') },
    { kind: 'incident.opened', profile: 'rome', sinks: ['ops'], incident: oldIncidentOf('i2') },
    { kind: 'incident.opened', profile: 'rome', sinks: ['ops'], incident: { id: 'i3' } },
    { kind: 'alert.delivered', sink: 'ops', id: 'i1_opened' },
    { kind: 'alert.failed', sink: 'ops', id: 'i2_opened', final: false },
    { kind: 'alert.failed', sink: 'ops', id: 'i0_opened', final: true },
  ]);
  expect(replay.incidents).toEqual([
    { at: AT, sinks: ['ops'], incident: incidentOf('i1') },
    { at: AT, sinks: ['ops'], incident: incidentOf('i2') },
  ]);
  expect([...replay.incidentsByProfile]).toEqual([['rome', 3]]);
  expect([...replay.settledAlerts]).toEqual(['ops i1_opened', 'ops i0_opened']);
});

test('knows what deleted files would have said, and what came after', async () => {
  const replay = await replayOf([
    { kind: 'ledger.pruned', quarantined: { rome: { incidentId: 'i1' }, paris: {} }, incidentsByProfile: { rome: 4 } },
    { kind: 'quarantine.released', profile: 'paris' },
    { kind: 'incident.opened', profile: 'rome', sinks: [], incident: incidentOf('i9') },
  ]);
  expect([...replay.quarantined]).toEqual([['rome', { incidentId: 'i1', at: AT }]]);
  expect([...replay.incidentsByProfile]).toEqual([['rome', 5]]);
});

test('knows which incidents are over, and how', async () => {
  const replay = await replayOf([
    { kind: 'incident.opened', profile: 'rome', sinks: ['ops'], incident: incidentOf('i1') },
    { kind: 'incident.opened', profile: 'rome', sinks: ['ops'], incident: incidentOf('i2') },
    { kind: 'incident.closed', profile: 'rome', incidentId: 'i1', how: 'released', by: 'user 0' },
    { kind: 'incident.closed', profile: 'rome', incidentId: 'i2', how: 'forgotten' },
    { kind: 'incident.closed', profile: 'rome', incidentId: 'i7', how: 'released' },
  ]);
  expect(replay.incidents.map(({ incident }) => incident.context.closed)).toEqual([
    { at: AT, how: 'released', by: 'user 0' },
    null,
  ]);
});

test('keeps what ended a run whose end was not said any more', async () => {
  const breach = { kind: 'breach', runId: 'r1', profile: 'rome', breach: { rule: 'budget.cpu' }, usage: {} } as const;
  const later = { ...breach, breach: { rule: 'budget.wall' } };
  const open = await replayOf([admitted('r1'), breach, later]);
  expect(open.open).toMatchObject([{ runId: 'r1', breach: { breach: { rule: 'budget.cpu' }, usage: {} } }]);
  const over = await replayOf([admitted('r1'), breach, ended('r1')]);
  expect(over.open).toEqual([]);
});

test('sees whether the last daemon stopped or was killed', async () => {
  const killed = await replayOf([{ kind: 'daemon.started' }, { kind: 'daemon.stopped' }, { kind: 'daemon.started' }]);
  expect(killed.lastDaemon).toEqual({ startedAt: AT, stoppedAt: null, lastAt: AT });
  const stopped = await replayOf([{ kind: 'daemon.started' }, { kind: 'daemon.stopped' }]);
  expect(stopped.lastDaemon).toEqual({ startedAt: AT, stoppedAt: AT, lastAt: AT });
  expect((await replayOf([])).lastDaemon).toBeNull();
});

test('trusts no shape', async () => {
  const replay = await replayOf([
    { kind: 'run.ended', runId: 'r1', outcome: null },
    { kind: 'run.ended', runId: 'r2', outcome: { runId: 5 } },
    { kind: 'incident.opened', profile: 'rome', incident: 'text' },
    { kind: 'incident.opened', incident: { id: 'i1' } },
    { kind: 'quarantine.set', incidentId: 'i1' },
    { kind: 'alert.delivered', sink: 1 },
    { kind: 'toString' as 'breach' },
  ]);
  expect([replay.ended, replay.incidents, [...replay.quarantined], [...replay.settledAlerts]]).toEqual([
    [],
    [],
    [],
    [],
  ]);
});

test('knows what an open run is held to now, and what its container was made from', async () => {
  const { open } = await replayOf([
    { ...admitted('r1'), profileText: 'old', profileDigest: 'sha256:old', profilePath: '/p.yaml' },
    { ...admitted('r2'), profileText: 'old', profileDigest: 'sha256:old', profilePath: '/p.yaml' },
    {
      kind: 'run.changed',
      runId: 'r1',
      profile: 'rome',
      fromDigest: 'sha256:old',
      toDigest: 'sha256:mid',
      profileText: 'mid',
    },
    {
      kind: 'run.changed',
      runId: 'r1',
      profile: 'rome',
      fromDigest: 'sha256:mid',
      toDigest: 'sha256:new',
      profileText: 'new',
    },
    { kind: 'run.changed', runId: 'r2', profile: 'rome', toDigest: 'sha256:odd', profileText: 7 },
    { kind: 'run.changed', runId: 'r9', profile: 'rome', toDigest: 'sha256:new', profileText: 'new' },
  ]);
  expect(open).toMatchObject([
    {
      runId: 'r1',
      launchDigest: 'sha256:old',
      admission: { profileText: 'new', profileDigest: 'sha256:new', profilePath: '/p.yaml' },
    },
    { runId: 'r2', launchDigest: 'sha256:old', admission: { profileText: 'old', profileDigest: 'sha256:old' } },
  ]);
});
