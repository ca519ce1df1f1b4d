import Docker from 'dockerode';
import { Agent, request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { fail } from '../core/errors.ts';
import { callError, connectionLost } from './failure.ts';

/**
 * The two ways to talk to the engine. Ordinary calls go through dockerode's transport; what stays open (events, logs,
 * attach) goes through `node:http`, because dockerode's stream handling loses its place on bad frames and its time-out
 * would end long streams. The body of a call never goes into the query string (dockerode's own `createContainer` puts
 * it there too, where the engine's debug log would show it).
 */
export type EngineCall = {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly timeoutMs?: number;
  /** True when doing it twice is the same as doing it once: then a lost connection is tried once more. */
  readonly repeatable: boolean;
};

export type EngineStream = {
  readonly method: 'GET' | 'POST' | 'HEAD';
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
  readonly upgrade: boolean;
  /** Newer engines send the headers of a followed log with its first line, which may be hours away. */
  readonly headersMayWait?: boolean;
  readonly signal: AbortSignal;
};

export type Connection =
  | { readonly kind: 'response'; readonly response: IncomingMessage }
  | { readonly kind: 'upgraded'; readonly socket: Socket };

export type EngineClient = {
  call(call: EngineCall): Promise<unknown>;
  /** Resolves when the headers are there; the body may then last as long as it likes. */
  open(stream: EngineStream): Promise<Connection>;
  apiVersion(): Promise<string>;
  close(): void;
};

/** An engine under heavy load has taken 6 s to answer a list; a call that takes longer is lost. */
const CALL_MS = 15_000;

const SOCKETS_MAX = 32;
/** For the next call; what a burst needed more is given back. */
const SOCKETS_KEPT_MAX = 4;

/** The newest API this adapter was written for, and the oldest that has private cgroup namespaces (engine 20.10). */
const API_NEWEST = '1.51';
const API_OLDEST = '1.41';

const ERROR_BODY_BYTES_MAX = 16 * 1024;

export function createEngineClient(socketPath: string): EngineClient {
  const agent = new Agent({ keepAlive: true, maxSockets: SOCKETS_MAX, maxFreeSockets: SOCKETS_KEPT_MAX });
  // `host` is emptied because dockerode would otherwise prefer the DOCKER_HOST of the environment to this socket.
  const { modem } = new Docker({ socketPath, host: '', protocol: 'http', agent } as Docker.DockerOptions) as {
    modem: Modem;
  };
  let negotiated: Promise<string> | null = null;

  async function send(call: EngineCall, version: string | null): Promise<unknown> {
    const prefix = version === null ? '' : `/v${version}`;
    const timeoutMs = call.timeoutMs ?? CALL_MS;
    const deadline = AbortSignal.timeout(timeoutMs);
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    // The transport never calls back when the connection breaks inside a response, so the deadline also ends the wait.
    deadline.addEventListener('abort', () => reject(deadline.reason as Error), { once: true });
    modem.dial(
      {
        path: `${prefix}${call.path}?`,
        method: call.method,
        options: { _query: call.query ?? {}, _body: call.body ?? {} },
        abortSignal: deadline,
        statusCodes: { 200: true, 201: true, 204: true, 304: true },
      },
      (error, data) => (error === null || error === undefined ? resolve(data) : reject(error)),
    );
    try {
      return await promise;
    } catch (error) {
      throw callError(error, { call: `${call.method} ${call.path}`, timeoutMs });
    }
  }

  async function sendRepeatably(call: EngineCall, version: string | null): Promise<unknown> {
    try {
      return await send(call, version);
    } catch (error) {
      if (!connectionLost(error)) throw error;
      negotiated = null;
      if (!call.repeatable) throw error;
      // A restarted engine closes the sockets that were kept open; the second attempt is made on a new one.
      return await send(call, version);
    }
  }

  function apiVersion(): Promise<string> {
    negotiated ??= negotiate(sendRepeatably).catch((error: unknown) => {
      negotiated = null;
      throw error;
    });
    return negotiated;
  }

  return {
    apiVersion,
    call: async (call) => await sendRepeatably(call, await apiVersion()),
    open: async (stream) => await open({ socketPath, stream, version: await apiVersion() }),
    close: () => agent.destroy(),
  };
}

type Modem = {
  dial(
    options: {
      readonly path: string;
      readonly method: string;
      readonly options: unknown;
      readonly abortSignal: AbortSignal;
      readonly statusCodes: Readonly<Record<number, true>>;
    },
    callback: (error: unknown, data: unknown) => void,
  ): void;
};

async function negotiate(send: (call: EngineCall, version: null) => Promise<unknown>): Promise<string> {
  const answer = (await send({ method: 'GET', path: '/version', repeatable: true }, null)) as {
    ApiVersion?: unknown;
    MinAPIVersion?: unknown;
  };
  const newest = typeof answer.ApiVersion === 'string' ? answer.ApiVersion : '';
  const oldest = typeof answer.MinAPIVersion === 'string' ? answer.MinAPIVersion : '1.12';
  if (!/^\d+\.\d+$/.test(newest)) {
    throw fail('ENGINE_FAILED', { detail: 'what answers on the engine’s socket is not a container engine' });
  }
  const version = minorOf(newest) < minorOf(API_NEWEST) ? newest : API_NEWEST;
  if (minorOf(version) < minorOf(API_OLDEST) || minorOf(version) < minorOf(oldest)) {
    throw fail('ENGINE_FAILED', {
      detail: `the engine speaks API ${oldest} to ${newest}; this version needs one of ${API_OLDEST} to ${API_NEWEST}`,
      hint: 'install an engine of version 20.10 or newer',
    });
  }
  return version;
}

function minorOf(version: string): number {
  const [major, minor] = version.split('.').map(Number);
  return (major ?? 0) * 1000 + (minor ?? 0);
}

async function open(options: {
  readonly socketPath: string;
  readonly stream: EngineStream;
  readonly version: string;
}): Promise<Connection> {
  const { stream } = options;
  const call = `${stream.method} ${stream.path}`;
  const query = new URLSearchParams(stream.query).toString();
  const { promise, resolve, reject } = Promise.withResolvers<Connection>();
  const outgoing = request({
    socketPath: options.socketPath,
    method: stream.method,
    path: `/v${options.version}${stream.path}${query === '' ? '' : `?${query}`}`,
    headers: stream.upgrade ? { Connection: 'Upgrade', Upgrade: 'tcp', Host: 'engine' } : { Host: 'engine' },
    agent: false,
    signal: stream.signal,
  });
  const expire = (): void => void outgoing.destroy(new DOMException('no headers', 'TimeoutError'));
  const timer = stream.headersMayWait === true ? undefined : setTimeout(expire, CALL_MS);
  outgoing.on('error', (error) => reject(callError(error, { call, timeoutMs: CALL_MS })));
  outgoing.on('upgrade', (_response, socket, head) => {
    if (head.length > 0) socket.unshift(head);
    resolve({ kind: 'upgraded', socket });
  });
  outgoing.on('response', (response) => {
    if (response.statusCode === 200) resolve({ kind: 'response', response });
    else void refusal(response, call).then(reject); // `refusal` never rejects.
  });
  outgoing.end();
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

async function refusal(response: IncomingMessage, call: string): Promise<Error> {
  let body = '';
  try {
    for await (const bytes of response) {
      body += String(bytes);
      if (body.length > ERROR_BODY_BYTES_MAX) break;
    }
  } catch {
    // The status says enough; the engine's sentence is lost with the connection.
  }
  return callError({ statusCode: response.statusCode, json: parsed(body) }, { call, timeoutMs: CALL_MS });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return { message: text };
  }
}
