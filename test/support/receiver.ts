import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';

/** One request as it came, and what an implementation that is not ours says about its signature. */
export type Delivery = {
  readonly at: string;
  readonly id: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly verified: boolean;
  readonly refusal: string | null;
  readonly answered: number;
};

export type Answer = {
  readonly status: number;
  readonly delayMs?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
};

export type Receiver = AsyncDisposable & {
  readonly url: string;
  /** In the form the standard gives secrets: `whsec_` and base64. */
  readonly secret: string;
  readonly deliveries: readonly Delivery[];
  /** The next requests get these answers in turn, then 204 again. */
  answerNext(...answers: readonly Answer[]): void;
  close(): Promise<void>;
};

const BODY_BYTES_MAX = 1024 * 1024;
const ACCEPTED: Answer = { status: 204 };

/** A webhook receiver on this host that checks signatures with the `standardwebhooks` package. */
export async function startReceiver(
  options: { readonly port?: number; readonly secret?: string } = {},
): Promise<Receiver> {
  const secret = options.secret ?? `whsec_${randomBytes(24).toString('base64')}`;
  const deliveries: Delivery[] = [];
  const queue: Answer[] = [];

  const receive = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = await readBody(request);
    const answer = queue.shift() ?? ACCEPTED;
    deliveries.push(describe({ request, body, secret, answer }));
    // The delay is part of the behaviour asked for, not a wait for something.
    setTimeout(() => response.writeHead(answer.status, answer.headers).end(answer.body), answer.delayMs ?? 0);
  };

  const server = createServer((request, response) => {
    receive(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port: options.port ?? 0 }, resolve);
  });

  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    secret,
    deliveries,
    answerNext: (...answers) => void queue.push(...answers),
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += (chunk as Buffer).length;
    if (bytes > BODY_BYTES_MAX) throw new Error(`a webhook body of more than ${BODY_BYTES_MAX} bytes`);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function describe(received: {
  readonly request: IncomingMessage;
  readonly body: string;
  readonly secret: string;
  readonly answer: Answer;
}): Delivery {
  const headers = Object.fromEntries(
    Object.entries(received.request.headers).map(([name, value]) => [name, String(value)]),
  );
  const refusal = verify({ headers, body: received.body, secret: received.secret });
  return {
    at: new Date().toISOString(),
    id: headers['webhook-id'] ?? '',
    headers,
    body: received.body,
    verified: refusal === null,
    refusal,
    answered: received.answer.status,
  };
}

function verify(message: {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly secret: string;
}): string | null {
  try {
    new Webhook(message.secret).verify(message.body, { ...message.headers });
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
