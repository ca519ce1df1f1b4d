import {
  connect,
  constants,
  performServerHandshake,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { messageOf } from '../../core/errors.ts';
import { valuesOf } from './http1-headers.ts';
import { HEAD_BYTES_MAX, IDLE_MS, PROBLEM_TYPE, REQUESTS_OPEN_MAX, type Inspection, type Way } from './inspection.ts';
import { judgeRequest, type Judgement } from './judge.ts';

/**
 * HTTP/2 between a client and an inspected name: a session on each side, and for each request a stream on each side.
 * Header blocks are decoded and encoded anew. No push, and no CONNECT in any form.
 */
const STREAM_WINDOW_BYTES = 1024 * 1024;
const SESSION_MEMORY_MEBIBYTES = 16;
const SETTINGS = {
  enablePush: false,
  enableConnectProtocol: false,
  initialWindowSize: STREAM_WINDOW_BYTES,
  maxConcurrentStreams: REQUESTS_OPEN_MAX,
  maxHeaderListSize: HEAD_BYTES_MAX,
};
const CONNECTION_HEADERS = new Set([
  'alt-svc',
  'connection',
  'host',
  'http2-settings',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
]);

export function serveHttp2(client: Socket, way: Way<Socket>, inspection: Inspection): void {
  const session = performServerHandshake(client, { settings: SETTINGS, maxSessionMemory: SESSION_MEMORY_MEBIBYTES });
  const origin = way.kind === 'open' ? connectOver(way.socket, inspection) : null;
  if (origin !== null) joinSessions(session, origin);
  session.setTimeout(IDLE_MS, () => session.destroy());
  session.on('error', () => client.destroy());
  session.on('close', () => client.end());
  session.on('stream', (stream, headers, flags, rawHeaders) => {
    // A stream that fails takes nothing with it but its other half.
    stream.on('error', () => undefined);
    const judged = judgeStream(headers, rawHeaders, inspection);
    if (judged.kind === 'refuse') {
      const body = inspection.refused({ rule: 'check.request', ...judged });
      return respond(stream, { status: 403, body });
    }
    if (origin === null || way.kind === 'none') {
      const explanation = way.kind === 'none' ? way.explanation : 'not reachable';
      return respond(stream, { status: 502, body: inspection.failed(explanation) });
    }
    const endStream = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    return forward({ stream, origin, inspection }, { headers: requestHeaders(headers, judged, inspection), endStream });
  });
}

function connectOver(socket: Socket, { name, port }: Inspection): ClientHttp2Session {
  return connect(`https://${name}:${port}`, {
    createConnection: () => socket,
    settings: { enablePush: false, initialWindowSize: STREAM_WINDOW_BYTES, maxHeaderListSize: HEAD_BYTES_MAX },
    maxSessionMemory: SESSION_MEMORY_MEBIBYTES,
  });
}

/** What ends the one ends the other, after the streams that are open. */
function joinSessions(session: ServerHttp2Session, origin: ClientHttp2Session): void {
  origin.on('error', () => session.close());
  origin.on('goaway', () => session.close());
  origin.on('close', () => session.close());
  session.on('close', () => origin.destroy());
}

function judgeStream(headers: IncomingHttpHeaders, rawHeaders: readonly string[], inspection: Inspection): Judgement {
  const header = (name: string): readonly string[] => valuesOf(rawHeaders, name);
  return judgeRequest(inspection, {
    method: headers[':method'] ?? '',
    target: headers[':path'] ?? '',
    hosts: [...header(':authority'), ...header('host')],
    header,
  });
}

function requestHeaders(
  headers: IncomingHttpHeaders,
  judged: Judgement & { readonly kind: 'pass' },
  { name, port }: Inspection,
): OutgoingHttpHeaders {
  return {
    ':method': String(headers[':method']),
    ':path': judged.target,
    ':scheme': 'https',
    ':authority': port === 443 ? name : `${name}:${port}`,
    ...endToEnd(headers),
  };
}

function endToEnd(headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  const kept: OutgoingHttpHeaders = {};
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith(':') || CONNECTION_HEADERS.has(name)) continue;
    if (name === 'te' && value !== 'trailers') continue;
    kept[name] = value;
  }
  return kept;
}

type Exchange = {
  readonly stream: ServerHttp2Stream;
  readonly origin: ClientHttp2Session;
  readonly inspection: Inspection;
};
type Outgoing = { readonly headers: OutgoingHttpHeaders; readonly endStream: boolean };

function forward({ stream, origin, inspection }: Exchange, { headers, endStream }: Outgoing): void {
  let outgoing: ClientHttp2Stream;
  try {
    outgoing = origin.request(headers, { endStream, waitForTrailers: !endStream });
  } catch (error) {
    // The session is going away, or a header cannot be written again.
    const explanation = `${inspection.name}:${inspection.port} takes no more requests: ${messageOf(error)}`;
    respond(stream, { status: 502, body: inspection.failed(explanation) });
    return;
  }
  if (!endStream) passBody(stream, outgoing);
  outgoing.on('continue', () => {
    orReset(stream, () => {
      if (!stream.headersSent && !stream.destroyed) stream.additionalHeaders({ ':status': 100 });
    });
  });
  outgoing.on('response', (answer, flags) => {
    if (stream.destroyed || stream.headersSent) return;
    const ends = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    const status = answer[':status'] ?? 502;
    orReset(stream, () => {
      stream.respond({ ':status': status, ...endToEnd(answer) }, { endStream: ends, waitForTrailers: !ends });
    });
    if (ends) outgoing.resume();
    else passBody(outgoing, stream);
  });
  const broken = (why: string): void => {
    if (stream.destroyed) return;
    // CANCEL is what a client says; from a server many take it for an end.
    const own = outgoing.rstCode === constants.NGHTTP2_NO_ERROR || outgoing.rstCode === constants.NGHTTP2_CANCEL;
    if (stream.headersSent) return stream.close(own ? constants.NGHTTP2_INTERNAL_ERROR : outgoing.rstCode);
    const explanation = `${inspection.name}:${inspection.port} broke off: ${why}`;
    respond(stream, { status: 502, body: inspection.failed(explanation) });
  };
  outgoing.on('error', (error) => broken(messageOf(error)));
  outgoing.on('close', () => {
    // Half a response must not look like a whole one, nor wait for its end.
    if (!outgoing.readableEnded || outgoing.rstCode !== constants.NGHTTP2_NO_ERROR) broken('without an end');
  });
  stream.on('close', () => {
    if (!outgoing.closed) outgoing.close(stream.rstCode === 0 ? constants.NGHTTP2_CANCEL : stream.rstCode);
  });
}

type Half = ServerHttp2Stream | ClientHttp2Stream;

/** The writers of Node.js refuse what its parsers let through; that ends one stream, and not the process. */
function orReset(stream: Half, write: () => void): void {
  try {
    write();
  } catch {
    stream.close(constants.NGHTTP2_INTERNAL_ERROR);
  }
}

/** Body and trailers of one direction. */
function passBody(from: Half, to: Half): void {
  let trailers: IncomingHttpHeaders = {};
  from.on('trailers', (received: IncomingHttpHeaders) => {
    trailers = received;
  });
  to.on('wantTrailers', () => orReset(to, () => to.sendTrailers(endToEnd(trailers))));
  from.pipe(to, { end: false });
  from.once('end', () => {
    // The end of the data may be told a turn before the trailers are; and a reset is told as an end, too.
    setImmediate(() => {
      if (from.rstCode === constants.NGHTTP2_NO_ERROR) to.end();
    });
  });
}

function respond(
  stream: ServerHttp2Stream,
  { status, body }: { readonly status: number; readonly body: string },
): void {
  if (stream.destroyed || stream.headersSent) return;
  stream.respond({
    ':status': status,
    'content-type': PROBLEM_TYPE,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
  });
  stream.end(body);
  // What the client goes on sending is not wanted; NO_ERROR says that the answer counts all the same (RFC 9113, 8.1).
  stream.once('finish', () => stream.close(constants.NGHTTP2_NO_ERROR));
}
