import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { createChecker } from './checker.ts';
import type { Checker } from './checker.ts';
import type { Inspector } from './inspect/port.ts';
import type { CheckerReport, CheckQuestion, CheckVerdict } from './messages.ts';

/** A checker on the loopback address, whose connections are headed where the test says. */
export type CheckedWorld = {
  readonly checker: Checker;
  readonly port: number;
  readonly reports: CheckerReport[];
  readonly questions: CheckQuestion[];
  /** What the gate answers. */
  verdict: (question: CheckQuestion) => CheckVerdict | Promise<CheckVerdict>;
  /** Where the agent thinks it goes. The address is one that nobody could reach. */
  destination: { address: string; port: number } | null;
};

export const LOOPBACK = '127.0.0.1';

export const opened = (question: CheckQuestion, addresses: readonly string[] = [LOOPBACK]): CheckVerdict => ({
  kind: 'open',
  name: question.name,
  addresses,
  inspect: false,
  requests: [],
});

/** Allows good.test and nothing else, as the gate would. */
export const onlyGood = (question: CheckQuestion): CheckVerdict =>
  question.name === 'good.test'
    ? opened(question)
    : {
        kind: 'refuse',
        rule: 'check.name',
        explanation: `"${question.name}" is not in egress.allow`,
        line: `${question.name}:${question.port}`,
      };

export async function startChecker(
  parts: { readonly inspector?: Inspector; readonly connectionsMax?: number } = {},
): Promise<CheckedWorld> {
  const inspector = parts.inspector ?? {
    authority: async () => await Promise.reject(new Error('no authority in this test')),
    forget: () => undefined,
    inspect: async () => await Promise.reject(new Error('nothing is inspected in this test')),
  };
  const checker = createChecker({
    ask: async (question) => {
      world.questions.push(question);
      return await world.verdict(question);
    },
    report: (report) => world.reports.push(report),
    inspector,
    originalDestination: () => world.destination,
    connectionsMax: parts.connectionsMax ?? 1_024,
  });
  const port = await checker.listen(0, LOOPBACK);
  const world: CheckedWorld = {
    checker,
    port,
    reports: [],
    questions: [],
    verdict: onlyGood,
    destination: { address: '203.0.113.9', port: 0 },
  };
  return world;
}

/** A host that keeps what it got; `serve` may answer. */
export type Host = {
  readonly server: Server;
  readonly port: number;
  readonly sockets: Socket[];
  readonly received: () => string;
};

export async function startHost(serve: (socket: Socket) => void = () => undefined): Promise<Host> {
  const sockets: Socket[] = [];
  const chunks: Buffer[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    serve(socket);
  });
  server.listen(0, LOOPBACK);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { server, port, sockets, received: () => Buffer.concat(chunks).toString('latin1') };
}

export function stopHost(host: Host): void {
  host.server.close();
  for (const socket of host.sockets) socket.destroy();
}

/** A client of raw bytes: what it got so far, and how it ended. */
export type RawClient = {
  readonly socket: Socket;
  readonly received: () => string;
  readonly ended: () => 'open' | 'end' | 'reset';
};

export async function connectRaw(port: number): Promise<RawClient> {
  const socket = connect({ host: LOOPBACK, port, allowHalfOpen: true, noDelay: true });
  const chunks: Buffer[] = [];
  let ended: 'open' | 'end' | 'reset' = 'open';
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.on('end', () => {
    ended = 'end';
    socket.end();
  });
  socket.on('error', () => {
    ended = 'reset';
  });
  // A connection that is refused at once may have a reset for its first event.
  await new Promise<void>((resolve) => {
    socket.once('connect', () => resolve());
    socket.once('close', () => resolve());
  });
  return { socket, received: () => Buffer.concat(chunks).toString('latin1'), ended: () => ended };
}
