import { expect, test } from 'vitest';
import type { Incident } from '../../src/api/service.ts';
import { PYTHON, SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** What an incident holds of a real run, and how it goes on after it was opened. */
const SITE = '192.0.2.40';
const TRACE = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
const FACT_MS_MAX = 20_000;

const supervised = useSupervised({ config: { incidents: { logLines: 5 } } });

/** Works, is let through, then crosses its CPU budget; asked to stop, it does what is forbidden. */
const TWO_CAUSES = `
import os, signal, socket, sys
print("trace", os.environ.get("TRACEPARENT"), flush=True)
sent = socket.create_connection(("${SITE}", 9999), timeout=5)
sent.sendall(b"x" * 20000)
sent.shutdown(socket.SHUT_WR); sent.recv(100); sent.close()
def asked(*_):
    print("asked to stop", flush=True)
    try: socket.create_connection(("203.0.113.66", 4444), timeout=2)
    except OSError: pass
    while True: pass
signal.signal(signal.SIGTERM, asked)
for number in range(20): print("line", number, flush=True)
print("password=hunter2hunter2", flush=True)
while True: pass
`;

const twoCauses = {
  name: 'two-causes',
  command: PYTHON(TWO_CAUSES),
  budget: { cpu: '2500ms', denials: 0 },
  egress: { allow: [`${SITE}/32:9999`] },
  on: { 'budget.cpu': 'stop', grace: '10s' },
};

async function runTwoCauses(): Promise<Incident> {
  const path = supervised.writeProfile(twoCauses);
  const result = await supervised.daemon.cli(['run', path, '--json', '--traceparent', TRACE]);
  const outcome = JSON.parse(result.stdout) as { readonly incidentId: string | null };
  expect({ exitCode: result.exitCode, hasIncident: outcome.incidentId !== null }).toEqual({
    exitCode: 124,
    hasIncident: true,
  });
  return await supervised.incident(outcome.incidentId ?? '');
}

let incident: Incident;

test('two causes at once are one incident with both', async () => {
  incident = await runTwoCauses();
  expect(incident.what).toMatchObject({
    rule: 'budget.cpu',
    severity: 'high',
    tags: ['ATLAS AML.T0034.002 Agentic Resource Consumption', 'OWASP ASI02 Tool Misuse', 'OWASP ASI10 Rogue Agents'],
  });
  expect(incident.evidence.alsoBreached).toMatchObject([{ rule: 'budget.denials', denial: { port: 4444 } }]);
  expect(await supervised.incidentsOf('two-causes')).toHaveLength(1);
});

test('it tells the trace, the curve, what was let through, and the last lines', async () => {
  const { subject, evidence, trust, times, context } = incident;
  expect(subject.traceparent).toBe(TRACE);
  expect(evidence.logLines).toEqual(['line 17', 'line 18', 'line 19', 'password=***', 'asked to stop']);
  const { process: culprit, lastAllowed, curve } = evidence;
  expect(subject.command.slice(0, 2)).toEqual(['python3', '-uc']);
  expect(culprit).toMatchObject({ executable: expect.stringContaining('python3'), argvSource: { kind: 'read' } });
  expect(culprit?.argv.slice(0, 2)).toEqual(['python3', '-uc']);
  expect(lastAllowed).toMatchObject([{ destination: SITE, port: 9999, protocol: 'tcp' }]);
  expect(lastAllowed[0]?.egressBytes).toBeGreaterThan(20_000);
  expect(curve.length).toBeGreaterThanOrEqual(2);
  expect(curve.at(-1)?.cpuMs).toBeGreaterThan(2_400);
  expect(curve.map((point) => point.wallMs)).toEqual(curve.map((point) => point.wallMs).toSorted((a, b) => a - b));
  expect(trust.checkpoint === null || trust.checkpoint.seq <= trust.toSeq).toBe(true);
  expect({ crossedAt: times.crossedAt, last: context.last, closed: context.closed }).toEqual({
    crossedAt: null,
    last: null,
    closed: null,
  });
  const records = await supervised.records(subject.runId);
  const allowed = records.filter(({ kind }) => kind === 'egress.allowed');
  expect(allowed).toMatchObject([
    { countedBy: 'kernel', destination: SITE, port: 9999, protocol: 'tcp', destinations: 1, profile: 'two-causes' },
  ]);
  expect(records.find(({ kind }) => kind === 'run.admitted')).toMatchObject({ traceparent: TRACE });
  const text = await supervised.ringfence('incident', incident.id);
  expect(text).toContain(`trace     ${TRACE}`);
  expect(text).toMatch(/allowed   192\.0\.2\.40:9999\/tcp, \d/);
  expect(text).toContain('also      budget.denials');
});

test('the agent is in the trace of whoever launched it, and a false one is refused', async () => {
  const path = supervised.writeProfile({ name: 'trace', command: SHELL('echo "t=$TRACEPARENT"') });
  const inherited = await supervised.daemon.cli(['run', path], { env: { TRACEPARENT: TRACE } });
  const broken = await supervised.daemon.cli(['run', path], { env: { TRACEPARENT: TRACE.toUpperCase() } });
  const refused = await supervised.daemon.cli(['run', path, '--traceparent', `${TRACE}-00`]);
  expect([inherited.stdout.trim(), broken.stdout.trim()]).toEqual([`t=${TRACE}`, 't=']);
  expect({ exitCode: refused.exitCode, said: refused.stderr.includes('traceparent of version 00') }).toEqual({
    exitCode: 2,
    said: true,
  });
});

test('the moment at which a clock was crossed is known', async () => {
  const { outcome } = await supervised.run({ name: 'clock', command: SHELL('sleep 20'), budget: { wall: '1s' } });
  const { times } = await supervised.incident(outcome.incidentId ?? '');
  // The clock begins when the engine is asked, which is before the engine says that it has started.
  expect(Date.parse(times.crossedAt ?? '')).toBeLessThanOrEqual(Date.parse(outcome.startedAt ?? '') + 1_000);
  expect(Date.parse(times.detectedAt)).toBeGreaterThanOrEqual(Date.parse(times.crossedAt ?? ''));
  expect(Date.parse(outcome.endedAt)).toBeGreaterThanOrEqual(Date.parse(times.emptyAt ?? ''));
});

const breaking = (name: string, quarantine: boolean) => ({
  name,
  command: SHELL('sleep 20'),
  budget: { wall: '1s' },
  on: quarantine ? { quarantine: true } : {},
});
const told = (id: string): readonly string[] =>
  supervised.receiver.deliveries
    .map(({ body }) => JSON.parse(body) as { type: string; data: { id?: string; incidentId?: string } })
    .filter(({ data }) => data.id === id || data.incidentId === id)
    .map(({ type }) => type);

test('a release ends it, and the sinks hear of both', async () => {
  const { outcome } = await supervised.run(breaking('released', true));
  const id = outcome.incidentId ?? '';
  expect((await supervised.incidentsOf('released'))[0]).toMatchObject({ quarantined: true, closedAt: null });
  await supervised.ringfence('release', 'released');
  const { context } = await supervised.incident(id);
  expect(context).toMatchObject({ quarantined: false, closed: { how: 'released', by: 'user 0' } });
  await until('the receiver has heard of its end', () => told(id).length === 3, { deadlineMs: FACT_MS_MAX });
  expect(told(id)).toEqual(['incident.opened', 'incident.released', 'incident.resolved']);
  expect((await supervised.daemon.cli(['release', 'released'])).stderr).toContain('has no open incident');
});

test('a later run that ends well ends it, one that fails does not', async () => {
  const first = await supervised.run(breaking('recovers', false));
  const id = first.outcome.incidentId ?? '';
  const calm = { ...breaking('recovers', false), budget: { wall: '30s' } };
  await supervised.run({ ...calm, command: SHELL('exit 3') });
  expect((await supervised.incident(id)).context.closed).toBeNull();
  await supervised.run({ ...calm, command: SHELL('exit 0') });
  await until('it is over', async () => (await supervised.incident(id)).context.closed !== null, {
    deadlineMs: FACT_MS_MAX,
  });
  expect((await supervised.incident(id)).context.closed).toMatchObject({ how: 'clean-run', by: null });
  await until('the receiver has heard of it', () => told(id).length === 2, { deadlineMs: FACT_MS_MAX });
  expect(told(id)).toEqual(['incident.opened', 'incident.resolved']);
  const second = await supervised.run(breaking('recovers', false));
  const { context } = await supervised.incident(second.outcome.incidentId ?? '');
  expect(context).toMatchObject({ earlierIncidents: 1, last: { id } });
});
