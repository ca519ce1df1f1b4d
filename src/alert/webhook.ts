import { lookup as lookupName } from 'node:dns/promises';
import type { ClientRequest, IncomingMessage, RequestOptions } from 'node:http';
import { Agent as HttpAgent, request as httpRequest } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { isIP } from 'node:net';
import { fail, messageOf } from '../core/errors.ts';
import type { WebhookSink } from '../core/ports/alert.ts';
import { printable } from '../core/text.ts';
import { addressClass } from './address.ts';
import { parseKey, signatures } from './signature.ts';

/** From the first packet to the last byte that is read; Standard Webhooks asks for 15 to 30 s. */
const ATTEMPT_MS_MAX = 15_000;
const RESOLVE_MS_MAX = 5_000;
/** What is read of an answer; only its status counts, the rest helps a person to see what is wrong. */
const ANSWER_BYTES_MAX = 4_096;
const ADDRESSES_MAX = 8;

export type Address = { readonly address: string; readonly family: 4 | 6 };

export type WebhookOptions = {
  readonly nowMs: () => number;
  /** All addresses of a name, as the host resolves it. */
  readonly resolve?: (hostname: string) => Promise<readonly Address[]>;
  /** PEM certificates to trust instead of those of the host, for a sink with an authority of its own. */
  readonly ca?: string;
  readonly attemptMsMax?: number;
};

export type WebhookMessage = { readonly id: string; readonly body: string };

/** `gone`: the receiver says that it wants nothing more (410). */
export type Delivery =
  | { readonly kind: 'delivered'; readonly status: number }
  | { readonly kind: 'gone'; readonly message: string }
  | { readonly kind: 'failed'; readonly message: string; readonly retryAfterMs: number | null };

export type Webhook = { send(message: WebhookMessage, signal: AbortSignal): Promise<Delivery> };

/**
 * A sink that speaks Standard Webhooks 1.0. Throws CONFIG_INVALID for a sink that can never work. `send` resolves
 * whatever happens. The name is resolved once an attempt, every address is checked, and the connection goes to one of
 * exactly those, under the original name; no redirect, no proxy and no kept connection is used.
 */
export function openWebhook(sink: WebhookSink, options: WebhookOptions): Webhook {
  const url = checkUrl(sink);
  const keys = sink.keys.map(parseKey);
  if (keys.length === 0) throw fail('CONFIG_INVALID', { detail: `the sink ${url.origin} has no key to sign with` });
  const resolve = options.resolve ?? resolveOnHost;
  return {
    async send(message, signal) {
      const deadline = AbortSignal.timeout(options.attemptMsMax ?? ATTEMPT_MS_MAX);
      try {
        const addresses = await permitted(url, sink, resolve);
        const timestamp = Math.floor(options.nowMs() / 1000);
        const headers = {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(message.body),
          'user-agent': 'ringfence',
          'webhook-id': message.id,
          'webhook-timestamp': String(timestamp),
          'webhook-signature': signatures(keys, { ...message, timestamp }),
        };
        const request = { url, addresses, headers, ca: options.ca };
        const answer = await post(request, message.body, AbortSignal.any([deadline, signal]));
        return judge(answer, options.nowMs());
      } catch (error) {
        const why = deadline.aborted ? 'no answer in time' : messageOf(error);
        return { kind: 'failed', message: printable(why), retryAfterMs: null };
      }
    },
  };
}

function checkUrl(sink: WebhookSink): URL {
  const url = URL.canParse(sink.url) ? new URL(sink.url) : null;
  if (url === null) throw fail('CONFIG_INVALID', { detail: 'the url of a webhook sink is not a URL' });
  if (url.username !== '' || url.password !== '' || url.hash !== '') {
    const detail = `the url of the sink ${url.origin} must have no user, password or fragment`;
    throw fail('CONFIG_INVALID', { detail });
  }
  if (url.protocol === 'https:' || (url.protocol === 'http:' && sink.allowPrivate)) return url;
  const detail = `the sink ${url.origin} must use https; http is for private addresses, with \`allowPrivate: true\``;
  throw fail('CONFIG_INVALID', { detail });
}

async function permitted(
  url: URL,
  sink: WebhookSink,
  resolve: (hostname: string) => Promise<readonly Address[]>,
): Promise<readonly Address[]> {
  const hostname = url.hostname.replace(/^\[|\]$/g, '');
  const family = isIP(hostname);
  const addresses = family === 0 ? await resolve(hostname) : [{ address: hostname, family: family as 4 | 6 }];
  if (addresses.length === 0) throw new Error(`${hostname} has no address`);
  // One bad address spoils the name: a name that leads to both is a mistake or an attack.
  for (const { address } of addresses) {
    const refusal = refusalOf(address, url, sink);
    if (refusal !== null) throw new Error(`${hostname} is at ${address}, ${refusal}`);
  }
  return addresses.slice(0, ADDRESSES_MAX);
}

function refusalOf(address: string, url: URL, sink: WebhookSink): string | null {
  const where = addressClass(address);
  if (where === 'never') return 'where no sink may be';
  if (where === 'local' && !sink.allowPrivate) return 'a private address, and the sink has no `allowPrivate: true`';
  if (where === 'public' && url.protocol === 'http:') return 'a public address, where only https may be used';
  return null;
}

async function resolveOnHost(hostname: string): Promise<readonly Address[]> {
  const timeout = AbortSignal.timeout(RESOLVE_MS_MAX);
  const late = new Promise<never>((_, reject) => {
    timeout.addEventListener('abort', () => reject(new Error(`${hostname} could not be resolved in time`)));
  });
  const found = await Promise.race([lookupName(hostname, { all: true }), late]);
  return found.map(({ address, family }) => ({ address, family: family === 6 ? 6 : 4 }));
}

type PostRequest = {
  readonly url: URL;
  readonly addresses: readonly Address[];
  readonly headers: Readonly<Record<string, string | number>>;
  readonly ca: string | undefined;
};

type Answer = {
  readonly status: number;
  readonly location: string | null;
  readonly retryAfter: string | null;
  readonly text: string;
};

function post(request: PostRequest, body: string, signal: AbortSignal): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const { url, addresses, headers, ca } = request;
  const secure = url.protocol === 'https:';
  const options: RequestOptions & { ca?: string; rejectUnauthorized: boolean } = {
    method: 'POST',
    headers,
    signal,
    // An agent of its own keeps no connection and reads no proxy from the environment.
    agent: secure ? new HttpsAgent({ keepAlive: false }) : new HttpAgent({ keepAlive: false }),
    lookup: (_hostname, lookupOptions, callback) => {
      if (lookupOptions.all === true) callback(null, [...addresses]);
      else callback(null, addresses[0]?.address ?? '', addresses[0]?.family ?? 4);
    },
    rejectUnauthorized: true,
    ...(ca === undefined ? {} : { ca }),
  };
  const outgoing: ClientRequest = secure ? httpsRequest(url, options) : httpRequest(url, options);
  let answered = false;
  // Once there is a status, an error ends the reading of the body only.
  outgoing.on('error', (error) => {
    if (!answered) reject(error);
  });
  outgoing.on('response', (response) => {
    answered = true;
    readAnswer(response).then((answer) => {
      // The rest of an answer, however long, is not waited for.
      outgoing.destroy();
      resolve(answer);
    }, reject);
  });
  outgoing.end(body);
  return promise;
}

/** The status is known before the body: a body that is cut, slow or endless changes nothing about it. */
async function readAnswer(response: IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      chunks.push(chunk.subarray(0, ANSWER_BYTES_MAX - bytes));
      bytes += chunk.length;
      if (bytes >= ANSWER_BYTES_MAX) break;
    }
  } catch {
    // The answer counts as far as it came.
  }
  return {
    status: response.statusCode ?? 0,
    location: response.headers.location ?? null,
    retryAfter: response.headers['retry-after'] ?? null,
    text: Buffer.concat(chunks).toString('utf8'),
  };
}

function judge(answer: Answer, nowMs: number): Delivery {
  const { status } = answer;
  if (status >= 200 && status < 300) return { kind: 'delivered', status };
  const said = printable(answer.text.trim(), 160);
  const message = `answered ${status}${said === '' ? '' : `: ${said}`}`;
  if (status === 410) return { kind: 'gone', message };
  if (status >= 300 && status < 400) {
    const target = answer.location === null ? '' : ` to ${printable(answer.location, 160)}`;
    return { kind: 'failed', message: `answered ${status}: a redirect${target} is not followed`, retryAfterMs: null };
  }
  return { kind: 'failed', message, retryAfterMs: retryAfterMs(answer.retryAfter, nowMs) };
}

/** Seconds or a date (RFC 9110, 10.2.3). */
function retryAfterMs(header: string | null, nowMs: number): number | null {
  if (header === null) return null;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - nowMs);
}
