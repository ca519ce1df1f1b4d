import type { Socket } from 'node:net';
import { alertOf, responseOf } from './refusal.ts';
import type { CheckRule, CheckVerdict } from './messages.ts';

/**
 * One connection of a run, from the moment it is accepted. The checker owns it; whoever reads its protocol works on
 * it; `close` ends both sides at once, whatever is going on.
 */
export type Connection = {
  readonly source: string;
  /** Where the agent thought it went. It is never connected to. */
  readonly destination: Destination;
  readonly client: Socket;
  /** Aborts when both sides are closed: by the gate, or because the client is gone. */
  readonly signal: AbortSignal;
  /** The name that was shown (canonical) once the gate has been asked about it, else the address. */
  readonly shown: () => string;
  /** Asks the gate. A gate that does not answer in time has refused. */
  readonly ask: (name: string, protocol: 'tls' | 'http') => Promise<CheckVerdict>;
  /** Reports a denial that the gate did not decide itself, about `destination` or else what was shown. */
  readonly deny: (rule: CheckRule, explanation: string, destination?: string) => void;
  /** The connection passes: through this socket, whose bytes are counted, or through an inspector that counts. */
  readonly pass: (upstream: Socket | null) => void;
  /** Lets go of the socket upstream, so that a refusal can be said to the client. */
  readonly leave: () => void;
  readonly count: (bytes: { readonly egress: number; readonly ingress: number }) => void;
  /** Ends both sides without another byte. */
  readonly close: () => void;
  /** Our own mistake, on one connection: it is closed, said, and the others go on. */
  readonly fail: (error: unknown) => void;
};

export type Destination = { readonly address: string; readonly port: number };

/** What an event of the connection calls. An error thrown in it ends this connection and not the process of all. */
export function guarded<Arguments extends readonly unknown[]>(
  connection: Connection,
  act: (...given: Arguments) => void,
): (...given: Arguments) => void {
  return (...given) => {
    try {
      act(...given);
    } catch (error) {
      connection.fail(error);
    }
  };
}

/** A last message is lost when bytes of the client are still unread at the end, so they are read and thrown away. */
const LINGER_MS = 1_000;
const UNREAD_MS = 60_000;

/**
 * Says a last thing to the client and ends the connection. Whoever read from the client has stopped. A client that
 * reads slowly gets all of it; one that reads nothing ends with the idle time.
 */
export function closeWith(connection: Connection, last: Buffer): void {
  const { client } = connection;
  let timer: NodeJS.Timeout | null = null;
  connection.signal.addEventListener('abort', () => clearTimeout(timer ?? undefined), { once: true });
  client.setTimeout(UNREAD_MS, connection.close);
  client.resume();
  client.end(last, () => {
    timer = setTimeout(connection.close, LINGER_MS);
  });
  if (client.readableEnded) client.destroySoon();
  else client.once('end', () => client.destroySoon());
}

export function refuseTls(connection: Connection, alert: number): void {
  closeWith(connection, alertOf(alert));
}

export function refuseHttp(
  connection: Connection,
  refusal: {
    readonly status: 403 | 502;
    readonly rule: CheckRule;
    readonly explanation: string;
    readonly line: string | null;
    /** When a later request showed another one than the connection. */
    readonly destination?: string;
    /** The request was a HEAD, whose answer has no body. */
    readonly head: boolean;
  },
): void {
  const { status, rule, explanation, line, head } = refusal;
  const { source, destination } = connection;
  const shown = refusal.destination ?? connection.shown();
  const spoken = { source, destination: shown, port: destination.port, rule, explanation, line };
  closeWith(connection, responseOf(status, spoken, { head }));
}
