import { execa } from 'execa';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { FenceGrant, FenceLease } from '../../src/core/ports/fence.ts';
import type { RulePiece } from '../../src/fence/rules.ts';
import { grantOf } from '../support/grants.ts';
import { until } from '../support/until.ts';
import type { HostCall, HostSetup } from './fence-host-script.ts';
import { besideThis, makeBackendFolder, makeNamespace, pathWith } from './fence-namespace.ts';
import type { Namespace } from './fence-namespace.ts';
import type { Probe, ProbeResult } from './fence-probe-script.ts';

/**
 * A host, its agents and an internet as network namespaces: no container engine, every packet real. Verdicts are read
 * at the internet: packets that arrived for an address, connections accepted, questions asked of its resolver.
 *
 *   agent .2 ── bridge rf-… .1 │ host │ 192.0.2.2 ── 192.0.2.1 │ outside │ 198.51.100.0/24, 10.99.0.5, 169.254.169.254
 */
export const POOL = '10.213.0.0/16';
export const GATE_PORT = 5365;
export const CHECK_PORT = 5366;
export const GOOD = '198.51.100.10';
export const OTHER = '198.51.100.20';
export const RESOLVER = '198.51.100.53';
export const PRIVATE = '10.99.0.5';
export const METADATA = '169.254.169.254';
export const UPLINK = '192.0.2.2';
const OUTSIDE_PORTS = [22, 80, 443, 3333, 5432];
const READY_MS = 10_000;
const CALL_MS = 30_000;

export type Agent = {
  readonly lease: FenceLease;
  readonly namespace: Namespace;
  /** Makes its port on the bridge, as an engine does when a container starts. */
  plug(): Promise<void>;
  /** Runs the probes inside the agent's namespace and gives their results. */
  probe(probes: readonly Probe[], onLine?: (line: string) => void): Promise<readonly ProbeResult[]>;
};

export type World = {
  readonly host: Namespace;
  readonly outside: Namespace;
  call(call: HostCall): Promise<unknown>;
  /** A lease, a bridge and a namespace on it, with the address as a container would have it. */
  addAgent(runId: string, plugged?: 'plugged' | 'unplugged'): Promise<Agent>;
  arm(agent: Agent, grant: Partial<Omit<FenceGrant, 'lease'>>): Promise<void>;
  /** Packets for this address that reached the internet so far. */
  seen(address: string): Promise<number>;
  /** IPv6 packets of any kind, but for what two neighbours say to each other. */
  seenSix(): Promise<number>;
  /** Questions that reached the internet's resolver since the last call. */
  questions(): readonly string[];
  /** Ends the fence's process as a crash would, and starts another one over the same state. */
  restartHost(): Promise<void>;
  hostPid(): number;
  remove(): Promise<void>;
};

export type WorldOptions = {
  readonly pieces?: readonly RulePiece[];
  /** `stand-in`: no gate, only what the fence asked of it, and a server in the place of the checker. */
  readonly gate?: HostSetup['gate'];
  readonly backend?: 'nft' | 'legacy';
  readonly connectionsPerSecondMax?: number;
  /** Resolvers that the gate asks in the place of the internet's own. */
  readonly upstreams?: HostSetup['upstreams'];
};

export async function makeWorld(options: WorldOptions = {}): Promise<World> {
  const undo: (() => Promise<void> | void)[] = [];
  const remove = async (): Promise<void> => {
    const errors: unknown[] = [];
    for (const step of undo.toReversed()) {
      try {
        await step();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, 'the world was not taken down cleanly');
  };
  try {
    return await build(options, undo, remove);
  } catch (error) {
    await remove();
    throw error;
  }
}

async function build(
  options: WorldOptions,
  undo: (() => Promise<void> | void)[],
  remove: () => Promise<void>,
): Promise<World> {
  const tools = options.backend === undefined ? null : makeBackendFolder(options.backend);
  if (tools !== null) undo.push(() => rmSync(tools, { recursive: true, force: true }));
  const host = await makeNamespace('host', tools);
  undo.push(() => host.remove());
  const outside = await makeNamespace('out');
  undo.push(() => outside.remove());
  await joinUplink(host, outside);
  const questions = await startInternet(outside, undo);
  const folder = mkdtempSync(join(tmpdir(), 'rft-state-'));
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const setup: HostSetup = {
    pool: POOL,
    gatePort: GATE_PORT,
    checkPort: CHECK_PORT,
    upstreams: options.upstreams ?? [{ address: RESOLVER, port: 53 }],
    stateDirectory: folder,
    subnets: [],
    pieces: options.pieces ?? null,
    gate: options.gate ?? 'real',
    connectionsPerSecondMax: options.connectionsPerSecondMax ?? null,
  };
  let process = await startHost({ host, setup, tools });
  undo.push(() => process.end());
  const agents: Agent[] = [];
  undo.push(async () => {
    for (const agent of agents) await agent.namespace.remove();
  });
  const call: World['call'] = (request) => process.call(request);
  return {
    host,
    outside,
    call,
    addAgent: async (runId, plugged = 'plugged') => {
      const agent = await addAgent(host, (await call({ call: 'lease', runId })) as FenceLease);
      agents.push(agent);
      if (plugged === 'plugged') await agent.plug();
      return agent;
    },
    arm: async (agent, grant) => {
      await call({ call: 'arm', grant: grantOf({ lease: agent.lease, ...grant }) });
    },
    seen: async (address) => await packetsOf(outside, 'iptables-save', `-d ${address}/32`),
    seenSix: async () => await packetsOf(outside, 'ip6tables-save', '! -p ipv6-icmp'),
    questions,
    restartHost: async () => {
      process.kill();
      await process.ended;
      process = await startHost({ host, setup, tools });
    },
    hostPid: () => process.pid,
    remove,
  };
}

async function joinUplink(host: Namespace, outside: Namespace): Promise<void> {
  await host.run('ip', ['link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'down0', 'netns', outside.name]);
  await host.run('ip', ['addr', 'add', `${UPLINK}/24`, 'dev', 'up0']);
  await host.run('ip', ['link', 'set', 'up0', 'up']);
  await outside.run('ip', ['addr', 'add', '192.0.2.1/24', 'dev', 'down0']);
  await outside.run('ip', ['link', 'set', 'down0', 'up']);
  await host.run('ip', ['route', 'add', 'default', 'via', '192.0.2.1']);
  for (const address of [GOOD, OTHER, RESOLVER, PRIVATE, METADATA]) {
    await outside.run('ip', ['addr', 'add', `${address}/32`, 'dev', 'lo']);
    await outside.run('iptables', ['-t', 'raw', '-A', 'PREROUTING', '-i', 'down0', '-d', `${address}/32`]);
  }
  await outside.run('ip6tables', ['-t', 'raw', '-A', 'PREROUTING', '-i', 'down0', '!', '-p', 'ipv6-icmp']);
  await host.run('sysctl', ['-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1']);
  // The strictest reverse-path check that a distribution sets: replies must survive it.
  await host.run('sysctl', ['-qw', 'net.ipv4.conf.all.rp_filter=1', 'net.ipv4.conf.up0.rp_filter=1']);
  await host.run('iptables', ['-t', 'nat', '-A', 'POSTROUTING', '-s', POOL, '!', '-o', 'rf-+', '-j', 'MASQUERADE']);
}

async function startInternet(
  outside: Namespace,
  undo: (() => Promise<void> | void)[],
): Promise<() => readonly string[]> {
  const servers = execa(
    'nsenter',
    [
      `--net=${outside.path}`,
      globalThis.process.execPath,
      besideThis('fence-outside-script.ts'),
      JSON.stringify(OUTSIDE_PORTS),
    ],
    { reject: false, stdin: 'ignore', stderr: 'inherit', buffer: false },
  );
  undo.push(async () => {
    servers.kill('SIGKILL');
    await servers;
  });
  const records = [
    ...[`good.test,${GOOD}`, `other.test,${OTHER}`, `private.test,${PRIVATE}`, `pool.test,10.213.0.6`].map(
      (record) => `--host-record=${record}`,
    ),
    `--host-record=host.test,${UPLINK}`,
    `--address=/wild.test/${GOOD}`,
    '--host-record=mixed.test,198.51.100.10',
    '--host-record=mixed.test,10.99.0.5',
    '--cname=alias.test,good.test',
    '--txt-record=good.test,secret',
  ];
  const resolver = execa(
    'nsenter',
    [
      `--net=${outside.path}`,
      'dnsmasq',
      '--keep-in-foreground',
      '--conf-file=/dev/null',
      '--no-resolv',
      '--no-hosts',
      '--log-queries',
      '--log-facility=-',
      '--pid-file=',
      '--user=root',
      `--listen-address=${RESOLVER}`,
      '--bind-interfaces',
      '--local-ttl=1',
      ...records,
    ],
    { reject: false, stdin: 'ignore', stdout: 'ignore', buffer: false },
  );
  undo.push(async () => {
    resolver.kill('SIGKILL');
    await resolver;
  });
  const asked: string[] = [];
  createInterface({ input: resolver.stderr }).on('line', (line) => {
    const match = /query\[(\S+)\] (\S+) from/.exec(line);
    if (match !== null) asked.push(`${match[1] ?? ''} ${match[2] ?? ''}`);
  });
  let ready = false;
  createInterface({ input: servers.stdout }).on('line', (line) => {
    if (line.includes('"ready"')) ready = true;
  });
  await until('the internet is up', () => ready, { deadlineMs: READY_MS });
  return () => asked.splice(0);
}

type HostProcess = {
  readonly pid: number;
  readonly ended: Promise<unknown>;
  call(call: HostCall): Promise<unknown>;
  kill(): void;
  end(): Promise<void>;
};

async function startHost(given: {
  readonly host: Namespace;
  readonly setup: HostSetup;
  readonly tools: string | null;
}): Promise<HostProcess> {
  const { host, setup, tools } = given;
  const child = execa(
    'nsenter',
    [`--net=${host.path}`, globalThis.process.execPath, besideThis('fence-host-script.ts'), JSON.stringify(setup)],
    { reject: false, stdin: 'pipe', stderr: 'inherit', buffer: false, env: pathWith(tools) },
  );
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  let ready = false;
  let lastId = 0;
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line === 'ready') {
      ready = true;
      return;
    }
    const answer = JSON.parse(line) as { id: number; value?: unknown; error?: { message: string; code?: string } };
    const asked = waiting.get(answer.id);
    waiting.delete(answer.id);
    if (answer.error === undefined) asked?.resolve(answer.value);
    else asked?.reject(new Error(`${answer.error.code ?? 'ERROR'}: ${answer.error.message}`));
  });
  let over = false;
  const ended = Promise.resolve(child).then(() => {
    over = true;
    for (const { reject } of waiting.values()) reject(new Error('the process of the fence ended'));
  });
  await until('the process of the fence is up', () => ready, { deadlineMs: READY_MS });
  return {
    pid: child.pid ?? 0,
    ended,
    call: (request) =>
      new Promise((resolve, reject) => {
        lastId += 1;
        const timer = setTimeout(() => reject(new Error(`${request.call} did not answer`)), CALL_MS);
        waiting.set(lastId, {
          resolve: (value) => {
            clearTimeout(timer);
            resolve(value);
          },
          reject: (error) => {
            clearTimeout(timer);
            reject(error);
          },
        });
        child.stdin.write(`${JSON.stringify({ id: lastId, ...request })}\n`);
      }),
    kill: () => void child.kill('SIGKILL'),
    end: async () => {
      child.stdin.end();
      await until('the process of the fence ends', () => over, { deadlineMs: READY_MS });
    },
  };
}

async function addAgent(host: Namespace, lease: FenceLease): Promise<Agent> {
  const namespace = await makeNamespace('agent');
  await host.run('ip', ['link', 'add', lease.bridge, 'type', 'bridge']);
  await host.run('ip', ['addr', 'add', `${lease.gateway}/30`, 'dev', lease.bridge]);
  await host.run('ip', ['link', 'set', lease.bridge, 'up']);
  const port = `v${lease.bridge.slice(3)}`;
  const plug = async (): Promise<void> => {
    await host.run('ip', ['link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace.name]);
    await host.run('ip', ['link', 'set', port, 'master', lease.bridge, 'up']);
    await namespace.run('ip', ['addr', 'add', `${lease.address}/30`, 'dev', 'eth0']);
    await namespace.run('ip', ['link', 'set', 'eth0', 'up']);
    await namespace.run('ip', ['route', 'add', 'default', 'via', lease.gateway]);
  };
  const probe: Agent['probe'] = async (probes, onLine) => {
    const child = execa(
      'nsenter',
      [
        `--net=${namespace.path}`,
        globalThis.process.execPath,
        besideThis('fence-probe-script.ts'),
        JSON.stringify(probes),
      ],
      { timeout: CALL_MS, stdin: 'ignore', stderr: 'inherit' },
    );
    if (onLine !== undefined) createInterface({ input: child.stdout }).on('line', onLine);
    const { stdout } = await child;
    const [marker, ...lines] = stdout.split('\n');
    if (marker !== 'marker: the probe runs') throw new Error(`the probe did not run: ${stdout}`);
    return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as ProbeResult);
  };
  return { lease, namespace, plug, probe };
}

async function packetsOf(namespace: Namespace, tool: string, match: string): Promise<number> {
  const { stdout } = await namespace.run(tool, ['-c', '-t', 'raw']);
  const line = stdout.split('\n').find((candidate) => candidate.includes('PREROUTING') && candidate.includes(match));
  return Number(/^\[([0-9]+):/.exec(line ?? '')?.[1] ?? Number.NaN);
}
