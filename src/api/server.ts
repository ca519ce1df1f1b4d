import { createServer, STATUS_CODES, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import { assertNever } from '../core/assert.ts';
import { ERRORS, RingfenceError, fail } from '../core/errors.ts';
import { sendChunk, serveAttach } from './attach-server.ts';
import { LIMITS, connectionGuard, type ApiLimits, type ApiLog } from './connections.ts';
import { ATTACH_PROTOCOL, JSON_TYPE, METRICS_TYPE, OUTPUT_TYPE, RECORDS_TYPE } from './endpoints.ts';
import { FRAME, encodeJsonFrame } from './frames.ts';
import { answerRequest, type Answer } from './handlers.ts';
import { checkRequest } from './request.ts';
import type { Caller, Service } from './service.ts';
import { claimSocketPath, listenOnSocket } from './socket-file.ts';
import { endConnection, writeSlowly } from './stream.ts';
import { toWireError } from './wire-error.ts';

/**
 * The HTTP API on the unix socket. Whoever may open the socket is the caller, known by the credentials that the kernel
 * holds for the connection. Nothing a client does or leaves undone holds more than one connection, one request body of
 * 2 MiB and one window of output.
 */
export type ApiServerOptions = {
  readonly service: Service;
  readonly socketPath: string;
  /** Such as 0o660. */
  readonly socketMode: number;
  /** The group that may use the socket, or null for root's own. */
  readonly socketGroup: number | null;
  /** Credentials of the peer of a connected socket, by descriptor. */
  readonly peerOf: (fd: number) => Caller;
  readonly log: ApiLog;
  readonly limits?: Partial<ApiLimits>;
};

export type ApiServer = {
  /** Resolves when clients can connect. Throws DAEMON_ALREADY_RUNNING or CONFIG_INVALID. */
  listen(): Promise<void>;
  /** Tells waiting clients, lets answers finish for a moment, then closes every connection and removes the socket. */
  close(): Promise<void>;
};

const CLOSE_GRACE_MS = 2_000;
const CHECK_INTERVAL_MS = 500;

export function createApiServer(options: ApiServerOptions): ApiServer {
  const limits = { ...LIMITS, ...options.limits };
  const stopping = new AbortController();
  const sockets = new Set<Socket>();
  const callers = new WeakMap<Duplex, Caller>();
  const server = createServer(
    {
      maxHeaderSize: limits.headerBytesMax,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.idleTimeoutMs,
      connectionsCheckingInterval: Math.min(CHECK_INTERVAL_MS, limits.headersTimeoutMs),
      requireHostHeader: false,
    },
    (request, response) => {
      // Failures are answered inside.
      void serve({ request, response, options, signal: stopping.signal, caller: callers.get(request.socket) });
    },
  );
  server.maxHeadersCount = limits.headersMax;
  server.maxConnections = limits.connectionsMax;
  const admit = connectionGuard({ limits, callers, sockets, peerOf: options.peerOf, log: options.log });
  server.on('connection', admit);
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (head.length > 0) socket.unshift(head);
    void upgrade({ request, socket, options, signal: stopping.signal, caller: callers.get(socket) });
  });
  server.on('clientError', refuseGarbage);
  return {
    async listen() {
      await claimSocketPath(options.socketPath);
      await listenOnSocket(server, options);
    },
    close: () => close({ server, stopping, sockets }),
  };
}

async function serve(options: {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly options: ApiServerOptions;
  readonly signal: AbortSignal;
  readonly caller: Caller | undefined;
}): Promise<void> {
  const { request, response, caller } = options;
  const { service, log } = options.options;
  const left = new AbortController();
  response.once('close', () => left.abort());
  const signal = AbortSignal.any([left.signal, options.signal]);
  try {
    if (caller === undefined) throw fail('FORBIDDEN', { detail: 'the connection has no credentials' });
    const answer = await answerRequest(await checkRequest(request), { service, caller, signal });
    await send({ response, answer, stopping: options.signal });
  } catch (error) {
    if (left.signal.aborted) return;
    const shown = options.signal.aborted ? daemonStopping() : error;
    logFault(log, shown, request);
    sendError(response, shown, request.complete);
  }
}

async function send(options: {
  readonly response: ServerResponse;
  readonly answer: Answer;
  readonly stopping: AbortSignal;
}): Promise<void> {
  const { response, answer, stopping } = options;
  switch (answer.kind) {
    case 'json': {
      const bytes = Buffer.from(JSON.stringify(answer.value));
      response.writeHead(200, { 'content-type': JSON_TYPE, 'content-length': bytes.length });
      response.end(bytes);
      return;
    }
    case 'text': {
      const bytes = Buffer.from(answer.text);
      response.writeHead(200, { 'content-type': METRICS_TYPE, 'content-length': bytes.length });
      response.end(bytes);
      return;
    }
    case 'records':
      return await sendStream({
        response,
        stopping,
        type: RECORDS_TYPE,
        items: answer.records,
        sendItem: (record) => writeSlowly(response, `${JSON.stringify(record)}\n`),
        sendFault: (error) => writeSlowly(response, `${JSON.stringify({ error: toWireError(error) })}\n`),
      });
    case 'output':
      return await sendStream({
        response,
        stopping,
        type: OUTPUT_TYPE,
        items: answer.chunks,
        sendItem: (chunk) => sendChunk(response, chunk),
        sendFault: (error) => writeSlowly(response, encodeJsonFrame(FRAME.error, { error: toWireError(error) })),
      });
    default:
      return assertNever(answer);
  }
}

/** A failure before the first item still has a status of its own; a later one can only be the last item. */
async function sendStream<Item>(options: {
  readonly response: ServerResponse;
  readonly stopping: AbortSignal;
  readonly type: string;
  readonly items: AsyncIterable<Item>;
  readonly sendItem: (item: Item) => Promise<boolean>;
  readonly sendFault: (error: unknown) => Promise<boolean>;
}): Promise<void> {
  const { response, stopping, type, items, sendItem, sendFault } = options;
  const iterator = items[Symbol.asyncIterator]();
  let next = await iterator.next();
  response.writeHead(200, { 'content-type': type });
  response.flushHeaders();
  try {
    while (next.done !== true) {
      if (!(await sendItem(next.value))) {
        await iterator.return?.();
        return;
      }
      next = await iterator.next();
    }
    // A stream that ends because the daemon does must not look like one that is complete.
    if (stopping.aborted) throw daemonStopping();
  } catch (error) {
    if (response.destroyed) return;
    await sendFault(stopping.aborted ? daemonStopping() : error);
  }
  response.end();
}

async function upgrade(options: {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  readonly options: ApiServerOptions;
  readonly signal: AbortSignal;
  readonly caller: Caller | undefined;
}): Promise<void> {
  const { request, socket, caller, signal } = options;
  const { service, log } = options.options;
  try {
    if (caller === undefined) throw fail('FORBIDDEN', { detail: 'the connection has no credentials' });
    const checked = await checkRequest(request);
    if (checked.name !== 'attach' || request.headers.upgrade?.toLowerCase() !== ATTACH_PROTOCOL) {
      throw fail('REQUEST_INVALID', { detail: `only attach can be upgraded, and only to ${ATTACH_PROTOCOL}` });
    }
    const streams = await service.attach(checked.params.run, caller);
    socket.write(`HTTP/1.1 101 ${STATUS_CODES[101]}\r\nConnection: Upgrade\r\nUpgrade: ${ATTACH_PROTOCOL}\r\n\r\n`);
    await serveAttach({ socket, streams, signal, onError: (error) => logFault(log, error, request) });
  } catch (error) {
    logFault(log, error, request);
    endWithError(socket, error);
  }
}

function daemonStopping(): RingfenceError {
  return fail('DAEMON_NOT_RUNNING', { detail: 'the daemon is stopping' });
}

function logFault(log: ApiLog, error: unknown, request: IncomingMessage): void {
  if (error instanceof RingfenceError && error.code !== 'INTERNAL') return;
  log.error({ err: error, method: request.method, url: request.url?.slice(0, 200) }, 'request failed');
}

function sendError(response: ServerResponse, error: unknown, requestComplete: boolean): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const wire = toWireError(error);
  const bytes = Buffer.from(JSON.stringify({ error: wire }));
  response.writeHead(ERRORS[wire.code].httpStatus, {
    'content-type': JSON_TYPE,
    'content-length': bytes.length,
    // What is left of a body that was refused is not worth reading.
    ...(requestComplete ? {} : { connection: 'close' }),
  });
  response.end(bytes);
}

/** The same answer for a connection that has no response object: an upgrade, or bytes that are no HTTP. */
function endWithError(socket: Duplex, error: unknown): void {
  const wire = toWireError(error);
  const status = ERRORS[wire.code].httpStatus;
  const body = JSON.stringify({ error: wire });
  endConnection(
    socket,
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Error'}\r\nConnection: close\r\nContent-Type: ${JSON_TYPE}\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

function refuseGarbage(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const detail =
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? 'the request took too long to arrive'
      : error.code === 'HPE_HEADER_OVERFLOW'
        ? 'the headers of the request are too large'
        : 'the request is not HTTP';
  endWithError(socket, fail('REQUEST_INVALID', { detail }));
}

async function close(options: {
  readonly server: Server;
  readonly stopping: AbortController;
  readonly sockets: ReadonlySet<Socket>;
}): Promise<void> {
  const { server, stopping, sockets } = options;
  stopping.abort();
  if (!server.listening) return;
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  const grace = setTimeout(() => {
    for (const socket of sockets) socket.destroy();
  }, CLOSE_GRACE_MS);
  await closed;
  clearTimeout(grace);
}
