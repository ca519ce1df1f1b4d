import { refuseHttp } from './connection.ts';
import type { Connection } from './connection.ts';
import type { Refusal } from './hello.ts';
import type { Inspector } from './inspect/port.ts';
import type { Prelude } from './prelude.ts';
import { HEAD_MS, portRefusal, relay, SLOW } from './relay.ts';
import { createHeadReader } from './request.ts';
import type { RequestHead } from './request.ts';
import { connectApproved } from './upstream.ts';

/**
 * An HTTP/1 connection: its first request decides where it leads. Bytes go upstream only after they were judged, and
 * bodies pass without being kept.
 *
 *   head ──► asked ──► connecting ──► relayed (relay.ts) ──► closed
 *     └────────┴────────────┴── 403 or 502, or nothing to a client that speaks no HTTP
 */
type FirstHead = { readonly kind: 'head'; readonly head: RequestHead; readonly bytes: number };

export async function serveHttp(connection: Connection, prelude: Prelude, inspector: Inspector): Promise<void> {
  const first = await readFirst(connection, prelude);
  if (first === null) return connection.close();
  if (first.kind === 'refuse') {
    connection.deny(first.rule, first.explanation);
    prelude.take();
    if (!first.answerable) return connection.close();
    return refuseHttp(connection, { status: 403, ...first, line: null, head: false });
  }
  const { head } = first;
  const isHead = head.method === 'HEAD';
  const wrongPort = portRefusal(head, connection);
  if (wrongPort !== null) {
    connection.deny(wrongPort.rule, wrongPort.explanation, head.name);
    prelude.take();
    return refuseHttp(connection, { status: 403, ...wrongPort, line: null, destination: head.name, head: isHead });
  }
  const verdict = await connection.ask(head.name, 'http');
  if (connection.signal.aborted) return;
  const { port } = connection.destination;
  if (verdict.kind === 'refuse') {
    prelude.take();
    const status = verdict.rule === 'check.upstream' ? 502 : 403;
    return refuseHttp(connection, { ...verdict, status, head: isHead });
  }
  if (verdict.inspect) {
    connection.pass(null);
    const { source, client, deny, count } = connection;
    const { name, addresses, requests } = verdict;
    const bytes = prelude.take();
    await inspector.inspect({
      source,
      client,
      head: bytes,
      name,
      port,
      protocol: 'http',
      addresses,
      requests,
      deny,
      count,
    });
    return connection.close();
  }
  const upstream = await connectApproved({ addresses: verdict.addresses, port }, connection.signal);
  const received = prelude.take();
  if (upstream === null) {
    if (connection.signal.aborted) return;
    const explanation = 'none of its approved addresses accepted a connection';
    return refuseHttp(connection, { status: 502, rule: 'check.upstream', explanation, line: null, head: isHead });
  }
  connection.pass(upstream);
  relay({ connection, upstream, first: head, rest: received.subarray(first.bytes) });
}

/** The first head, why there is none, or null when the client is gone or never said anything. */
async function readFirst(
  connection: Connection,
  prelude: Prelude,
): Promise<FirstHead | (Refusal & { readonly answerable: boolean }) | null> {
  const reader = createHeadReader();
  let before = 0;
  return await new Promise((resolve) => {
    const settle = (result: FirstHead | (Refusal & { readonly answerable: boolean }) | null): void => {
      clearTimeout(timer);
      prelude.onData(null);
      prelude.onEnd(null);
      resolve(result);
    };
    const unfinished = (refusal: Omit<Refusal, 'kind'>): void =>
      settle(prelude.firstByte() === null ? null : { kind: 'refuse', ...refusal, answerable: true });
    const timer = setTimeout(() => unfinished(SLOW), HEAD_MS);
    connection.signal.addEventListener('abort', () => settle(null), { once: true });
    prelude.onData((chunk) => {
      const result = reader.feed(chunk);
      if (result.kind === 'head') settle({ kind: 'head', head: result.head, bytes: before + result.taken });
      else if (result.kind === 'refuse') settle(result);
      before += chunk.length;
    });
    prelude.onEnd(() =>
      unfinished({ rule: 'check.request', explanation: 'the connection ended before the head of the request did' }),
    );
  });
}
