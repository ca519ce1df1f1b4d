import { execa } from 'execa';
import { randomUUID } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { dnsQueries, parsePackets, type DnsQuery, type Packet } from './packets.ts';
import { until } from './until.ts';

/** What `scripts/lab up` wrote about the lab that this process runs in. */
export type LabFacts = {
  readonly name: string;
  readonly checkout: string;
  readonly hostNamespace: string;
  readonly internetNamespace: string;
  readonly runtime: string;
  readonly dockerSocket: string;
  readonly observed: string;
  readonly packets: string;
  readonly dnsLog: string;
  readonly hosts: string;
  readonly dnsmasqPidFile: string;
  readonly enginePidFile: string;
  readonly ca: string;
  readonly sshKey: string;
  readonly scratch: string;
  readonly resolver: string;
  readonly otherResolver: string;
  readonly internetMac: string;
  readonly hostAddress: string;
  readonly barrierAddress: string;
  readonly sshHost: string;
  readonly internalAddress: string;
  readonly cgroup: string;
};

const BARRIER_PORT = 9;
const BARRIER_MS_MAX = 10_000;
const BARRIER_RESEND_MS = 200;
const PCAP_HEADER_BYTES = 24;

/** Read once; a lab test that does not run inside a lab fails here, it is never skipped. */
export const lab: LabFacts = readFacts();

function readFacts(): LabFacts {
  const file = process.env['RINGFENCE_LAB_FILE'];
  if (file === undefined)
    throw new Error('not inside a lab: run `scripts/test --lab`, or `scripts/lab exec -- COMMAND`');
  return JSON.parse(readFileSync(file, 'utf8')) as LabFacts;
}

/** A point in the record of the attacked side: `mark()` before the attack, then ask for what came `since`. */
export type Mark = { readonly observedBytes: number; readonly packetBytes: number };

export const FROM_THE_START: Mark = { observedBytes: 0, packetBytes: PCAP_HEADER_BYTES };

/** One line of the servers' record: a connection, a request or a datagram that arrived. */
export type Seen = {
  readonly at: string;
  readonly server: 'http' | 'https' | 'site' | 'ssh' | 'ftp' | 'pool' | 'sink' | 'barrier';
  readonly event: 'open' | 'request' | 'close' | 'datagram' | 'barrier';
  readonly protocol: 'tcp' | 'udp';
  readonly localAddress: string;
  readonly localPort: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly bytes: number;
  readonly detail: string;
};

export async function mark(): Promise<Mark> {
  await passBarrier(FROM_THE_START);
  return { observedBytes: sizeOf(lab.observed), packetBytes: sizeOf(lab.packets) };
}

/** Connections, requests and datagrams the internet's servers saw; complete up to this call. */
export async function observed(options: { readonly since: Mark }): Promise<readonly Seen[]> {
  await passBarrier(options.since);
  return readObserved(options.since).filter((seen) => seen.event !== 'barrier');
}

/** Every packet that came from the lab's host into its internet, whoever sent it; complete up to this call. */
export async function packetsArrived(options: { readonly since: Mark }): Promise<readonly Packet[]> {
  await passBarrier(options.since);
  return readPackets(options.since).filter(
    (packet) => packet.sourceMac !== lab.internetMac && packet.destination !== lab.barrierAddress && !isChatter(packet),
  );
}

/** The packets that arrived for one address, of any protocol. */
export async function packetsTo(address: string, options: { readonly since: Mark }): Promise<readonly Packet[]> {
  return (await packetsArrived(options)).filter((packet) => packet.destination === address);
}

// What two IPv6 neighbours tell each other whether or not any agent runs.
function isChatter(packet: Packet): boolean {
  return packet.protocol === 'icmp6' && (packet.destination.startsWith('ff02:') || packet.icmpType >= 130);
}

/**
 * Sends a datagram and waits until it stands in both records. Packets keep their order on the one link, so whatever
 * left before it stands there too: only then does "nothing arrived" mean anything.
 */
async function passBarrier(since: Mark): Promise<void> {
  const token = `barrier ${randomUUID()}`;
  const socket = createSocket('udp4');
  const send = (): void => socket.send(token, BARRIER_PORT, lab.barrierAddress);
  const timer = setInterval(send, BARRIER_RESEND_MS);
  const from = {
    observedBytes: Math.max(since.observedBytes, sizeOf(lab.observed)),
    packetBytes: Math.max(since.packetBytes, sizeOf(lab.packets)),
  };
  try {
    send();
    await until(
      'a datagram sent to the internet stands in its records',
      () =>
        readFrom(lab.observed, from.observedBytes).includes(token) &&
        readFrom(lab.packets, from.packetBytes).includes(token),
      { deadlineMs: BARRIER_MS_MAX },
    );
  } finally {
    clearInterval(timer);
    socket.close();
  }
}

function readObserved(since: Mark): Seen[] {
  const lines = readFrom(lab.observed, since.observedBytes).toString('utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as Seen);
}

function readPackets(since: Mark): Packet[] {
  return parsePackets(readFrom(lab.packets, since.packetBytes));
}

function sizeOf(path: string): number {
  const file = openSync(path, 'r');
  try {
    return fstatSync(file).size;
  } finally {
    closeSync(file);
  }
}

function readFrom(path: string, offset: number): Buffer {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(Math.max(0, fstatSync(file).size - offset));
    return bytes.subarray(0, readSync(file, bytes, 0, bytes.length, offset));
  } finally {
    closeSync(file);
  }
}

export type CommandResult = { readonly stdout: string; readonly stderr: string; readonly exitCode: number };

/** Runs a program in the internet's namespace: what somebody out there would do or see. */
export async function insideInternet(file: string, args: readonly string[]): Promise<CommandResult> {
  return await command('nsenter', [`--net=${lab.internetNamespace}`, file, ...args]);
}

/** Runs a program in this namespace, the lab's host; a failing exit code is data. */
export async function command(
  file: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const result = await execa(file, [...args], {
    reject: false,
    timeout: options.timeoutMs ?? COMMAND_MS_MAX,
    maxBuffer: COMMAND_OUTPUT_BYTES_MAX,
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
    ...(options.env === undefined ? {} : { env: { ...options.env } }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  if (result.timedOut) throw new Error(`${file} ${args.join(' ')} did not end in time: ${result.stderr}`);
  return { stdout: result.stdout, stderr: result.stderr, exitCode: result.exitCode ?? signalExitCode(result.signal) };
}

const COMMAND_MS_MAX = 60_000;
const COMMAND_OUTPUT_BYTES_MAX = 32 * 1024 * 1024;

export type CommandOptions = {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly timeoutMs?: number;
};

const signalExitCode = (signal: string | undefined): number => (signal === undefined ? -1 : 128);

/** The lab's own engine, by its command line: what an operator would see, independent of our client. */
export async function docker(...args: readonly string[]): Promise<string> {
  const result = await command('docker', ['--host', `unix://${lab.dockerSocket}`, ...args]);
  if (result.exitCode !== 0) throw new Error(`docker ${args.join(' ')}: ${result.stderr}`);
  return result.stdout.trim();
}

/** Lets a name resolve to these addresses from now on, in place of what it had; for answers that change. */
export async function setAddresses(name: string, addresses: readonly string[]): Promise<void> {
  const kept = readFileSync(lab.hosts, 'utf8')
    .split('\n')
    .filter((line) => line !== '' && line.split(/\s+/)[1] !== name);
  writeFileSync(lab.hosts, [...kept, ...addresses.map((address) => `${address} ${name}`), ''].join('\n'));
  process.kill(Number(readFileSync(lab.dnsmasqPidFile, 'utf8')), 'SIGHUP');
  const wanted = [...addresses].toSorted().join();
  await until(`${name} resolves to ${wanted}`, async () => (await lookUp(name)).toSorted().join() === wanted, {
    deadlineMs: 5_000,
  });
}

async function lookUp(name: string): Promise<string[]> {
  const { Resolver } = await import('node:dns/promises');
  const resolver = new Resolver({ timeout: 1_000, tries: 2 });
  resolver.setServers([lab.resolver]);
  return await resolver.resolve4(name).catch(() => []);
}

/** The DNS questions that reached any resolver of the internet; complete up to this call. */
export async function dnsQueriesSeen(options: { readonly since: Mark }): Promise<readonly DnsQuery[]> {
  return dnsQueries(await packetsArrived(options));
}
