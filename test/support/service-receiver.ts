import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';

/** One request to a stand-in of a service, and what its rules say about it. */
export type ServiceRequest = {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  /** Parsed, or undefined when it is no JSON. */
  readonly json: unknown;
  readonly bytes: number;
};

export type ServiceAnswer = {
  readonly status: number;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
};

export type ServiceReceiver = AsyncDisposable & {
  readonly port: number;
  readonly requests: readonly ServiceRequest[];
  /** What the rules of the service said to each request. */
  readonly answers: readonly ServiceAnswer[];
  /** The next requests get these answers, whatever is in them. */
  answerNext(...answers: readonly ServiceAnswer[]): void;
};

const BODY_BYTES_MAX = 4 * 1024 * 1024;

/** An HTTP server on loopback that answers as `judge` says. */
export async function startService(judge: (request: ServiceRequest) => ServiceAnswer): Promise<ServiceReceiver> {
  const requests: ServiceRequest[] = [];
  const answers: ServiceAnswer[] = [];
  const next: ServiceAnswer[] = [];
  const server = createServer((incoming, response) => {
    void readBody(incoming).then((body) => {
      const request: ServiceRequest = {
        method: incoming.method ?? '',
        path: incoming.url ?? '',
        headers: incoming.headers,
        json: parsed(body),
        bytes: Buffer.byteLength(body),
      };
      requests.push(request);
      const answer = next.shift() ?? judge(request);
      answers.push(answer);
      response.writeHead(answer.status, answer.headers).end(answer.body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    requests,
    answers,
    answerNext: (...some) => void next.push(...some),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += (chunk as Buffer).length;
    if (bytes > BODY_BYTES_MAX) throw new Error(`a body of more than ${BODY_BYTES_MAX} bytes`);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The first key that is not among the known ones. */
export function unknownKey(value: Readonly<Record<string, unknown>>, known: readonly string[]): string | null {
  return Object.keys(value).find((key) => !known.includes(key)) ?? null;
}

export function isMoment(value: unknown): boolean {
  const pattern = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$/;
  return typeof value === 'string' && pattern.test(value) && !Number.isNaN(Date.parse(value));
}
