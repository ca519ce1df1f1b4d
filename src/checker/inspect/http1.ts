import { Agent, createServer, request, ServerResponse, type ClientRequest, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { messageOf } from '../../core/errors.ts';
import {
  forwardedRequest,
  forwardedResponse,
  pairsOf,
  upgradeRequest,
  valuesOf,
  type Framing,
} from './http1-headers.ts';
import { HEAD_BYTES_MAX, IDLE_MS, PROBLEM_TYPE, REQUESTS_OPEN_MAX, type Inspection, type Way } from './inspection.ts';
import { judgeRequest, type Judgement } from './judge.ts';

/**
 * HTTP/1.1 between a client and an inspected name. Each side has a parser and a writer of Node.js, so nothing that two
 * readers could frame differently is passed on as it came. One connection of the client is one connection to the name:
 * what ends the one ends the other.
 */

/** A refused request whose body is longer ends its connection, instead of being read to its end for nothing. */
const REFUSED_BODY_BYTES_MAX = 64 * 1024;

export function serveHttp1(client: Socket, way: Way<Socket>, inspection: Inspection): void {
  let open = 0;
  const agent = new Agent({ keepAlive: true, maxSockets: 1, maxFreeSockets: 1 });
  if (way.kind === 'open') {
    agent.createConnection = () => way.socket;
    // Whatever a response in flight still has to say is said by then, as its socket closes after its last byte.
    way.socket.once('close', () => client.end());
    client.once('close', () => way.socket.destroy());
  }
  const server = createServer({
    insecureHTTPParser: false,
    maxHeaderSize: HEAD_BYTES_MAX,
    // The judge tells the client what is wrong with its host.
    requireHostHeader: false,
    keepAliveTimeout: IDLE_MS,
    shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === 'websocket',
  });
  server.timeout = IDLE_MS;
  // Headers that are dropped here could still decide how the parser frames the body; the head is bounded anyway.
  server.maxHeadersCount = 0;

  function handle(incoming: IncomingMessage, response: ServerResponse): void {
    open += 1;
    response.once('close', () => {
      open -= 1;
    });
    if (open > REQUESTS_OPEN_MAX) {
      inspection.refused({
        rule: 'check.size',
        explanation: `more than ${REQUESTS_OPEN_MAX} requests wait`,
        line: null,
      });
      client.destroy();
      return;
    }
    response.sendDate = false;
    const judged = judgeIncoming(incoming, inspection);
    if (judged.kind === 'refuse') {
      const body = inspection.refused({ rule: 'check.request', ...judged });
      respond(response, { status: 403, body, close: bodyIsLong(incoming) });
      return;
    }
    if (way.kind === 'none') {
      respond(response, { status: 502, body: inspection.failed(way.explanation), close: true });
      return;
    }
    forward({ incoming, response, client, agent, inspection, judged });
  }

  server.on('request', handle);
  // The answer to `Expect: 100-continue` comes from the name, not from here.
  server.on('checkContinue', handle);
  server.on('connect', (incoming: IncomingMessage, socket: Duplex) => {
    const explanation = 'CONNECT is never passed on';
    const body = inspection.refused({ rule: 'check.request', explanation, line: null });
    respond(detachedResponse(incoming, socket), { status: 403, body, close: true });
  });
  server.on('upgrade', (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    // Answers come in the order of their requests, and a tunnel has none.
    if (open > 0) return void socket.destroy();
    const response = detachedResponse(incoming, socket);
    const judged = judgeIncoming(incoming, inspection);
    if (judged.kind === 'refuse') {
      const body = inspection.refused({ rule: 'check.request', ...judged });
      return respond(response, { status: 403, body, close: true });
    }
    if (way.kind === 'none') {
      return respond(response, { status: 502, body: inspection.failed(way.explanation), close: true });
    }
    return tunnel({ incoming, response, client, agent, inspection, judged }, { socket, head });
  });
  server.on('clientError', (error: Error & { readonly code?: string; readonly reason?: string }, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy();
    const large = error.code === 'HPE_HEADER_OVERFLOW';
    const explanation = large
      ? `the head of the request is larger than ${HEAD_BYTES_MAX} bytes`
      : `the request is no proper HTTP/1.1: ${error.reason ?? messageOf(error)}`;
    const body = inspection.refused({ rule: large ? 'check.size' : 'check.protocol', explanation, line: null });
    // In the middle of a response there is no place for another.
    if (open > 0) return void socket.destroy();
    const head = [`HTTP/1.1 ${large ? 431 : 400} Refused`, `Content-Type: ${PROBLEM_TYPE}`, 'Connection: close'];
    socket.end(`${head.join('\r\n')}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
    return undefined;
  });
  server.emit('connection', client);
  // A plain socket comes paused, with the first bytes put back into it.
  client.resume();
}

function judgeIncoming(incoming: IncomingMessage, inspection: Inspection): Judgement {
  const header = (name: string): readonly string[] => valuesOf(incoming.rawHeaders, name);
  const { method = '', url: target = '' } = incoming;
  const [coding, ...more] = header('transfer-encoding');
  if (more.length > 0 || (coding !== undefined && coding.toLowerCase() !== 'chunked')) {
    return { kind: 'refuse', explanation: 'the transfer encoding is not chunked', line: null };
  }
  return judgeRequest(inspection, { method, target, hosts: header('host'), header });
}

type Exchange = {
  readonly incoming: IncomingMessage;
  readonly response: ServerResponse;
  readonly client: Socket;
  readonly agent: Agent;
  readonly inspection: Inspection;
  readonly judged: Judgement & { readonly kind: 'pass' };
};

function forward(exchange: Exchange): void {
  const { incoming, response, client, inspection } = exchange;
  const framing = framingOf(incoming);
  const outgoing = begin(exchange, forwardedRequest(incoming.rawHeaders, hostOf(inspection), framing));
  if (outgoing === null) return;
  outgoing.on('continue', () => response.writeContinue());
  outgoing.on('response', (answer) => relay(answer, response, client));
  outgoing.on('error', (error) => failExchange(exchange, error));
  if (framing === 'none') {
    // A body that nobody announced is none, whatever follows.
    incoming.resume();
    outgoing.end();
    return;
  }
  incoming.pipe(outgoing, { end: false });
  incoming.once('end', () => {
    orDestroy(client, () => {
      if (framing === 'chunked' && incoming.rawTrailers.length > 0) outgoing.addTrailers(pairsOf(incoming.rawTrailers));
      outgoing.end();
    });
  });
  incoming.once('close', () => {
    if (!incoming.complete) outgoing.destroy();
  });
}

function framingOf(incoming: IncomingMessage): Framing {
  if (valuesOf(incoming.rawHeaders, 'transfer-encoding').length > 0) return 'chunked';
  return valuesOf(incoming.rawHeaders, 'content-length').length > 0 ? 'length' : 'none';
}

function begin({ incoming, agent, judged, response, inspection }: Exchange, headers: string[]): ClientRequest | null {
  try {
    return request({
      agent,
      method: incoming.method ?? 'GET',
      path: judged.target,
      headers,
      insecureHTTPParser: false,
      maxHeaderSize: HEAD_BYTES_MAX,
    });
  } catch (error) {
    // A header or a path that this side may not write: the parser is more lenient than the writer.
    const explanation = `the request cannot be written again: ${messageOf(error)}`;
    const body = inspection.refused({ rule: 'check.protocol', explanation, line: null });
    respond(response, { status: 403, body, close: true });
    return null;
  }
}

function relay(answer: IncomingMessage, response: ServerResponse, client: Socket): void {
  const close = answer.headers.connection?.toLowerCase() === 'close';
  const headers = forwardedResponse(answer.rawHeaders, { close });
  orDestroy(client, () => {
    response.writeHead(answer.statusCode ?? 502, answer.statusMessage, headers);
    // What the name says first reaches the agent before it says the rest.
    response.flushHeaders();
  });
  answer.pipe(response, { end: false });
  answer.once('end', () => {
    orDestroy(client, () => {
      if (answer.rawTrailers.length > 0) response.addTrailers(pairsOf(answer.rawTrailers));
      response.end();
    });
  });
  answer.once('close', () => {
    // Half a response must not look like a whole one.
    if (!answer.complete) client.destroy();
  });
  response.once('close', () => {
    if (!answer.complete) answer.destroy();
  });
}

/** The writers of Node.js refuse what its parsers let through; that ends one connection, and not the process. */
function orDestroy(client: Socket, write: () => void): void {
  try {
    write();
  } catch {
    client.destroy();
  }
}

function tunnel(exchange: Exchange, { socket, head }: { readonly socket: Duplex; readonly head: Buffer }): void {
  const { incoming, response, client, inspection } = exchange;
  const outgoing = begin(exchange, upgradeRequest(incoming.rawHeaders, hostOf(inspection)));
  if (outgoing === null) return;
  outgoing.on('response', (answer) => relay(answer, response, client));
  outgoing.on('error', (error) => failExchange(exchange, error));
  outgoing.on('upgrade', (answer, upstream, first) => {
    if (answer.headers.upgrade?.toLowerCase() !== 'websocket') {
      upstream.destroy();
      return;
    }
    response.detachSocket(client);
    const lines = ['HTTP/1.1 101 Switching Protocols'];
    for (const [name, value] of pairsOf(answer.rawHeaders)) lines.push(`${name}: ${value}`);
    socket.write(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
    if (first.length > 0) socket.write(first);
    if (head.length > 0) upstream.write(head);
    client.setTimeout(IDLE_MS, () => client.destroy());
    socket.pipe(upstream);
    upstream.pipe(socket);
  });
  outgoing.end();
}

/** After an upgrade or a CONNECT the server has let go of the socket; this says one thing on it and ends it. */
function detachedResponse(incoming: IncomingMessage, socket: Duplex): ServerResponse {
  const response = new ServerResponse(incoming);
  response.sendDate = false;
  response.shouldKeepAlive = false;
  response.assignSocket(socket as Socket);
  response.once('finish', () => socket.end());
  return response;
}

type Told = { readonly status: 403 | 502; readonly body: string; readonly close: boolean };

function respond(response: ServerResponse, { status, body, close }: Told): void {
  const headers = ['Content-Type', PROBLEM_TYPE, 'Content-Length', String(Buffer.byteLength(body))];
  headers.push('Cache-Control', 'no-store', ...(close ? ['Connection', 'close'] : []));
  response.writeHead(status, headers);
  response.end(body);
}

function bodyIsLong(incoming: IncomingMessage): boolean {
  if (framingOf(incoming) === 'chunked') return true;
  return Number(incoming.headers['content-length'] ?? 0) > REFUSED_BODY_BYTES_MAX;
}

function failExchange({ response, client, inspection }: Exchange, error: Error): void {
  if (response.headersSent || client.destroyed) return void client.destroy();
  const explanation = `${inspection.name}:${inspection.port} broke off: ${messageOf(error)}`;
  respond(response, { status: 502, body: inspection.failed(explanation), close: true });
  return undefined;
}

function hostOf({ name, port, scheme }: Inspection): string {
  return port === (scheme === 'https' ? 443 : 80) ? name : `${name}:${port}`;
}
