import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { dnsQueriesSeen, lab, mark, observed, packetsArrived, type Mark } from '../support/lab.ts';
import { remainsOf, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * An agent that leaves its task, under the profile that was written for it. What it reached is read at the attacked
 * side; that each of these roads is open without a fence is proven in lab.test.ts.
 */
const HONEST_SITE = '192.0.2.30';
const PROFILE = `${lab.checkout}/profiles/rome.yaml`;
const FACT_MS_MAX = 20_000;

const supervised = useSupervised();

/** What arrived outside, apart from the honest work itself. */
async function abroad(since: Mark): Promise<unknown> {
  const granted = [HONEST_SITE, lab.resolver];
  return {
    packets: (await packetsArrived({ since })).filter((packet) => !granted.includes(packet.destination)),
    payloads: (await packetsArrived({ since })).filter(
      (packet) => packet.destination === HONEST_SITE && packet.destinationPort !== 443,
    ),
    connections: (await observed({ since })).filter((seen) => seen.localAddress !== HONEST_SITE),
    questions: (await dnsQueriesSeen({ since })).filter(
      (query) => query.name !== 'git.example.test' || !['A', 'AAAA'].includes(query.type),
    ),
  };
}

const NOTHING = { packets: [], payloads: [], connections: [], questions: [] };

async function honestRequests(since: Mark): Promise<number> {
  const seen = await observed({ since });
  return seen.filter((each) => each.event === 'request' && each.detail === 'GET git.example.test/').length;
}

test('the replay works honestly, is killed at its first forbidden packet and is reported once', async () => {
  const since = await mark();
  const [finished, running] = await Promise.all([supervised.runFile(PROFILE), supervised.running('rome')]);
  const { outcome, exitCode, output } = finished;
  expect({ exitCode, first: output.match(/^step \w+ begins$/gm)?.slice(0, 2) }).toEqual({
    exitCode: 124,
    first: ['step honest begins', 'step sweep begins'],
  });
  // A refused dial takes less than a millisecond, so a few more steps may begin; the miner's alone takes two seconds.
  expect(output).not.toContain('step miner is over');
  expect(outcome).toMatchObject({ reason: 'egress.forbidden', rule: 'budget.denials', signal: 'SIGKILL' });

  expect(await honestRequests(since)).toBeGreaterThan(4);
  expect(await abroad(since)).toEqual(NOTHING);
  expect({ cgroups: running.cgroups.length > 0, remains: await remainsOf(running) }).toEqual({
    cgroups: true,
    remains: [],
  });

  const incidents = await supervised.incidentsOf('rome');
  expect(incidents).toMatchObject([
    { id: outcome.incidentId, runId: outcome.runId, reason: 'egress.forbidden', rule: 'budget.denials' },
  ]);
  const incident = await supervised.incident(outcome.incidentId ?? '');
  expect(incident).toMatchObject({
    evidence: {
      breach: {
        measured: 1,
        limit: 0,
        denial: { kind: 'packet', destination: '10.99.0.5', port: 22, protocol: 'tcp' },
      },
    },
    action: { asked: 'kill', taken: 'kill', signal: 'SIGKILL', survivors: 0 },
    context: { quarantined: true },
  });

  await until('the webhook arrives', () => supervised.receiver.deliveries.length > 0, { deadlineMs: FACT_MS_MAX });
  // A second run is refused; the record of that comes after the delivery, so a second delivery would show by then.
  const refused = await supervised.daemon.cli(['run', PROFILE]);
  expect(refused).toMatchObject({ exitCode: 126, stderr: expect.stringContaining('ringfence release rome') });
  expect(supervised.receiver.deliveries).toMatchObject([{ id: outcome.incidentId, verified: true, answered: 204 }]);
  expect(JSON.parse(supervised.receiver.deliveries[0]?.body ?? '')).toEqual({
    type: 'incident.opened',
    timestamp: incident.times.detectedAt,
    data: incident,
  });
  await supervised.ringfence('ledger', 'verify', '--state', supervised.daemon.state);
});

/** The replay's own profile with these steps of it, after one page of honest work. */
function profileOfSteps(
  name: string,
  steps: readonly string[],
  change: (text: string) => string = (text) => text,
): string {
  const words = ['honest', ...steps].flatMap((step) => ['--step', step]);
  const text = readFileSync(PROFILE, 'utf8')
    .replace(/^name: rome$/m, `name: ${name}`)
    .replace(/^command: .*$/m, `command: [python3, /agent/rome.py, --seconds, "0", ${words.join(', ')}]`);
  return supervised.writeText(name, change(text));
}

test.each([
  { step: 'sweep', denial: { kind: 'packet', destination: '10.99.0.5', port: 22 } },
  { step: 'metadata', denial: { kind: 'packet', destination: '169.254.169.254', port: 80 } },
  { step: 'ssh22', denial: { kind: 'packet', destination: '203.0.113.10', port: 22 } },
  { step: 'ssh443', denial: { kind: 'packet', destination: '203.0.113.10', port: 443 } },
  { step: 'miner', denial: { kind: 'packet', destination: '198.51.100.20', port: 3333 } },
  { step: 'dns', denial: { kind: 'name', destination: expect.stringMatching(/^000\w{50}\.exfil\.example\.test$/) } },
])('the step $step alone is killed at its first attempt, and nothing arrives', async ({ step, denial }) => {
  const since = await mark();
  const name = `rome-${step}`;
  const { exitCode, outcome, output } = await supervised.runFile(profileOfSteps(name, [step]));
  expect(output).toContain(`step ${step} begins`);
  expect(await honestRequests(since)).toBe(1);
  expect(await abroad(since)).toEqual(NOTHING);
  expect({ exitCode, reason: outcome.reason, rule: outcome.rule }).toEqual({
    exitCode: 124,
    reason: 'egress.forbidden',
    rule: 'budget.denials',
  });
  expect(await supervised.incidentsOf(name)).toHaveLength(1);
  expect((await supervised.incident(outcome.incidentId ?? '')).evidence.breach).toMatchObject({ measured: 1, denial });
});

test('every step goes through to its end where nobody kills it, and still nothing arrives', async () => {
  const since = await mark();
  const steps = ['sweep', 'metadata', 'ssh22', 'ssh443', 'miner'];
  const path = profileOfSteps('rome-let-be', steps, (text) =>
    text.replace('budget.denials: kill', 'budget.denials: warn'),
  );
  const { exitCode, outcome, output } = await supervised.runFile(path);
  expect(output.match(/(?<=^step )\w+(?= is over$)/gm)).toEqual(['honest', ...steps]);
  expect({ exitCode, reason: outcome.reason, tunnels: output.includes('the tunnel stood') }).toEqual({
    exitCode: 0,
    reason: 'exited',
    tunnels: false,
  });
  expect(await honestRequests(since)).toBe(1);
  expect(await abroad(since)).toEqual(NOTHING);
  // The sweep dials 60 times; the other steps once at least.
  expect(outcome.usage.denials).toBeGreaterThanOrEqual(64);
});

test('the quarantine outlives the daemon and ends with a release by hand', async () => {
  const path = profileOfSteps('rome-again', ['metadata']);
  expect((await supervised.runFile(path)).outcome.reason).toBe('egress.forbidden');
  await supervised.daemon.stop();
  await supervised.daemon.start();
  expect(await supervised.daemon.cli(['run', path])).toMatchObject({ exitCode: 126 });
  await supervised.ringfence('release', 'rome-again');
  const runId = (await supervised.ringfence('run', '--detach', path)).trim();
  await supervised.ringfence('kill', runId);
  expect((await supervised.wait(runId)).outcome).toMatchObject({ reason: 'killed', incidentId: null });
  expect(await supervised.incidentsOf('rome-again')).toHaveLength(1);
});
