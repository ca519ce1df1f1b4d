import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readImageTrust, TrustStore } from '../../src/daemon/trust.ts';
import { createDockerEngine, type DockerEngine } from '../../src/engine/docker.ts';
import { createFence } from '../../src/fence/fence.ts';
import { FENCE_MARKS } from '../../src/fence/rules/words.ts';
import { createGateClient, type GateClient } from '../../src/gate/client.ts';
import type { Fence } from '../../src/core/ports/fence.ts';
import { NEVER_RANGES } from '../../src/policy/egress.ts';
import { parseRule } from '../../src/profile/rules.ts';
import { environmentOf } from '../../src/run/environment.ts';
import { inContainer } from '../support/attack-place.ts';
import { grantOf, nameGrant } from '../support/grants.ts';
import { docker, lab, mark, observed, type Mark } from '../support/lab.ts';
import { specOf, uniqueRunId } from '../support/launch-fixtures.ts';

/**
 * Inspection whole: real packet rules, the real gate and its checker, and a real container that trusts its authority
 * where programs look for it. Verdicts are the requests that the site received.
 */
const IMAGE = 'ringfence/agent-attack:local';
const POOL = '10.216.0.0/16';
const PORTS = { gatePort: 5396, checkPort: 5395 };
const NFLOG_GROUP = 89;
const SITE = 'docs.example.test';
const OTHER = 'llm.example.test';
const SILENT = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

const folder = mkdtempSync(join(tmpdir(), 'ringfence-inspect-'));
const undo: (() => Promise<unknown>)[] = [];
let engine: DockerEngine;
let gate: GateClient;
let fence: Fence;
let container = '';
let address = '';
const runId = uniqueRunId(0);

beforeAll(async () => {
  // The site of the lab has a certificate of the lab's authority.
  process.env['SSL_CERT_FILE'] = lab.ca;
  engine = createDockerEngine({ host: `unix://${lab.dockerSocket}` });
  const upstreams = [{ address: lab.resolver, port: 53 }];
  const { gatePort: port, checkPort } = PORTS;
  const config = { port, pool: POOL, upstreams, neverRanges: NEVER_RANGES, checkPort, holdMs: 2_000 };
  gate = createGateClient({ config, wardenPipe: null, log: SILENT });
  fence = createFence({
    ...PORTS,
    pool: POOL,
    nflogGroup: NFLOG_GROUP,
    marks: FENCE_MARKS,
    connectionsPerSecondMax: 200,
    listSubnets: () => Promise.resolve([]),
    gate,
    stateDirectory: folder,
    log: SILENT,
  });
  await fence.install();
  undo.push(() => fence.uninstall());
  await gate.start();
  undo.push(() => gate.close());
  await launch();
}, 120_000);
afterAll(async () => {
  for (const step of undo.toReversed()) await step();
  engine.close();
  rmSync(folder, { recursive: true, force: true });
});

async function launch(): Promise<void> {
  const lease = fence.lease(runId);
  address = lease.address;
  const { bridge, subnet, gateway } = lease;
  const device = `com.docker.network.bridge.name=${bridge}`;
  await docker('network', 'create', '-o', device, '--subnet', subnet, '--gateway', gateway, bridge);
  undo.push(() => docker('network', 'rm', bridge));
  const parsed = parseRule(SITE, { list: 'allow', inspect: true, requests: ['GET /v1/*'] });
  if (!parsed.ok || parsed.rule.kind !== 'name') throw new Error('the rule is no rule');
  const plain = nameGrant(OTHER, { ports: [{ port: 443, protocol: 'tcp', check: 'tls' }] });
  await fence.arm(grantOf({ lease, names: [{ ...parsed.rule, ask: false }, plain] }));
  undo.push(() => fence.disarm(runId));
  const spec = specOf({});
  const store = await TrustStore.open(join(folder, 'trust'));
  const trust = await readImageTrust(engine, await engine.resolveImage(IMAGE), spec);
  const { binds } = await store.stage(runId, trust, await gate.authority(address, runId));
  const env = environmentOf({ spec, runId, imageEnv: [], cpuMillis: 1_000, trust: true });
  const network = ['--network', bridge, '--ip', address, '--dns', gateway, '--dns-search', '.'];
  const mounts = binds.flatMap(({ source, target }) => ['-v', `${source}:${target}:ro`]);
  const flags = [
    '--user',
    '10001',
    '--cap-drop',
    'ALL',
    ...network,
    ...mounts,
    ...env.flatMap((entry) => ['-e', entry]),
  ];
  container = await docker('run', '-d', ...flags, IMAGE, 'sleep', '600');
  undo.push(() => docker('rm', '-f', container));
}

/** What the site received: method, host and path of each request. */
async function requestsAt(since: Mark): Promise<readonly string[]> {
  const seen = await observed({ since });
  return seen.filter(({ event }) => event === 'request').map(({ detail }) => detail);
}

const curl = `curl -sS --max-time 20 -w ' %{http_code}\\n'`;

describe('an inspected name', () => {
  test('gets the listed requests of real clients, and is spared every other', async () => {
    const since = await mark();
    const said = await inContainer(
      container,
      `${curl} https://${SITE}/v1/curl
      ${curl} --http2 https://${SITE}/v1/curl2
      ${curl} -X POST https://${SITE}/v1/post
      ${curl} https://${SITE}/admin
      ${curl} --path-as-is https://${SITE}/v1/../admin2
      ${curl} https://${SITE}/v1/%2e%2e/admin3 --path-as-is
      ${curl} -H 'Host: ${OTHER}' https://${SITE}/v1/front
      printf 'GET /v1/one HTTP/1.1\\r\\nHost: ${SITE}\\r\\n\\r\\nGET /two HTTP/1.1\\r\\nHost: ${SITE}\\r\\nConnection: close\\r\\n\\r\\n' |
        timeout 20 openssl s_client -quiet -verify_return_error -CAfile "$SSL_CERT_FILE" -servername ${SITE} -connect ${SITE}:443 2>&1
      echo; echo over`,
    );
    expect(said).toContain('over');
    expect(said).toContain('POST /v1/post is in no line of requests');
    expect(said.match(/ 403$/gm)).toHaveLength(5);
    expect(await requestsAt(since)).toEqual([`GET ${SITE}/v1/curl`, `GET ${SITE}/v1/curl2`, `GET ${SITE}/v1/one`]);
  });

  test('is read by programs that bring roots of their own, and another name goes on as it was', async () => {
    const since = await mark();
    const said = await inContainer(
      container,
      `python3 -c 'import urllib.request as u; print(u.urlopen("https://${SITE}/v1/python", timeout=20).status)' 2>&1
      ${curl} --cacert /run/ringfence/ca.pem https://${OTHER}/ 2>&1
      echo over`,
    );
    expect(said).toContain('over');
    expect(said).toMatch(/^200$/m);
    // The authority of the run is nobody's on a name that is not inspected.
    expect(said).toMatch(/SSL certificate problem/);
    expect(await requestsAt(since)).toEqual([`GET ${SITE}/v1/python`]);
  });

  test('is closed to a client that pins what it trusts', async () => {
    const since = await mark();
    const said = await inContainer(
      container,
      // Some root of the image, and not the authority of the run.
      `sed '/END CERT/q' /run/ringfence/bundle.pem >/tmp/pinned.pem
      ${curl} --cacert /tmp/pinned.pem https://${SITE}/v1/pinned 2>&1
      echo over`,
    );
    expect(said).toContain('over');
    expect(said).toMatch(/SSL certificate problem/);
    expect(await requestsAt(since)).toEqual([]);
  });
});
