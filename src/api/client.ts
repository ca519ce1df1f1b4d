import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';

import { fail, type RingfenceError } from '../core/errors.ts';
import type { OutboxListing, RetrySelection, SinkTestResult } from '../core/ports/alert.ts';
import type { OutputChunk } from '../core/ports/engine.ts';
import type { LedgerRecord } from '../core/ports/record.ts';
import type { Outcome } from '../core/outcome.ts';
import { attachOver, type AttachedRun } from './attach-client.ts';
import type { Answers } from './contract.ts';
import {
  ATTACH_PROTOCOL,
  ENDPOINTS,
  JSON_TYPE,
  SOCKET_PATH_BYTES_MAX,
  pathOf,
  type EndpointName,
} from './endpoints.ts';
import { FRAME, FrameDecoder, frameJson } from './frames.ts';
import type {
  Approval,
  DoctorReport,
  EventsRequest,
  Explanation,
  Health,
  Incident,
  IncidentSummary,
  LedgerCheckpoint,
  LaunchRequest,
  LogsRequest,
  ReloadReport,
  ReloadRequest,
  RunDetail,
  RunView,
} from './service.ts';
import { fromWireError } from './wire-error.ts';

/**
 * The daemon as functions. The command line, the tests and every later surface use this one client. It loads no schema
 * library, so that a command starts fast: the daemon checks what it gets. Every failure is a RingfenceError.
 */
export type Client = {
  health(): Promise<Health>;
  launch(request: LaunchRequest, signal?: AbortSignal): Promise<RunView>;
  attach(run: string): Promise<AttachedRun>;
  list(options: { readonly all: boolean }): Promise<readonly RunView[]>;
  inspect(run: string): Promise<RunDetail>;
  wait(run: string, signal?: AbortSignal): Promise<Outcome>;
  stop(run: string): Promise<void>;
  kill(run: string): Promise<void>;
  resume(run: string): Promise<void>;
  reload(request: ReloadRequest): Promise<ReloadReport>;
  approvals(options: { readonly all: boolean }): Promise<readonly Approval[]>;
  /** `forSeconds: null`: the time that the daemon's configuration says. */
  approve(id: string, options: { readonly forSeconds: number | null }): Promise<Approval>;
  deny(id: string, options: { readonly reason: string | null }): Promise<Approval>;
  logs(run: string, options: LogsRequest, signal?: AbortSignal): AsyncIterable<OutputChunk>;
  events(options: EventsRequest, signal?: AbortSignal): AsyncIterable<LedgerRecord>;
  incidents(): Promise<readonly IncidentSummary[]>;
  incident(id: string): Promise<Incident>;
  why(reference: string): Promise<Explanation>;
  release(profile: string): Promise<void>;
  doctor(): Promise<DoctorReport>;
  gc(): Promise<{ readonly removed: readonly string[] }>;
  checkpoint(): Promise<LedgerCheckpoint>;
  rotateKey(): Promise<{ readonly key: string }>;
  alerts(): Promise<OutboxListing>;
  testAlert(sink: string): Promise<SinkTestResult>;
  retryAlerts(which: RetrySelection): Promise<{ readonly retried: number }>;
  metrics(): Promise<string>;
};

// Longer than the daemon needs for anything but a wait: the slowest is a launch with a cold image.
const ANSWER_MS_MAX = 180_000;
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;
const RECORD_CHARS_MAX = 4 * 1024 * 1024;

export function connectClient(options: { readonly socketPath: string }): Client {
  const { socketPath } = options;
  if (Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX) {
    throw fail('REQUEST_INVALID', {
      detail: `the socket path is longer than ${SOCKET_PATH_BYTES_MAX} bytes`,
      hint: 'give a shorter one with `--socket` or RINGFENCE_SOCKET',
    });
  }
  const json = <Name extends keyof Answers>(name: Name, call: Call = {}) => answerJson(socketPath, name, call);
  return {
    health: () => json('health'),
    launch: (body, signal) => json('launch', { body, signal }),
    attach: (run) => attach(socketPath, run),
    list: ({ all }) => json('list', { query: { all: all ? 'true' : null } }),
    inspect: (run) => json('inspect', { params: { run } }),
    wait: (run, signal) => json('wait', { params: { run }, signal, endless: true }),
    stop: async (run) => void (await json('stop', { params: { run } })),
    kill: async (run) => void (await json('kill', { params: { run } })),
    resume: async (run) => void (await json('resume', { params: { run } })),
    reload: (body) => json('reload', { body }),
    approvals: ({ all }) => json('approvals', { query: { all: all ? 'true' : null } }),
    approve: (id, body) => json('approve', { params: { id }, body }),
    deny: (id, body) => json('deny', { params: { id }, body }),
    logs: (run, { follow, tailLines }, signal) =>
      answerOutput(socketPath, {
        params: { run },
        query: { follow: follow ? 'true' : null, tail: tailLines === null ? null : String(tailLines) },
        signal,
      }),
    events: ({ follow, sinceMs, run }, signal) =>
      answerRecords(socketPath, {
        query: { follow: follow ? 'true' : null, since: sinceMs === null ? null : String(sinceMs), run },
        signal,
      }),
    incidents: () => json('incidents'),
    incident: (id) => json('incident', { params: { id } }),
    why: (reference) => json('why', { params: { reference } }),
    release: async (profile) => void (await json('release', { params: { profile } })),
    doctor: () => json('doctor'),
    gc: () => json('gc'),
    checkpoint: () => json('checkpoint'),
    rotateKey: () => json('rotateKey'),
    alerts: () => json('alerts'),
    testAlert: (sink) => json('testAlert', { body: { sink } }),
    retryAlerts: (which) => json('retryAlerts', { body: which }),
    metrics: () => answerText(socketPath, 'metrics'),
  };
}

type Call = {
  readonly params?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | null>>;
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
  /** No deadline: for what ends when a run does. */
  readonly endless?: boolean;
};

async function answerJson<Name extends keyof Answers>(
  socketPath: string,
  name: Name,
  call: Call,
): Promise<Answers[Name]> {
  const deadline = call.endless === true ? undefined : AbortSignal.timeout(ANSWER_MS_MAX);
  const signals = [call.signal, deadline].filter((signal) => signal !== undefined);
  const signal = signals.length === 0 ? undefined : AbortSignal.any(signals);
  const response = await open(socketPath, name, { ...call, signal });
  return (await readJson(response, socketPath)) as Answers[Name];
}

async function answerText(socketPath: string, name: EndpointName): Promise<string> {
  const signal = AbortSignal.timeout(ANSWER_MS_MAX);
  return await readText(await open(socketPath, name, { signal }), socketPath);
}

async function* answerRecords(socketPath: string, call: Call): AsyncGenerator<LedgerRecord> {
  const response = await open(socketPath, 'events', call);
  for await (const line of linesOf(response, socketPath)) {
    const value = JSON.parse(line) as LedgerRecord | { readonly error: unknown };
    if (!('seq' in value)) throw fromWireError(value);
    yield value;
  }
}

async function* answerOutput(socketPath: string, call: Call): AsyncGenerator<OutputChunk> {
  const response = await open(socketPath, 'logs', call);
  const decoder = new FrameDecoder();
  for await (const chunk of chunksOf(response, socketPath)) {
    for (const frame of decoder.push(chunk)) {
      if (frame.type === FRAME.error) throw fromWireError(frameJson(frame));
      yield { stream: frame.type === FRAME.stderr ? 'stderr' : 'stdout', bytes: frame.payload };
    }
  }
}

/** Sends the request; resolves with an answer of status 200, throws what the daemon answered otherwise. */
function open(socketPath: string, name: EndpointName, call: Call): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const body = call.body === undefined ? null : Buffer.from(JSON.stringify(call.body));
    const request = startRequest({
      socketPath,
      name,
      call,
      headers: body === null ? {} : { 'content-type': JSON_TYPE, 'content-length': String(body.length) },
    });
    request.once('error', (error) => {
      const reason: unknown = call.signal?.aborted === true ? call.signal.reason : null;
      const leftByCaller = reason !== null && !(reason instanceof Error && reason.name === 'TimeoutError');
      reject(leftByCaller ? error : connectionFault(error, socketPath));
    });
    request.once('response', (response) => {
      if (response.statusCode === 200) resolve(response);
      else readJson(response, socketPath).then((value) => reject(fromWireError(value)), reject);
    });
    request.end(body ?? undefined);
  });
}

function attach(socketPath: string, run: string): Promise<AttachedRun> {
  return new Promise((resolve, reject) => {
    const request = startRequest({
      socketPath,
      name: 'attach',
      call: { params: { run } },
      headers: { connection: 'Upgrade', upgrade: ATTACH_PROTOCOL },
    });
    request.once('error', (error) => reject(connectionFault(error, socketPath)));
    request.once('response', (response) => {
      readJson(response, socketPath).then((value) => reject(fromWireError(value)), reject);
    });
    request.once('upgrade', (_, socket, head) => {
      if (head.length > 0) socket.unshift(head);
      resolve(attachOver(socket));
    });
    request.end();
  });
}

function startRequest(options: {
  readonly socketPath: string;
  readonly name: EndpointName;
  readonly call: Call;
  readonly headers: Readonly<Record<string, string>>;
}): ClientRequest {
  const { socketPath, name, call, headers } = options;
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(call.query ?? {})) if (value !== null) query.set(key, value);
  const path = pathOf(name, call.params ?? {});
  return httpRequest({
    socketPath,
    method: ENDPOINTS[name].method,
    path: query.size === 0 ? path : `${path}?${query.toString()}`,
    headers: { host: 'ringfence', ...headers },
    agent: false,
    ...(call.signal === undefined ? {} : { signal: call.signal }),
  });
}

async function readText(response: IncomingMessage, socketPath: string): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of chunksOf(response, socketPath)) {
    bytes += chunk.length;
    if (bytes > ANSWER_BYTES_MAX) throw fail('INTERNAL', { detail: 'the daemon answered more than any answer holds' });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

async function readJson(response: IncomingMessage, socketPath: string): Promise<unknown> {
  const text = await readText(response, socketPath);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw fail('INTERNAL', { detail: `something other than the daemon answers on ${socketPath}` }, { cause });
  }
}

async function* linesOf(response: IncomingMessage, socketPath: string): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of chunksOf(response, socketPath)) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > RECORD_CHARS_MAX) throw fail('INTERNAL', { detail: 'a record longer than any record is' });
    for (const line of lines) if (line !== '') yield line;
  }
}

async function* chunksOf(response: IncomingMessage, socketPath: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) yield chunk;
  } catch (error) {
    throw connectionFault(error as NodeJS.ErrnoException, socketPath);
  }
}

/** Why the daemon could not be reached, in words that say what to do. */
function connectionFault(error: NodeJS.ErrnoException, socketPath: string): RingfenceError {
  const facts = { socketPath, cause: error.code ?? error.name };
  switch (error.code) {
    case 'ENOENT':
      return fail(
        'DAEMON_NOT_RUNNING',
        { ...facts, detail: `the daemon is not running: there is no ${socketPath}` },
        { cause: error },
      );
    case 'ECONNREFUSED':
      return fail(
        'DAEMON_NOT_RUNNING',
        { ...facts, detail: `the daemon is not running: nobody answers on ${socketPath}` },
        { cause: error },
      );
    case 'EACCES':
    case 'EPERM':
      return fail(
        'DAEMON_NOT_RUNNING',
        {
          ...facts,
          detail: `you may not use ${socketPath}: permission denied`,
          hint: `join the group that owns the socket (\`ls -l ${socketPath}\`), or run the command as root`,
        },
        { cause: error },
      );
    case 'ECONNRESET':
    case 'EPIPE':
      return fail('DAEMON_NOT_RUNNING', { ...facts, detail: 'the daemon closed the connection' }, { cause: error });
    case 'ABORT_ERR':
      return fail('DAEMON_NOT_RUNNING', { ...facts, detail: 'the daemon did not answer in time' }, { cause: error });
    default:
      return fail(
        'DAEMON_NOT_RUNNING',
        { ...facts, detail: `cannot reach the daemon on ${socketPath}: ${error.message}` },
        { cause: error },
      );
  }
}
