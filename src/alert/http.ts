import { lookup as lookupName } from 'node:dns/promises';
import type { ClientRequest, IncomingMessage, RequestOptions } from 'node:http';
import { Agent as HttpAgent, request as httpRequest } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { isIP } from 'node:net';
import { fail, messageOf } from '../core/errors.ts';
import type { HttpSink } from '../core/ports/alert.ts';
import { printable } from '../core/text.ts';
import { addressClass } from './address.ts';
import type { Delivery } from './deliverer.ts';
import { failed } from './deliverer.ts';

/** From the first packet to the last byte that is read; Standard Webhooks asks for 15 to 30 s. */
const ATTEMPT_MS_MAX = 15_000;
const RESOLVE_MS_MAX = 5_000;
/** What is read of an answer; only its status counts, the rest helps a person to see what is wrong. */
const ANSWER_BYTES_MAX = 4_096;
const ADDRESSES_MAX = 8;
const HIDDEN = '***';

export type Address = { readonly address: string; readonly family: 4 | 6 };

export type HttpOptions = {
  readonly nowMs: () => number;
  /** All addresses of a name, as the host resolves it. */
  readonly resolve?: (hostname: string) => Promise<readonly Address[]>;
  readonly attemptMsMax?: number;
};

export type Post = { readonly body: string; readonly headers: Readonly<Record<string, string>> };

/** What an answer means; each kind of sink has its own table for the statuses that it documents. */
export type Judge = (answer: Answer) => Delivery | null;

export type Endpoint = { post(message: Post, judge: Judge, signal: AbortSignal): Promise<Delivery> };

export type EndpointOptions = HttpOptions & {
  /** Never shown, whatever the receiver answers. */
  readonly secrets: readonly string[];
};

/**
 * Where alerts are posted to. Throws CONFIG_INVALID for a URL that can never work. `post` resolves whatever happens. The
 * name is resolved once an attempt, every address is checked, and the connection goes to one of exactly those, under
 * the original name; no redirect, no proxy and no kept connection is used.
 */
export function openEndpoint(sink: HttpSink, options: EndpointOptions): Endpoint {
  const url = checkUrl(sink);
  const resolve = options.resolve ?? resolveOnHost;
  const hide = (message: string): string =>
    options.secrets.reduce((text, secret) => text.replaceAll(secret, HIDDEN), message);
  return {
    async post(message, judge, signal) {
      const deadline = AbortSignal.timeout(options.attemptMsMax ?? ATTEMPT_MS_MAX);
      try {
        const addresses = await permitted(url, sink, resolve);
        const headers = {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(message.body),
          'user-agent': 'ringfence',
          ...message.headers,
        };
        const request = { url, addresses, headers, ca: sink.ca };
        const raw = await post(request, message.body, AbortSignal.any([deadline, signal]));
        const answer = answerOf(raw, { nowMs: options.nowMs(), hide });
        return judge(answer) ?? usualDelivery(answer);
      } catch (error) {
        const why = deadline.aborted ? 'no answer in time' : reasonOf(error, url.hostname);
        return failed(printable(hide(why)));
      }
    },
  };
}

function checkUrl(sink: HttpSink): URL {
  const url = URL.canParse(sink.url) ? new URL(sink.url) : null;
  if (url === null) throw fail('CONFIG_INVALID', { detail: 'the url of a sink is not a URL' });
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
  sink: HttpSink,
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

function refusalOf(address: string, url: URL, sink: HttpSink): string | null {
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

type RawAnswer = {
  readonly status: number;
  readonly location: string | null;
  readonly retryAfter: string | null;
  readonly text: string;
};

function post(request: PostRequest, body: string, signal: AbortSignal): Promise<RawAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<RawAnswer>();
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
async function readAnswer(response: IncomingMessage): Promise<RawAnswer> {
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

export type Answer = {
  readonly status: number;
  /** `answered 400: what it said`, printable and without secrets. */
  readonly message: string;
  readonly retryAfterMs: number | null;
};

function answerOf(raw: RawAnswer, { nowMs, hide }: { nowMs: number; hide: (text: string) => string }): Answer {
  const { status } = raw;
  if (status >= 300 && status < 400) {
    const target = raw.location === null ? '' : ` to ${printable(hide(raw.location), 160)}`;
    return { status, message: `answered ${status}: a redirect${target} is not followed`, retryAfterMs: null };
  }
  const said = printable(hide(raw.text.trim()), 160);
  const message = `answered ${status}${said === '' ? '' : `: ${said}`}`;
  return { status, message, retryAfterMs: retryAfterMs(raw.retryAfter, nowMs) };
}

function usualDelivery({ status, message, retryAfterMs: pauseMs }: Answer): Delivery {
  if (status >= 200 && status < 300) return { kind: 'delivered', status };
  if (status === 410) return { kind: 'gone', message };
  return failed(message, pauseMs);
}

/** Seconds or a date (RFC 9110, 10.2.3). */
function retryAfterMs(header: string | null, nowMs: number): number | null {
  if (header === null) return null;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - nowMs);
}

/** What OpenSSL calls things, in words that say what to do. */
const CERTIFICATE_REASONS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'has expired',
  CERT_NOT_YET_VALID: 'is not valid yet; compare the clocks',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'is self-signed; name its authority in `caFile`',
  SELF_SIGNED_CERT_IN_CHAIN: 'is from an authority that this host does not trust; name it in `caFile`',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'is from an authority that this host does not trust; name it in `caFile`',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'is from an authority that this host does not trust; name it in `caFile`',
};

function reasonOf(error: unknown, hostname: string): string {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const certificate = CERTIFICATE_REASONS[code];
  return certificate === undefined ? messageOf(error) : `the certificate of ${hostname} ${certificate}`;
}
