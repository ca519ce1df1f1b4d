import { assertNever } from '../../src/core/assert.ts';
import { createSocket } from 'node:dgram';
import { createServer, connect } from 'node:net';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HeldRequest } from '../../src/core/approval.ts';
import type { FenceGrant } from '../../src/core/ports/fence.ts';
import { RingfenceError } from '../../src/core/errors.ts';
import { createFence } from '../../src/fence/fence.ts';
import type { FenceGate } from '../../src/fence/fence.ts';
import type { RulePiece } from '../../src/fence/rules.ts';
import { createGateClient } from '../../src/gate/client.ts';
import { openNflog } from '../../src/kernel/nflog.ts';
import type { NflogPacket } from '../../src/kernel/nflog.ts';
import { NEVER_RANGES } from '../../src/policy/egress.ts';

/**
 * The fence and its gate inside the host namespace of a test, told what to do line by line. A netlink socket belongs
 * to the namespace of its process, so this cannot be the process of the test itself.
 */
export type HostSetup = {
  readonly pool: string;
  readonly gatePort: number;
  readonly checkPort: number;
  readonly upstreams: readonly { readonly address: string; readonly port: number }[];
  readonly stateDirectory: string | null;
  readonly subnets: readonly string[];
  readonly pieces: readonly RulePiece[] | null;
  readonly gate: 'real' | 'stand-in';
  readonly connectionsPerSecondMax: number | null;
};

export type HostCall =
  | { readonly call: 'install' | 'verify' | 'uninstall' | 'startGate' | 'closeGate' | 'gateHealth' | 'gateStats' }
  /** Of the stand-in: what the fence asked, and to refuse what it asks from now on. */
  | { readonly call: 'gateCalls' | 'failGate' | 'startChecker' }
  /** A service of the host itself, and how many connections and datagrams of others it has had. */
  | { readonly call: 'serveHost'; readonly port: number }
  | { readonly call: 'hostServed' }
  | { readonly call: 'lease' | 'counters' | 'destinations' | 'disarm'; readonly runId: string }
  | { readonly call: 'arm' | 'change' | 'shape'; readonly grant: FenceGrant }
  | { readonly call: 'approve'; readonly runId: string; readonly request: HeldRequest; readonly forMs: number }
  | { readonly call: 'deny'; readonly runId: string; readonly request: HeldRequest }
  | { readonly call: 'collectGarbage'; readonly keep: readonly string[] }
  /** What the feed of packets and the warden's pipe have brought since the last call. */
  | { readonly call: 'packets' | 'denials' | 'asked' };

const HOLD_MS = 1_000;
const setup = JSON.parse(process.argv[2] ?? '{}') as HostSetup;
const log = {
  debug: () => undefined,
  info: () => undefined,
  warn: (facts: unknown, message: string) => process.stderr.write(`${message} ${JSON.stringify(facts)}\n`),
  error: (facts: unknown, message: string) => process.stderr.write(`${message} ${JSON.stringify(facts)}\n`),
};
const denials: string[] = [];
const asked: unknown[] = [];
const folder = mkdtempSync(join(setup.stateDirectory ?? tmpdir(), 'rft-'));
const wardenPipe = await pairedPipe();
const gate = createGateClient({
  config: {
    port: setup.gatePort,
    checkPort: setup.checkPort,
    pool: setup.pool,
    upstreams: setup.upstreams,
    neverRanges: NEVER_RANGES,
    holdMs: HOLD_MS,
  },
  wardenPipe,
  log,
  onAsked: (address, request) => asked.push({ address, request }),
});
const gateCalls: unknown[] = [];
let gateFails = false;
let hostServed = 0;
const noted = (kind: string, ...facts: unknown[]): Promise<void> => {
  gateCalls.push([kind, ...facts]);
  return gateFails ? Promise.reject(new Error('the stand-in refuses')) : Promise.resolve();
};
const standIn: FenceGate = {
  grant: (address, names) => noted('grant', address, names.length),
  revoke: (address) => noted('revoke', address),
  change: (address, names) => noted('change', address, names.length),
  decide: (address, request, lifetime) => noted('decide', address, request.name, lifetime),
};
const fence = createFence({
  pool: setup.pool,
  gatePort: setup.gatePort,
  checkPort: setup.checkPort,
  nflogGroup: 86,
  listSubnets: () => Promise.resolve(setup.subnets),
  gate: setup.gate === 'real' ? gate : standIn,
  stateDirectory: setup.stateDirectory,
  log,
  ...(setup.pieces === null ? {} : { pieces: setup.pieces }),
  ...(setup.connectionsPerSecondMax === null ? {} : { connectionsPerSecondMax: setup.connectionsPerSecondMax }),
});
const nflog = openNflog({ group: 86 });

process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as HostCall & { readonly id: number };
  try {
    const value = (await perform(request)) ?? null;
    process.stdout.write(`${JSON.stringify({ id: request.id, value })}\n`);
  } catch (error) {
    const facts = error instanceof RingfenceError ? { code: error.code, hint: error.hint } : {};
    const message = error instanceof Error ? error.message : String(error);
    process.stdout.write(`${JSON.stringify({ id: request.id, error: { message, ...facts } })}\n`);
  }
}
await gate.close();
rmSync(folder, { recursive: true, force: true });
// oxlint-disable-next-line unicorn/no-process-exit -- a program of its own: open handles must not keep it
process.exit(0);

async function perform(request: HostCall): Promise<unknown> {
  switch (request.call) {
    case 'install':
      return await fence.install();
    case 'verify':
      return await fence.verify();
    case 'uninstall':
      return await fence.uninstall();
    case 'lease':
      return fence.lease(request.runId);
    case 'arm':
      return await fence.arm(request.grant);
    case 'change':
      return await fence.change(request.grant);
    case 'shape':
      return await fence.shape(request.grant);
    case 'approve':
      return await fence.approve(request.runId, request.request, { forMs: request.forMs });
    case 'deny':
      return await fence.deny(request.runId, request.request);
    case 'destinations':
      return await fence.destinations(request.runId);
    case 'counters':
      return await fence.counters(request.runId);
    case 'disarm':
      return await fence.disarm(request.runId);
    case 'collectGarbage':
      return await fence.collectGarbage(new Set(request.keep));
    case 'startGate':
      return await gate.start();
    case 'closeGate':
      return await gate.close();
    case 'gateHealth':
      return gate.health();
    case 'gateStats':
      return await gate.stats();
    case 'gateCalls':
      return gateCalls.splice(0);
    case 'failGate':
      gateFails = true;
      return null;
    case 'startChecker':
      return await startChecker();
    case 'serveHost':
      return await serveHost(request.port);
    case 'hostServed':
      return hostServed;
    case 'packets': {
      const packets: NflogPacket[] = [];
      for (let more = nflog.read(); more.length > 0; more = nflog.read()) packets.push(...more);
      return { packets, lost: nflog.lost() };
    }
    case 'denials':
      // The gate also says what a name led to; that is for whoever explains, and no denial.
      return denials.splice(0).flatMap((line) => {
        const value = JSON.parse(line) as { readonly denial?: unknown };
        return value.denial === undefined ? [] : [value];
      });
    case 'asked':
      return asked.splice(0);
    default:
      return assertNever(request);
  }
}

async function serveHost(port: number): Promise<void> {
  const server = createServer((socket) => {
    hostServed += 1;
    socket.on('error', () => socket.destroy());
    socket.end();
  });
  await new Promise<void>((resolve) => server.listen(port, '0.0.0.0', () => resolve()));
  const datagrams = createSocket('udp4');
  datagrams.on('message', () => {
    hostServed += 1;
  });
  await new Promise<void>((resolve) => datagrams.bind(port, '0.0.0.0', () => resolve()));
}

/** In the place of the checker: says that it is not the internet, then sends back what comes. */
async function startChecker(): Promise<void> {
  const server = createServer((socket) => {
    socket.write('checker ');
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      const wanted = /^GET ([0-9]+)/.exec(chunk.toString('latin1'));
      socket.write(wanted === null ? chunk : Buffer.alloc(Number(wanted[1])));
    });
  });
  await new Promise<void>((resolve) => server.listen(setup.checkPort, '0.0.0.0', () => resolve()));
}

/** A connected pair: one end is read here in the place of the warden, the other goes to the gate. */
async function pairedPipe(): Promise<Socket> {
  const path = join(folder, 'warden.sock');
  const server = createServer((socket) => {
    createInterface({ input: socket }).on('line', (line) => denials.push(line));
  });
  await new Promise<void>((resolve) => server.listen(path, () => resolve()));
  const ours = connect(path);
  await new Promise<void>((resolve) => ours.once('connect', () => resolve()));
  server.unref();
  return ours;
}
