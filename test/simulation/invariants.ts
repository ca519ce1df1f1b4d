import type { Outcome } from '../../src/core/outcome.ts';
import type { LedgerRecord } from '../../src/core/ports/record.ts';
import { replayLedger } from '../../src/ledger/replay.ts';
import type { SimulatedDaemon } from './daemon.ts';
import type { Host } from './host.ts';

/** What must hold whatever the seed chose. Each violation is a sentence. */

/** When the end of a run is written down, nothing of it runs; only what no SIGKILL ends may be left, and that is said. */
export function checkAppended(host: Host, record: LedgerRecord): void {
  if (record.kind !== 'run.ended' || record.runId === undefined) return;
  if (host.canBeEnded(record.runId)) host.fault(`${record.runId} is said to be over, and it runs`);
}

/** Everything is over and no fault was in the way of a release: nothing may be left, before any daemon starts anew. */
export async function checkQuiet(host: Host, daemon: SimulatedDaemon, crashes: number): Promise<void> {
  if (!host.releaseFailed && crashes === 0) checkNothingLeft(host, 'after the last run');
  for (const { driver } of daemon.table.all()) {
    const { outcome, runId } = driver.state;
    if (outcome === null) host.fault(`${runId} is over without an outcome`);
  }
  if (daemon.ledger.failure() !== null) return;
  const replay = await replayLedger(daemon.ledger);
  const open = replay.open.map(({ runId }) => runId);
  if (open.length > 0) host.fault(`the ledger calls ${open.join(', ')} open, and the daemon does not`);
  const [replayed, listed] = [
    replay.incidents.map(({ incident }) => incident.id).toSorted(),
    daemon.incidents
      .list()
      .map(({ id }) => id)
      .toSorted(),
  ];
  if (JSON.stringify(replayed) !== JSON.stringify(listed))
    host.fault(`the daemon knows incidents ${listed.join()}, and the ledger ${replayed.join()}`);
  for (const profile of new Set(host.disk.records.map((record) => record.profile ?? ''))) {
    if (daemon.incidents.isQuarantined(profile) !== replay.quarantined.has(profile))
      host.fault(`${profile} is in quarantine for the daemon or for the ledger, and not for both`);
  }
}

export async function checkEnd(host: Host): Promise<void> {
  checkNothingLeft(host, 'after the last start');
  const { records } = host.disk;
  const admitted = records.filter(({ kind }) => kind === 'run.admitted').map(({ runId }) => String(runId));
  for (const runId of admitted)
    checkRun(
      host,
      runId,
      records.filter((record) => record.runId === runId),
    );
  checkGaps(host, records);
  checkAlerts(host, records);
  const [first, second] = [await replayOf(host), await replayOf(host)];
  if (first !== second) host.fault('the same ledger replays to two states');
}

function checkNothingLeft(host: Host, when: string): void {
  const { fake, fence, cgroups, secrets, trust } = host;
  const left = [
    ...fake.containers().map((name) => `container ${name}`),
    ...fake.networks().map((name) => `network ${name}`),
    ...cgroups.list().map((runId) => `cgroup ${runId}`),
    ...[...fence.leases.keys()].map((runId) => `lease ${runId}`),
    ...[...fence.armed.keys()].map((runId) => `grants ${runId}`),
    ...[...secrets].map((runId) => `secrets ${runId}`),
    ...[...trust].map((runId) => `trust ${runId}`),
    ...[...host.runs.values()].filter(({ finish }) => finish !== null).map(({ runId }) => `processes ${runId}`),
  ];
  if (left.length > 0) host.fault(`${when} there is left: ${left.join(', ')}`);
}

const SILENT_ENDS: readonly string[] = ['exited', 'supervisor.lost'];

function checkRun(host: Host, runId: string, records: readonly LedgerRecord[]): void {
  const of = (kind: LedgerRecord['kind']): readonly LedgerRecord[] => records.filter((record) => record.kind === kind);
  for (const kind of ['run.started', 'run.cleaned', 'incident.opened'] as const) {
    if (of(kind).length > 1) host.fault(`${runId} has ${of(kind).length} records ${kind}`);
  }
  const ended = of('run.ended');
  if (ended.length !== 1) host.fault(`${runId} has ${ended.length} outcomes`);
  const outcome = ended[0]?.['outcome'] as Outcome | undefined;
  if (outcome === undefined) return;
  const incident = of('incident.opened')[0]?.['incident'] as { readonly id: string } | undefined;
  if ((incident?.id ?? null) !== outcome.incidentId)
    host.fault(`${runId} ended with incident ${outcome.incidentId}, and the record has ${incident?.id ?? 'none'}`);
  if (of('breach').length > 0 && outcome.incidentId === null && SILENT_ENDS.includes(outcome.reason))
    host.fault(
      `${runId} breached ${String(of('breach').length)} times and ended "${outcome.reason}" without an incident`,
    );
  const run = host.runs.get(runId);
  if (run === undefined) return;
  if (outcome.usage.cpuMs > run.cpuMsFinal + 1)
    host.fault(`${runId} used ${run.cpuMsFinal} ms of CPU, and ${outcome.usage.cpuMs} ms were counted`);
}

/** A daemon that did not say goodbye leaves a gap, and the next one says since when. */
function checkGaps(host: Host, records: readonly LedgerRecord[]): void {
  for (const [index, record] of records.entries()) {
    if (record.kind !== 'daemon.started' || index === 0) continue;
    if (record['gapFrom'] !== records[index - 1]?.at)
      host.fault(`record ${record.seq} does not say since when nobody watched`);
  }
}

function checkAlerts(host: Host, records: readonly LedgerRecord[]): void {
  for (const record of records) {
    if (record.kind !== 'incident.opened') continue;
    const { incident, sinks } = record as unknown as { incident: { id: string }; sinks: readonly string[] };
    for (const sink of sinks)
      if (!host.alerts.has(`${sink} ${incident.id}`)) host.fault(`nobody is told of incident ${incident.id}`);
  }
}

async function replayOf(host: Host): Promise<string> {
  const { records } = host.disk;
  const replay = await replayLedger({
    async *read() {
      yield* records;
    },
  });
  return JSON.stringify([replay.open, replay.ended, [...replay.quarantined], replay.incidents, replay.lastDaemon]);
}
