import { refuseTls } from './connection.ts';
import type { Connection } from './connection.ts';
import { createHelloReader } from './hello.ts';
import type { Refusal } from './hello.ts';
import type { Inspector } from './inspect/port.ts';
import type { Prelude } from './prelude.ts';
import { ALERT_ACCESS_DENIED, ALERT_INTERNAL_ERROR } from './refusal.ts';
import { splice } from './splice.ts';
import { connectApproved } from './upstream.ts';

/**
 * A TLS connection: the hello is read whole, its name is asked about, and only then the approved host is connected to
 * and gets the hello byte for byte.
 *
 *   hello ──► asked ──► connecting ──► joined ──► closed
 *     └─────────┴────────────┴── an alert, or nothing to a client that speaks no TLS
 */
export const HELLO_MS = 3_000;
export const TLS_HANDSHAKE = 22;

export async function serveTls(connection: Connection, prelude: Prelude, inspector: Inspector): Promise<void> {
  const read = await readName(connection, prelude);
  if (read === null) return connection.close();
  if (read.kind === 'refuse') {
    connection.deny(read.rule, read.explanation);
    // An alert means something only to a client that began like TLS.
    if (prelude.firstByte() !== TLS_HANDSHAKE) return connection.close();
    prelude.take();
    return refuseTls(connection, ALERT_ACCESS_DENIED);
  }
  // A client that gives up while a person decides must not be connected behind its back.
  prelude.onEnd(connection.close);
  const verdict = await connection.ask(read.name, 'tls');
  if (connection.signal.aborted) return;
  const { port } = connection.destination;
  if (verdict.kind === 'refuse') {
    prelude.take();
    return refuseTls(connection, verdict.rule === 'check.upstream' ? ALERT_INTERNAL_ERROR : ALERT_ACCESS_DENIED);
  }
  if (verdict.inspect) {
    connection.pass(null);
    const { source, client, deny, count } = connection;
    const { name, addresses, requests } = verdict;
    const head = prelude.take();
    await inspector.inspect({ source, client, head, name, port, protocol: 'tls', addresses, requests, deny, count });
    return connection.close();
  }
  const upstream = await connectApproved({ addresses: verdict.addresses, port }, connection.signal);
  if (upstream === null) {
    prelude.take();
    if (!connection.signal.aborted) refuseTls(connection, ALERT_INTERNAL_ERROR);
    return;
  }
  connection.pass(upstream);
  upstream.write(prelude.take());
  splice(connection.client, upstream);
}

type ShownName = { readonly kind: 'name'; readonly name: string };

/** The name of the hello, why there is none, or null when the client is gone or never said anything. */
async function readName(connection: Connection, prelude: Prelude): Promise<ShownName | Refusal | null> {
  const reader = createHelloReader();
  return await new Promise((resolve) => {
    const settle = (result: ShownName | Refusal | null): void => {
      clearTimeout(timer);
      prelude.onData(null);
      prelude.onEnd(null);
      resolve(result);
    };
    const unfinished = (refusal: Omit<Refusal, 'kind'>): void =>
      settle(prelude.firstByte() === null ? null : { kind: 'refuse', ...refusal });
    const timer = setTimeout(() => {
      unfinished({ rule: 'check.slow', explanation: `the ClientHello was not complete within ${HELLO_MS / 1000} s` });
    }, HELLO_MS);
    connection.signal.addEventListener('abort', () => settle(null), { once: true });
    prelude.onData((chunk) => {
      const result = reader.feed(chunk);
      if (result.kind === 'refuse') settle(result);
      else if (result.kind === 'hello') settle({ kind: 'name', name: result.name });
    });
    prelude.onEnd(() =>
      unfinished({ rule: 'check.protocol', explanation: 'the connection ended before the ClientHello was complete' }),
    );
  });
}
