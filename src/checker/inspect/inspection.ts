import type { CheckRule } from '../messages.ts';
import { responseOf } from '../refusal.ts';
import type { JudgedBy } from './judge.ts';
import type { InspectedConnection } from './port.ts';

/** One inspected connection, as the versions of HTTP see it. */
export type Inspection = JudgedBy & {
  readonly scheme: 'https' | 'http';
  /** Records a denial and gives the body that tells the client. */
  readonly refused: (refusal: Refused) => string;
  /** The body for a name that could not be reached; no denial, as no rule decided. */
  readonly failed: (explanation: string) => string;
};

export type Refused = { readonly rule: CheckRule; readonly explanation: string; readonly line: string | null };

/** The way on, or why there is none: then every request is told so. */
export type Way<Socket> =
  | { readonly kind: 'open'; readonly socket: Socket }
  | { readonly kind: 'none'; readonly explanation: string };

export const IDLE_MS = 600_000;
export const HEAD_BYTES_MAX = 32 * 1024;
/** Of one connection at a time: streams of HTTP/2, pipelined requests of HTTP/1.1. */
export const REQUESTS_OPEN_MAX = 100;
export const PROBLEM_TYPE = 'application/problem+json';

export function inspectionOf(connection: InspectedConnection): Inspection {
  const { source, name, port, requests, protocol } = connection;
  const told = { source, destination: name, port };
  return {
    name,
    port,
    requests,
    scheme: protocol === 'tls' ? 'https' : 'http',
    refused: ({ rule, explanation, line }) => {
      connection.deny(rule, explanation);
      return bodyOf(responseOf(403, { ...told, rule, explanation, line }, { head: false }));
    },
    failed: (explanation) => {
      return bodyOf(responseOf(502, { ...told, rule: 'check.upstream', explanation, line: null }, { head: false }));
    },
  };
}

// The words of a refusal are the same whether a connection is inspected or not; the head is that of each version.
function bodyOf(response: Buffer): string {
  return response.toString('utf8', response.indexOf('\r\n\r\n') + 4);
}
