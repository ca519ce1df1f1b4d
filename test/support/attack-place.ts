import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Fence, FenceGrant, FenceLease } from '../../src/core/ports/fence.ts';
import { createFence } from '../../src/fence/fence.ts';
import { FENCE_MARKS } from '../../src/fence/rules/words.ts';
import { createGateClient, type GateClient } from '../../src/gate/client.ts';
import { NEVER_RANGES } from '../../src/policy/egress.ts';
import { listenOnHost, type HostListeners } from './attack-listeners.ts';
import type { Place } from './attack.ts';
import { grantOf } from './grants.ts';
import { command, docker, insideInternet, lab } from './lab.ts';
import { until } from './until.ts';

/**
 * The same attacker in two places: beside a neighbour on a plain network of the engine, and inside the fence. `root`
 * is far more than any profile grants: raw sockets, the administration of its own network, a tunnel device.
 */
export type Attacker = 'agent' | 'root';

export type AttackPlaces = {
  readonly fence: Fence;
  readonly gate: GateClient;
  readonly listeners: HostListeners;
  /** A container on a network that nothing fences. */
  readonly openPlace: (attacker: Attacker) => Promise<ContainerPlace>;
  /** A container with this grant; what the grant does not say is closed. */
  readonly fencedPlace: (attacker: Attacker, grant: Grant) => Promise<ContainerPlace>;
  readonly close: () => Promise<void>;
};

export type Grant = Partial<Omit<FenceGrant, 'lease'>>;

export type ContainerPlace = Place & {
  readonly container: string;
  readonly neighbour: string;
  readonly lease: FenceLease | null;
  /** Ends both containers, so that nothing of them is on the road when the next battery begins. */
  readonly leave: () => Promise<void>;
};

const IMAGE = 'ringfence/agent-attack:local';
const POOL = '10.215.0.0/16';
const GATE_PORT = 5398;
const CHECK_PORT = 5397;
const NFLOG_GROUP = 88;
/** What the base rules of these places are made from. */
export const RULE_OPTIONS = {
  pool: POOL,
  gatePort: GATE_PORT,
  checkPort: CHECK_PORT,
  nflogGroup: NFLOG_GROUP,
  marks: FENCE_MARKS,
  connectionsPerSecondMax: 200,
};
const OPEN_NETWORK = 'rfopen';
const READY_MS_MAX = 10_000;
const BATTERY_MS_MAX = 120_000;
const SILENT = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

const CAPABILITIES: Readonly<Record<Attacker, readonly string[]>> = {
  agent: ['--user', '10001', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges'],
  root: ['--user', '0', '--cap-add', 'NET_RAW', '--cap-add', 'NET_ADMIN', '--device', '/dev/net/tun'],
};

/** It listens on a TCP and a UDP port and says what it hears. */
const LISTENER = `socat -u UDP-RECV:8001 STDOUT & exec socat -u TCP-LISTEN:8000,fork,reuseaddr STDOUT`;

export async function openPlaces(options: Partial<typeof RULE_OPTIONS> = {}): Promise<AttackPlaces> {
  const folder = mkdtempSync(join(tmpdir(), 'ringfence-attack-'));
  const listeners = await listenOnHost();
  const gate = createGateClient({
    config: {
      port: GATE_PORT,
      pool: POOL,
      upstreams: [{ address: lab.resolver, port: 53 }],
      neverRanges: NEVER_RANGES,
      checkPort: CHECK_PORT,
      holdMs: 2_000,
    },
    wardenPipe: null,
    log: SILENT,
  });
  const fence = createFence({
    ...RULE_OPTIONS,
    ...options,
    listSubnets: () => Promise.resolve([]),
    gate,
    stateDirectory: folder,
    log: SILENT,
  });
  await fence.install();
  await gate.start();
  const undo: (() => Promise<unknown>)[] = [];
  let runs = 0;
  let hasOpenNetwork = false;
  const joined = new Set<string>();

  async function network(): Promise<FenceLease> {
    runs += 1;
    const lease = fence.lease(`ra${String(runs).padStart(11, '0')}`);
    undo.push(async () => {
      await fence.disarm(lease.runId);
      await docker('network', 'rm', lease.bridge);
    });
    const device = `com.docker.network.bridge.name=${lease.bridge}`;
    await docker('network', 'create', '-o', device, '--subnet', lease.subnet, '--gateway', lease.gateway, lease.bridge);
    return lease;
  }

  async function container(flags: readonly string[]): Promise<string> {
    const id = await docker(
      'run',
      '-d',
      '--sysctl',
      'net.ipv4.ping_group_range=0 2147483647',
      ...flags,
      IMAGE,
      'sh',
      '-c',
      LISTENER,
    );
    undo.push(async () => await command('docker', ['rm', '-f', id]));
    await until(
      'the container listens',
      async () => (await command('docker', ['exec', id, 'sh', '-c', 'ss -ltn | grep -q :8000'])).exitCode === 0,
      { deadlineMs: READY_MS_MAX },
    );
    return id;
  }

  const inLease = ({ bridge, address, gateway }: FenceLease): readonly string[] =>
    `--network ${bridge} --ip ${address} --dns ${gateway} --dns-search .`.split(' ');

  const place = async (made: Omit<ContainerPlace, keyof Place | 'leave'>, beside: Beside): Promise<ContainerPlace> => {
    if (!joined.has(beside.gateway)) listeners.join(beside.gateway);
    joined.add(beside.gateway);
    const hearAgent = hearing(made.container);
    const hearNeighbour = hearing(made.neighbour);
    return {
      ...made,
      leave: async () => {
        for (const id of [made.container, made.neighbour]) await docker('rm', '-f', id);
        // A server that goes on sending to a container that is gone makes this host answer for it, into the next record.
        await insideInternet('ss', ['-t', '-K', 'dst', lab.hostAddress]);
      },
      run: async (script) => await inContainer(made.container, script),
      heard: async () => ({
        atHost: await listeners.heard(),
        atAgent: await hearAgent(),
        atNeighbour: await hearNeighbour(),
      }),
      variables: {
        GATEWAY: beside.gateway,
        BRIDGE: await docker('network', 'inspect', 'bridge', '--format', '{{(index .IPAM.Config 0).Gateway}}'),
        BROADCAST: beside.broadcast,
        SELF: beside.self,
        SPARE: beside.spare,
        NEIGHBOUR: beside.neighbour,
        NEIGHBOUR_GATEWAY: beside.neighbourGateway,
        NEIGHBOUR_NAME: made.neighbour.slice(0, SHORT_ID),
        RESOLVER: '127.0.0.11',
        HOST_PORT: String(listeners.port),
        GATE_PORT: String(GATE_PORT),
      },
    };
  };

  return {
    fence,
    gate,
    listeners,
    fencedPlace: async (attacker, grant) => {
      const [lease, other] = [await network(), await network()];
      for (const each of [lease, other]) await fence.arm(grantOf({ ...grant, lease: each }));
      const made = {
        lease,
        container: await container([...CAPABILITIES[attacker], ...inLease(lease)]),
        neighbour: await container([...CAPABILITIES.agent, ...inLease(other)]),
      };
      return await place(made, {
        gateway: lease.gateway,
        self: lease.address,
        broadcast: plus(lease.address, 1),
        spare: plus(other.address, 4),
        neighbour: other.address,
        neighbourGateway: other.gateway,
      });
    },
    openPlace: async (attacker) => {
      if (!hasOpenNetwork) {
        const six = ['--ipv6', '--subnet', '2001:db8:2::/64'];
        await docker('network', 'create', ...six, '--subnet', OPEN_SUBNET, '-o', OPEN_BRIDGE, OPEN_NETWORK);
        undo.push(async () => await docker('network', 'rm', OPEN_NETWORK));
        hasOpenNetwork = true;
      }
      const flags = ['--network', OPEN_NETWORK, '--dns', lab.resolver];
      const made = {
        lease: null,
        container: await container([...CAPABILITIES[attacker], ...flags]),
        neighbour: await container([...CAPABILITIES.agent, ...flags]),
      };
      const [self, neighbour] = [await addressOf(made.container), await addressOf(made.neighbour)];
      const gateway = '198.18.7.1';
      const around = { gateway, neighbourGateway: gateway, broadcast: '198.18.7.255', spare: '198.18.7.77' };
      return await place(made, { ...around, self, neighbour });
    },
    close: async () => {
      for (const step of undo.toReversed()) await step();
      await gate.close();
      await fence.uninstall();
      listeners.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

const OPEN_BRIDGE = 'com.docker.network.bridge.name=rfopen0';
const OPEN_SUBNET = '198.18.7.0/24';
const SHORT_ID = 12;
type Beside = {
  readonly gateway: string;
  readonly self: string;
  readonly broadcast: string;
  readonly spare: string;
  readonly neighbour: string;
  readonly neighbourGateway: string;
};

function plus(ip: string, count: number): string {
  const octets = ip.split('.').map(Number);
  return [...octets.slice(0, 3), (octets[3] ?? 0) + count].join('.');
}

async function addressOf(container: string): Promise<string> {
  return await docker(
    'inspect',
    '--format',
    `{{(index .NetworkSettings.Networks "${OPEN_NETWORK}").IPAddress}}`,
    container,
  );
}

/** The script arrives on standard input: it is longer than an argument may be. */
export async function inContainer(container: string, script: string): Promise<string> {
  const { stdout, stderr } = await command('docker', ['exec', '-i', container, 'sh', '-s'], {
    input: script,
    timeoutMs: BATTERY_MS_MAX,
  });
  return `${stdout}\n${stderr}`;
}

/** What the listener of a container has said since the last call. */
function hearing(container: string): () => Promise<readonly string[]> {
  let known = 0;
  return async () => {
    const all = (await docker('logs', container)).split('\n').filter((line) => line !== '');
    return all.slice(known, (known = all.length));
  };
}
