import { once } from 'node:events';
import type { IncidentSummary } from '../src/api/service.ts';
import { startDaemon, type TestDaemon } from '../test/support/daemon.ts';
import { dnsQueriesSeen, lab, mark, observed, packetsArrived, type Mark } from '../test/support/lab.ts';
import { startReceiver, type Receiver } from '../test/support/receiver.ts';
import { until } from '../test/support/until.ts';

/** The part of `scripts/demo` that runs on the lab's host: three agents, then everything that was recorded of them. */
const WEBHOOK_MS_MAX = 30_000;
const BODY_LINES_SHOWN = 24;

/** What each agent is there to show, and the exit code that shows it. */
const AGENTS = [
  { profile: 'reader', shows: 'a well-behaved agent reads a page from the one site it may reach', exitCode: 0 },
  { profile: 'burner', shows: 'an agent uses more CPU time than its budget, and is killed', exitCode: 124 },
  { profile: 'rome', shows: 'an agent leaves its task, and is killed at its first forbidden packet', exitCode: 124 },
] as const;

/** What the replay is allowed: two sites, and names through the gate, which asks this resolver. */
const ALLOWED_DESTINATIONS = ['192.0.2.30', '192.0.2.40', '192.0.2.50', lab.resolver];

const surprises: string[] = [];

const print = (text: string): void => void process.stdout.write(`${text}\n`);
const heading = (text: string): void => print(`\n\u001b[1m── ${text}\u001b[0m`);

await using receiver = await startReceiver();
await using daemon = await startDaemon({ sinks: { ops: { url: receiver.url, secret: receiver.secret } } });
print(`the daemon runs as process ${daemon.pid}`);

const since = await mark();
for (const agent of AGENTS) {
  heading(`${agent.profile}: ${agent.shows}`);
  const exitCode = await showCommand(daemon, ['run', `profiles/${agent.profile}.yaml`]);
  print(`exit code ${exitCode}`);
  expectThat(exitCode === agent.exitCode, `${agent.profile} ends with exit code ${agent.exitCode}, not ${exitCode}`);
}

heading('every run');
await showCommand(daemon, ['ps', '--all']);
await showIncident(daemon);
await showWebhook(receiver);
await showAttackedSide(since);

heading('a second run of the same profile is refused until a person releases it');
const refused = await showCommand(daemon, ['run', 'profiles/rome.yaml']);
expectThat(refused === 126, `a quarantined profile is refused with exit code 126, not ${refused}`);

heading('the ledger');
const verified = await showCommand(daemon, ['ledger', 'verify', '--state', daemon.state]);
expectThat(verified === 0, 'the ledger verifies');

if (surprises.length > 0) {
  heading('NOT as it should be');
  for (const surprise of surprises) print(`- ${surprise}`);
  process.exitCode = 1;
}

function expectThat(fact: boolean, sentence: string): void {
  if (!fact) surprises.push(sentence);
}

/** Runs a command with this terminal as its own, so that what an agent says appears as it says it. */
async function showCommand(daemonUnderTest: TestDaemon, args: readonly string[]): Promise<number> {
  print(`$ ringfence ${args.join(' ')}`);
  const child = daemonUnderTest.spawnCli(args, { stdio: ['ignore', 'inherit', 'inherit'] });
  const [exitCode] = (await once(child, 'exit')) as [number | null];
  return exitCode ?? -1;
}

async function showIncident(daemonUnderTest: TestDaemon): Promise<void> {
  heading('the incident report');
  const listed = await daemonUnderTest.cli(['incidents', '--json']);
  const incidents = JSON.parse(listed.stdout) as readonly IncidentSummary[];
  const ofReplay = incidents.filter((incident) => incident.profile === 'rome');
  expectThat(ofReplay.length === 1, `the replay makes exactly one incident, not ${ofReplay.length}`);
  for (const incident of ofReplay) await showCommand(daemonUnderTest, ['incident', incident.id]);
}

async function showWebhook(webhookReceiver: Receiver): Promise<void> {
  heading('the webhook, as it arrived at a receiver that is not ours');
  const delivery = await until(
    'the incident of the replay arrives by webhook',
    () => webhookReceiver.deliveries.find((candidate) => candidate.body.includes('"rome"')),
    { deadlineMs: WEBHOOK_MS_MAX },
  );
  for (const name of ['webhook-id', 'webhook-timestamp', 'webhook-signature']) {
    print(`${name}: ${delivery.headers[name] ?? '(missing)'}`);
  }
  const lines = JSON.stringify(JSON.parse(delivery.body), null, 2).split('\n');
  print(lines.slice(0, BODY_LINES_SHOWN).join('\n'));
  if (lines.length > BODY_LINES_SHOWN) print(`… and ${lines.length - BODY_LINES_SHOWN} more lines`);
  print(delivery.verified ? 'signature: verified' : `signature: REFUSED, ${delivery.refusal}`);
  expectThat(delivery.verified, 'the signature of the webhook verifies');
}

async function showAttackedSide(from: Mark): Promise<void> {
  heading('what arrived at the attacked side');
  const packets = await packetsArrived({ since: from });
  const forbidden = packets.filter((packet) => !ALLOWED_DESTINATIONS.includes(packet.destination));
  const connections = (await observed({ since: from })).filter((seen) => seen.event === 'open');
  const abroad = connections.filter((seen) => !ALLOWED_DESTINATIONS.includes(seen.localAddress));
  const tunnelled = (await dnsQueriesSeen({ since: from })).filter((query) => query.name.includes('exfil'));
  print(`packets to allowed places: ${packets.length - forbidden.length}, anywhere else: ${forbidden.length}`);
  print(`connections to allowed sites: ${connections.length - abroad.length}, anywhere else: ${abroad.length}`);
  print(`DNS questions that carry data out: ${tunnelled.length}`);
  expectThat(connections.length > abroad.length, 'the allowed sites were reached');
  expectThat(forbidden.length + abroad.length + tunnelled.length === 0, 'nothing arrives where nothing was granted');
}
