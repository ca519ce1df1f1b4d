import { createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { messageOf } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import type { Connection, Destination } from './connection.ts';
import { serveHttp } from './http.ts';
import type { Inspector } from './inspect/port.ts';
import type { CheckerReport, CheckQuestion, CheckVerdict } from './messages.ts';
import { Prelude } from './prelude.ts';
import { HELLO_MS, serveTls, TLS_HANDSHAKE } from './tls.ts';
import { Traffic } from './traffic.ts';

/**
 * The name check: connections of runs are led here by the packet rules, show a name, and pass to an address that the
 * gate approved for that very name, or are refused. It decides nothing and remembers nothing but what is open.
 */
export type Checker = {
  /** Resolves when connections are taken; the port, for when 0 was asked. */
  listen(port: number, host: string): Promise<number>;
  /** Closes what a run has open; with `names` only what showed one of them or still waits for its verdict. */
  close(source: string, names: readonly string[] | null): void;
  /** Reports what passed since the last call. */
  flush(): void;
  connections(): number;
  stop(): Promise<void>;
};

export type CheckerParts = {
  /** The answer of the gate; nobody waits for it after VERDICT_MS or when `signal` has aborted. */
  readonly ask: (question: CheckQuestion, signal: AbortSignal) => Promise<CheckVerdict>;
  readonly report: (report: CheckerReport) => void;
  readonly inspector: Inspector;
  /** Where a redirected connection was headed; null when it was not redirected. */
  readonly originalDestination: (socket: Socket) => Destination | null;
  readonly connectionsMax: number;
};

export const CONNECTIONS_PER_SOURCE_MAX = 256;
/** A person may take a minute to decide (approvals.holdSeconds), and the gate a little longer. */
const VERDICT_MS = 75_000;
const KEEP_ALIVE_MS = 30_000;
const BACKLOG = 1_024;

type Open = { readonly connection: Connection; name: string | null; readonly collect: () => void };

export function createChecker(parts: CheckerParts): Checker {
  const open = new Map<string, Set<Open>>();
  const traffic = new Traffic();
  let count = 0;
  const server: Server = createServer({
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_MS,
  });
  server.on('connection', accept);
  // A failed accept concerns one client; the socket goes on.
  server.on('error', () => undefined);

  function accept(client: Socket): void {
    client.on('error', () => undefined);
    const source = client.remoteAddress ?? '';
    const destination = destinationOf(client, parts.originalDestination);
    if (client.destroyed || source === '') return void client.destroy();
    if (destination === null) {
      const { localAddress = '', localPort = 0 } = client;
      const explanation = 'nobody knows where this connection was headed: it was not led here by the packet rules';
      client.destroy();
      parts.report({
        kind: 'denied',
        source,
        destination: localAddress,
        port: localPort,
        rule: 'check.protocol',
        explanation,
      });
      return;
    }
    const mine = open.get(source) ?? new Set();
    if (mine.size >= CONNECTIONS_PER_SOURCE_MAX || count >= parts.connectionsMax) {
      client.resetAndDestroy();
      const { address, port } = destination;
      const explanation = `more than ${CONNECTIONS_PER_SOURCE_MAX} connections at a time through the name check`;
      parts.report({ kind: 'denied', source, destination: address, port, rule: 'check.size', explanation });
      return;
    }
    open.set(source, mine);
    count += 1;
    const entry = manage({ client, source, destination });
    mine.add(entry);
    entry.connection.signal.addEventListener('abort', () => {
      count -= 1;
      mine.delete(entry);
      if (mine.size === 0 && open.get(source) === mine) open.delete(source);
    });
    serve(entry.connection).catch(entry.connection.fail);
  }

  function manage(of: { readonly client: Socket; readonly source: string; readonly destination: Destination }): Open {
    const { client, source, destination } = of;
    const aborter = new AbortController();
    let upstream: Socket | null = null;
    let egress = 0;
    let ingress = 0;

    const key = (): { source: string; name: string; port: number } => ({
      source,
      name: entry.name ?? destination.address,
      port: destination.port,
    });
    const collect = (): void => {
      if (upstream === null) return;
      const egressBytes = upstream.bytesWritten - egress;
      const ingressBytes = upstream.bytesRead - ingress;
      egress += egressBytes;
      ingress += ingressBytes;
      traffic.add(key(), { connections: 0, egressBytes, ingressBytes });
    };
    const leave = (): void => {
      collect();
      upstream?.removeListener('close', settle);
      // A host must not take half a message for a whole one.
      if (upstream?.writableFinished === false) upstream.resetAndDestroy();
      else upstream?.destroy();
      upstream = null;
    };
    const close = (): void => {
      if (aborter.signal.aborted) return;
      const joined = upstream !== null;
      leave();
      // What was cut in the middle must not look like an end.
      if (joined && !client.writableFinished) client.resetAndDestroy();
      else client.destroy();
      aborter.abort();
    };
    /** A side that closed without having ended was reset, and the other one must not wait for the rest. */
    const settle = (): void => {
      const clientCut = client.destroyed && !(client.readableEnded && client.writableFinished);
      const upstreamCut = upstream !== null && upstream.destroyed && !upstream.readableEnded;
      const over = client.destroyed && (upstream === null || upstream.destroyed);
      if (clientCut || upstreamCut || over) return close();
      // The host has said all and is gone: its answer is still on the way to the client, whose bytes lead nowhere.
      if (upstream?.destroyed === true) client.resume();
    };
    client.on('close', settle);

    const connection: Connection = {
      source,
      destination,
      client,
      signal: aborter.signal,
      shown: () => entry.name ?? destination.address,
      ask: async (name, protocol) => {
        // From here on `close` with this name finds the connection, also while the verdict is on its way.
        entry.name = name;
        const question = { source, name, port: destination.port, protocol };
        return await verdictOf(parts.ask(question, aborter.signal), aborter.signal);
      },
      deny: (rule, explanation, shown) => {
        parts.report({
          kind: 'denied',
          source,
          destination: printable(shown ?? entry.name ?? destination.address, 253),
          port: destination.port,
          rule,
          explanation: printable(explanation, 512),
        });
      },
      pass: (socket) => {
        traffic.add(key(), { connections: 1, egressBytes: 0, ingressBytes: 0 });
        upstream = socket;
        socket?.on('error', () => undefined);
        socket?.on('close', settle);
      },
      leave,
      count: (bytes) => {
        traffic.add(key(), { connections: 0, egressBytes: bytes.egress, ingressBytes: bytes.ingress });
      },
      close,
      fail: (error) => {
        close();
        connection.deny('check.protocol', `the name check failed: ${messageOf(error)}`);
      },
    };
    const entry: Open = { connection, name: null, collect };
    return entry;
  }

  async function serve(connection: Connection): Promise<void> {
    const prelude = new Prelude(connection);
    const { port } = connection.destination;
    const tls = port === 443 || (port !== 80 && (await firstByteOf(connection, prelude)) === TLS_HANDSHAKE);
    if (connection.signal.aborted) return;
    if (tls) await serveTls(connection, prelude, parts.inspector);
    else await serveHttp(connection, prelude, parts.inspector);
  }

  const all = (): Open[] => [...open.values()].flatMap((mine) => [...mine]);

  return {
    listen: async (port, host) => {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen({ port, host, backlog: BACKLOG }, () => {
          server.removeListener('error', reject);
          resolve();
        });
      });
      return (server.address() as AddressInfo).port;
    },
    close: (source, names) => {
      for (const entry of open.get(source) ?? []) {
        if (names === null || (entry.name !== null && names.includes(entry.name))) entry.connection.close();
      }
    },
    flush: () => {
      for (const entry of all()) entry.collect();
      for (const passed of traffic.take()) parts.report(passed);
    },
    connections: () => count,
    stop: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const entry of all()) entry.connection.close();
      await closed;
    },
  };
}

/** Unknown is null: then nobody knows what the agent wanted, and the port may be any. */
function destinationOf(client: Socket, lookup: CheckerParts['originalDestination']): Destination | null {
  try {
    const destination = lookup(client);
    // Whoever came to this port by itself was led here by nobody.
    const own = destination?.port === client.localPort && destination?.address === client.localAddress;
    return own ? null : destination;
  } catch {
    return null;
  }
}

/** A port without a protocol of its own: the first byte tells, and the gate says whether the port may be checked at all. */
async function firstByteOf(connection: Connection, prelude: Prelude): Promise<number | null> {
  return await new Promise((resolve) => {
    const settle = (): void => {
      clearTimeout(timer);
      prelude.onData(null);
      prelude.onEnd(null);
      resolve(prelude.firstByte());
    };
    const timer = setTimeout(settle, HELLO_MS);
    connection.signal.addEventListener('abort', settle, { once: true });
    prelude.onData(settle);
    prelude.onEnd(settle);
  });
}

async function verdictOf(answer: Promise<CheckVerdict>, signal: AbortSignal): Promise<CheckVerdict> {
  return await new Promise((resolve, reject) => {
    const none = (): void =>
      resolve({ kind: 'refuse', rule: 'check.slow', explanation: 'nobody decided in time', line: null });
    const timer = setTimeout(none, VERDICT_MS);
    signal.addEventListener('abort', none, { once: true });
    answer.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
