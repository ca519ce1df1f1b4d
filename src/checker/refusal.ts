import { printable } from '../core/text.ts';
import type { CheckRule } from './messages.ts';

/** What a client reads when it is refused, in the protocol that it speaks. */
export type SpokenRefusal = {
  readonly source: string;
  /** A name, or an address when no name was shown. */
  readonly destination: string;
  readonly port: number;
  readonly rule: CheckRule;
  readonly explanation: string;
  /** What in the profile would have let it pass, or null when nothing would. */
  readonly line: string | null;
};

const ALERT_FATAL = 2;
export const ALERT_ACCESS_DENIED = 49;
export const ALERT_INTERNAL_ERROR = 80;

/**
 * A fatal alert as one TLS record. Refusals are always `access_denied`: clients print that in so many words, while
 * `unrecognized_name` reads like a mistake of the server.
 */
export function alertOf(description: number): Buffer {
  return Buffer.from([21, 3, 3, 0, 2, ALERT_FATAL, description]);
}

/** A whole response, 403 or 502. Its JSON (RFC 9457) begins with the sentence, for people who see it in a terminal. */
export function responseOf(status: 403 | 502, refusal: SpokenRefusal, options: { readonly head: boolean }): Buffer {
  const destination = `${printable(refusal.destination)}:${refusal.port}`;
  const explanation = printable(refusal.explanation, 1_024);
  const problem = {
    detail:
      status === 403
        ? `Ringfence refused this request to ${destination}: ${explanation}.`
        : `Ringfence could not reach ${destination}: ${explanation}.`,
    title: status === 403 ? 'Refused by the egress rules of this agent' : 'Not reachable',
    status,
    type: 'about:blank',
    agent: refusal.source,
    destination,
    rule: refusal.rule,
    line: refusal.line,
  };
  const body = `${JSON.stringify(problem, null, 2)}\n`;
  const head = [
    `HTTP/1.1 ${status} ${status === 403 ? 'Forbidden' : 'Bad Gateway'}`,
    'Content-Type: application/problem+json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Cache-Control: no-store',
    'Connection: close',
  ];
  return Buffer.from(`${head.join('\r\n')}\r\n\r\n${options.head ? '' : body}`);
}
