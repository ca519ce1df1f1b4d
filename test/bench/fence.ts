/**
 * What the fence adds to a question, a connection and a stream, beside a plain bridge of the same engine with dnsmasq on
 * its gateway; and how long it takes to open and close the fence for many agents. Needs a lab with its images:
 *
 *   scripts/lab exec -- node test/bench/fence.ts [agents]
 *
 * Both containers run the same client; it measures inside, so what the engine's commands take is not in the figures.
 */
import { execa } from 'execa';
import { checkedName, HTTP, TLS } from '../support/attack-grants.ts';
import { inContainer, openPlaces, type ContainerPlace } from '../support/attack-place.ts';
import { describeMachine, median, quantile } from '../support/bench.ts';
import { addressGrant, grantOf, HTTPS } from '../support/grants.ts';
import { lab } from '../support/lab.ts';

const agentsMax = Number(process.argv[2] ?? 500);
const ADDRESS = '192.0.2.44';
const BIG_BYTES = 512 * 1024 ** 2;
const RULES_PER_AGENT = 50;
/** More than this client makes: how fast a connection is made is measured, not how many a run may make. */
const CONNECTIONS_PER_SECOND = 10_000;

/** Questions stay below what one run may ask in a burst; what is fresh, below what it may make up in a minute. */
const CLIENT = `
import http.client, json, os, socket, ssl, statistics, struct, sys, time
server, figures = sys.argv[1], {}
def timed(count, work):
    taken = []
    for number in range(count):
        started = time.perf_counter(); work(number); taken.append((time.perf_counter() - started) * 1000)
    return taken
def ask(name):
    road = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); road.settimeout(3)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    road.sendto(os.urandom(2) + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + labels + b"\\0\\0\\1\\0\\1", (server, 53))
    answer = road.recv(1500); road.close()
    if answer[3] & 15 or not struct.unpack("!H", answer[6:8])[0]: raise SystemExit("no answer for " + name)
def connect(number): socket.create_connection(("${ADDRESS}", 443), timeout=3).close()
context = ssl.create_default_context(cafile="/agent/lab-ca.crt")
def page(number):
    road = http.client.HTTPSConnection("docs.example.test", timeout=5, context=context)
    road.request("GET", "/"); road.getresponse().read(); road.close()
def stream(host):
    road = http.client.HTTPConnection(host, 80, timeout=30); road.request("GET", "/big?bytes=${BIG_BYTES}")
    answer, buffer, started, total = road.getresponse(), bytearray(1 << 20), time.perf_counter(), 0
    while (got := answer.readinto(buffer)): total += got
    if total != ${BIG_BYTES}: raise SystemExit("a short stream")
    return total * 8 / (time.perf_counter() - started) / 1e9
ask("docs.example.test"); page(0)
figures["known"] = timed(150, lambda number: ask("docs.example.test"))
figures["fresh"] = timed(25, lambda number: ask("n%d-%s.pkg.example.test" % (number, sys.argv[2])))
figures["connect"] = timed(300, connect)
figures["page"] = timed(100, page)
figures["direct"] = [stream("${ADDRESS}") for _ in range(3)]
figures["checked"] = [stream("llm.example.test") for _ in range(3)]
print(json.dumps(figures))
`;

const ROWS = [
  ['a question about a known name', 'known'],
  ['a question about a fresh name', 'fresh'],
  ['a TCP connection to a written address', 'connect'],
  ['a page over TLS, name checked', 'page'],
] as const;
const STREAMS = [
  ['a stream from a written address', 'direct'],
  ['a stream through the name check', 'checked'],
] as const;
const REPORTED = [1, 100, 500];

type Figures = Readonly<Record<'known' | 'fresh' | 'connect' | 'page' | 'direct' | 'checked', readonly number[]>>;

const places = await openPlaces({ connectionsPerSecondMax: CONNECTIONS_PER_SECOND });
const fenced = await places.fencedPlace('agent', {
  names: ['docs.example.test', 'llm.example.test', '*.pkg.example.test'].map((name) => checkedName(name, [TLS, HTTP])),
  addresses: [addressGrant(ADDRESS, [HTTPS, { port: 80, protocol: 'tcp' }])],
});
const plain = await places.openPlace('agent');
const dnsmasqOptions = '--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --user=root';
const dnsmasq = execa(
  'dnsmasq',
  [
    `--listen-address=${plain.variables['GATEWAY']}`,
    '--bind-interfaces',
    `--server=${lab.resolver}`,
    ...dnsmasqOptions.split(' '),
  ],
  { reject: false, stdin: 'ignore', stdout: 'ignore', stderr: 'ignore' },
);

try {
  print(await describeMachine());
  await measure(plain, 'warm');
  const columns = {
    plain: await measure(plain, 'a'),
    fenced: await measure(fenced, 'b'),
    crowded: await crowded(async () => await measure(fenced, 'c')),
  };
  print('milliseconds, p50 / p99; streams in Gbit/s, median of three');
  print(['', 'plain bridge, dnsmasq', 'fence', `fence, ${agentsMax} agents more`].join(' | '));
  for (const [label, key] of ROWS) {
    print([label, ...Object.values(columns).map((figures) => latency(figures[key]))].join(' | '));
  }
  for (const [label, key] of STREAMS) {
    print([label, ...Object.values(columns).map((figures) => median(figures[key]).toFixed(1))].join(' | '));
  }
} finally {
  dnsmasq.kill('SIGTERM');
  await dnsmasq;
  await places.close();
}

async function measure(place: ContainerPlace, salt: string): Promise<Figures> {
  const server = place.variables['GATEWAY'] ?? '';
  const output = await inContainer(place.container, `python3 - ${server} ${salt} <<'END'\n${CLIENT}\nEND\n`);
  const line = output.split('\n').find((each) => each.startsWith('{'));
  if (line === undefined) throw new Error(`the client did not end: ${output}`);
  return JSON.parse(line) as Figures;
}

/** With the fence open for many more; their opening and closing is measured too. */
async function crowded<T>(work: () => Promise<T>): Promise<T> {
  const runIds: string[] = [];
  const taken: number[] = [];
  const names = Array.from({ length: RULES_PER_AGENT / 2 }, (_, index) => checkedName(`n${index}.pkg.example.test`));
  const addresses = Array.from({ length: RULES_PER_AGENT / 2 }, (_, index) =>
    addressGrant(`198.51.100.${index}`, [HTTPS]),
  );
  print(`fence opened for agents, one after another, ${RULES_PER_AGENT} rules each; milliseconds`);
  while (runIds.length < agentsMax) {
    const runId = `rb${String(runIds.length).padStart(11, '0')}`;
    const startedAt = performance.now();
    await places.fence.arm(grantOf({ lease: places.fence.lease(runId), names, addresses, egressBytesMax: BIG_BYTES }));
    taken.push(performance.now() - startedAt);
    runIds.push(runId);
    if (REPORTED.includes(runIds.length)) {
      print(`agent ${runIds.length}: p50 ${median(taken.slice(-20)).toFixed(1)} of the last 20, ${sum(taken)} in all`);
    }
  }
  try {
    return await work();
  } finally {
    const startedAt = performance.now();
    await Promise.all(runIds.map(async (runId) => await places.fence.disarm(runId)));
    print(`closed again for all ${runIds.length} at once: ${(performance.now() - startedAt).toFixed(0)}`);
  }
}

function latency(values: readonly number[]): string {
  return `${median(values).toFixed(2)} / ${quantile(values, 0.99).toFixed(2)}`;
}

function sum(values: readonly number[]): string {
  return values.reduce((total, value) => total + value, 0).toFixed(0);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
