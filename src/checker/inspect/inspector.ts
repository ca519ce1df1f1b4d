import type { Socket } from 'node:net';
import { createServer, type SecureContext, type TLSSocket } from 'node:tls';
import { alertOf, ALERT_ACCESS_DENIED } from '../refusal.ts';
import { makeAuthority, type Authority } from './authority.ts';
import { serveHttp1 } from './http1.ts';
import { serveHttp2 } from './http2.ts';
import { inspectionOf, type Inspection, type Way } from './inspection.ts';
import { offeredProtocols, type Protocol } from './offered-protocols.ts';
import type { InspectedConnection, Inspector } from './port.ts';
import { reach, upstreamTrust } from './upstream.ts';

/**
 * An inspected connection, from the hello that the checker has read to its end:
 *
 *   taken ──► reaching ──► secured ──► served ──► closed
 *               │ the name, with its own certificate; what it speaks is what the client is offered
 *               └─ not reachable or not trusted: secured all the same, and every request is told so
 *
 * The name is reached first, so that both sides speak one protocol and no response has to be translated.
 */
export type InspectorOptions = {
  /** Certificates to believe instead of the host's roots. */
  readonly upstreamCa?: readonly string[];
  readonly connectionsMax?: number;
};

type Run = { readonly runId: string; readonly authority: Authority };

/** Each costs two TLS sessions; the fence admits a thousand connections of a run. */
const CONNECTIONS_MAX = 256;
const HANDSHAKE_MS = 10_000;
const COUNT_MS = 1_000;

export function createInspector({ upstreamCa, connectionsMax = CONNECTIONS_MAX }: InspectorOptions = {}): Inspector {
  const runs = new Map<string, Run>();
  const open = new Map<string, Set<Socket>>();
  // Reading the roots of a host takes milliseconds, and most daemons inspect nothing.
  let trust: SecureContext | null = null;

  function forget(source: string): void {
    runs.delete(source);
    for (const client of open.get(source) ?? []) client.destroy();
  }

  return {
    authority: (source, runId) => {
      const known = runs.get(source);
      if (known?.runId === runId) return Promise.resolve(known.authority.certificatePem);
      // The address had another run before: nothing of that one goes on under the new one.
      if (known !== undefined) forget(source);
      const authority = makeAuthority({ runId, nowMs: Date.now() });
      runs.set(source, { runId, authority });
      return Promise.resolve(authority.certificatePem);
    },
    forget,
    inspect: async (connection) => {
      const { client, source } = connection;
      const clients = open.get(source) ?? new Set<Socket>();
      open.set(source, clients);
      clients.add(client);
      const closed = Promise.withResolvers<void>();
      client.once('close', () => {
        clients.delete(client);
        if (clients.size === 0) open.delete(source);
        closed.resolve();
      });
      // HTTP ends both directions together, and TLS takes this over from the socket below it.
      client.allowHalfOpen = false;
      // Whatever goes wrong with the socket ends in `close`.
      client.on('error', () => undefined);
      if (client.destroyed) return;
      countUntilClosed(connection);
      trust ??= upstreamTrust(upstreamCa);
      const reason = clients.size > connectionsMax ? `more than ${connectionsMax} inspected connections` : null;
      if (reason === null) await take(connection, { authority: runs.get(source)?.authority ?? null, trust });
      else refuse(connection, reason);
      await closed.promise;
    },
  };
}

type Means = { readonly authority: Authority | null; readonly trust: SecureContext };

async function take(connection: InspectedConnection, { authority, trust }: Means): Promise<void> {
  const { client, head, protocol } = connection;
  const gone = new AbortController();
  client.once('close', () => gone.abort());
  const offered = protocol === 'tls' ? offeredProtocols(head) : null;
  if (protocol === 'tls' && authority === null) {
    return refuse(
      connection,
      'the run has no certificate authority, as its supervisor started again; a new run has one',
    );
  }
  if (offered?.length === 0) return refuse(connection, 'the client offers neither HTTP/1.1 nor HTTP/2');
  const reached = await reach({ ...connection, offered }, trust, gone.signal);
  if (gone.signal.aborted) {
    if (reached.kind === 'reached') reached.socket.destroy();
    return;
  }
  const inspection = inspectionOf(connection);
  if (reached.kind === 'untrusted') connection.deny('check.upstream', reached.explanation);
  const way: Way<Socket> =
    reached.kind === 'reached'
      ? { kind: 'open', socket: reached.socket }
      : { kind: 'none', explanation: reached.explanation };
  if (way.kind === 'open') endTogether(client, way.socket);
  client.unshift(head);
  if (protocol === 'http' || authority === null) return serveHttp1(client, way, inspection);
  const spoken = reached.kind === 'reached' ? reached.protocol : (offered?.[0] ?? 'http/1.1');
  secure(connection, { context: authority.contextFor(connection.name, Date.now()), spoken, way, inspection });
}

type Secured = {
  readonly context: SecureContext;
  readonly spoken: Protocol;
  readonly way: Way<Socket>;
  readonly inspection: Inspection;
};

/** The handshake with the client, as the name. A server of one connection: it never listens. */
function secure(connection: InspectedConnection, { context, spoken, way, inspection }: Secured): void {
  const { client } = connection;
  const server = createServer({
    ALPNProtocols: [spoken],
    SNICallback: (_name, answer) => answer(null, context),
    handshakeTimeout: HANDSHAKE_MS,
  });
  server.on('tlsClientError', (error) => {
    const explanation = handshakeRefusal(error);
    if (explanation !== null) connection.deny('check.protocol', explanation);
    client.destroy();
  });
  server.on('secureConnection', (secured: TLSSocket) => {
    // An alert may come after the handshake: in TLS 1.3 the server has finished before the client has judged.
    secured.on('error', (error) => {
      const explanation = handshakeRefusal(error);
      if (explanation !== null) connection.deny('check.protocol', explanation);
    });
    secured.once('close', () => client.destroy());
    if (spoken === 'h2') serveHttp2(secured, way, inspection);
    else serveHttp1(secured, way, inspection);
  });
  server.emit('connection', client);
}

/** What the client said against the certificate, as a sentence; null for what says nothing about it. */
function handshakeRefusal(error: Error & { readonly code?: string }): string | null {
  const { code = '' } = error;
  if (
    /ALERT_(?:UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_UNKNOWN|UNSUPPORTED_CERTIFICATE|CERTIFICATE_REVOKED)/.test(code)
  ) {
    return 'the client refused the inspection certificate: it pins its own, or does not read the trust store';
  }
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'the client did not finish the TLS handshake';
  if (code.startsWith('ERR_SSL_') && !code.includes('ALERT_CLOSE_NOTIFY')) {
    return `the TLS handshake with the client failed (${code.slice('ERR_SSL_'.length).toLowerCase()})`;
  }
  return null;
}

function refuse({ client, deny, protocol }: InspectedConnection, explanation: string): void {
  deny('check.request', explanation);
  if (protocol === 'tls') client.end(alertOf(ALERT_ACCESS_DENIED), () => client.destroy());
  else client.destroy();
}

function endTogether(client: Socket, upstream: Socket): void {
  upstream.on('error', () => undefined);
  client.once('close', () => upstream.destroy());
}

function countUntilClosed({ client, count }: InspectedConnection): void {
  let egress = 0;
  let ingress = 0;
  const tell = (): void => {
    const { bytesRead, bytesWritten } = client;
    if (bytesRead === egress && bytesWritten === ingress) return;
    count({ egress: bytesRead - egress, ingress: bytesWritten - ingress });
    egress = bytesRead;
    ingress = bytesWritten;
  };
  const timer = setInterval(tell, COUNT_MS);
  timer.unref();
  client.once('close', () => {
    clearInterval(timer);
    tell();
  });
}
