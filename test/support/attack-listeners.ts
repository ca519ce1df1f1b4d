import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { command, lab } from './lab.ts';

/** What the lab's host hears of a battery: on its ports, as a member of groups, and by its own counters. */
export type HostListeners = {
  readonly port: number;
  /** Joins the groups on the interface that has this address. */
  readonly join: (interfaceAddress: string) => void;
  /** Everything since the last call. */
  readonly heard: () => Promise<readonly string[]>;
  readonly close: () => void;
};

const GROUPS = [
  { address: '224.0.0.251', port: 5353 },
  { address: '239.255.255.250', port: 1900 },
] as const;
const BROADCAST_PORT = 7711;
const TOKEN_CHARACTERS_MAX = 80;

export async function listenOnHost(): Promise<HostListeners> {
  const lines: string[] = [];
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    const token = `tcp ${plain(socket.localAddress)}`;
    socket.on('data', (data) => {
      lines.push(`${token} ${shortened(data)}`);
      socket.end('taken\n');
    });
  }).listen({ host: '0.0.0.0', port: 0 });
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const datagrams = await hear(port, (data, from) => lines.push(`udp ${from} ${shortened(data)}`));
  const broadcasts = await hear(BROADCAST_PORT, (_, from) => lines.push(`broadcast from ${from}`));
  const groups: DatagramSocket[] = [];
  for (const { address, port: groupPort } of GROUPS) {
    groups.push(await hear(groupPort, (_, from) => lines.push(`group ${address} from ${from}`)));
  }
  let echoes = echoRequests();
  return {
    port,
    join: (interfaceAddress) => {
      GROUPS.forEach(({ address }, index) => groups[index]?.addMembership(address, interfaceAddress));
    },
    heard: async () => {
      const now = echoRequests();
      if (now > echoes) lines.push(`echo requests: ${now - echoes}`);
      echoes = now;
      return [...lines.splice(0), ...(await movedNeighbours())];
    },
    close: () => closeAll([server, datagrams, broadcasts, ...groups]),
  };
}

const plain = (address: string | undefined): string => (address ?? '').replace(/^::ffff:/, '');
const shortened = (data: Buffer): string => data.toString('latin1').slice(0, TOKEN_CHARACTERS_MAX).trim();

function closeAll(sockets: readonly (Server | DatagramSocket)[]): void {
  for (const socket of sockets) socket.close();
}

async function hear(port: number, onDatagram: (data: Buffer, from: string) => void): Promise<DatagramSocket> {
  const socket = createSocket({ type: 'udp4', reuseAddr: true }, (data, peer) => onDatagram(data, peer.address));
  socket.bind(port);
  await once(socket, 'listening');
  return socket;
}

/** The kernel's own count of pings that this namespace received. */
function echoRequests(): number {
  const [names, values] = readFileSync('/proc/self/net/snmp', 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('Icmp:'))
    .map((line) => line.split(' '));
  return Number(values?.[names?.indexOf('InEchos') ?? -1]);
}

/** The router of this host, where an agent would like it to be: on a bridge. */
async function movedNeighbours(): Promise<readonly string[]> {
  const { stdout } = await command('ip', ['-4', 'neighbour', 'show', lab.barrierAddress]);
  return stdout
    .split('\n')
    .filter((line) => line !== '' && !line.includes(' dev uplink '))
    .map((line) => `moved: ${line}`);
}
