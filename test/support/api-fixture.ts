import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { connectClient, type Client } from '../../src/api/client.ts';
import { createApiServer, type ApiServer, type ApiServerOptions } from '../../src/api/server.ts';
import type { Caller } from '../../src/api/service.ts';
import { FakeService } from './fake-service.ts';

export const FAKE_CALLER: Caller = { uid: 1000, gid: 1000, pid: 77 };

export type ApiFixture = {
  readonly service: FakeService;
  readonly server: ApiServer;
  readonly client: Client;
  readonly socketPath: string;
  readonly directory: string;
  readonly logged: string[];
  [Symbol.asyncDispose](): Promise<void>;
};

/** The real server over a real socket in a folder of its own, in front of a fake service. */
export async function startApi(options: Partial<ApiServerOptions> = {}): Promise<ApiFixture> {
  const directory = await mkdtemp(join(tmpdir(), 'rf-api-'));
  const socketPath = join(directory, 'run', 'd.sock');
  const service = new FakeService();
  const logged: string[] = [];
  const server = createApiServer({
    service,
    socketPath,
    socketMode: 0o660,
    socketGroup: null,
    peerOf: () => FAKE_CALLER,
    log: {
      warn: (_, message) => void logged.push(`warn ${message}`),
      error: (facts, message) => void logged.push(`error ${message} ${String((facts as { err?: unknown }).err)}`),
    },
    ...options,
  });
  try {
    await server.listen();
  } catch (error) {
    await rm(directory, { recursive: true });
    throw error;
  }
  return {
    service,
    server,
    client: connectClient({ socketPath }),
    socketPath,
    directory,
    logged,
    async [Symbol.asyncDispose]() {
      await server.close();
      await rm(directory, { recursive: true });
    },
  };
}

/** A client without manners: bytes in, everything that comes back until the server closes (or the deadline). */
export function rawExchange(
  socketPath: string,
  bytes: string | Uint8Array,
  deadlineMs = 10_000,
): Promise<{ readonly text: string; readonly closed: boolean }> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    let text = '';
    const deadline = setTimeout(() => settle(false), deadlineMs);
    const settle = (closed: boolean) => {
      clearTimeout(deadline);
      socket.destroy();
      resolve({ text, closed });
    };
    socket.on('data', (chunk) => (text += chunk.toString('utf8')));
    socket.once('close', () => settle(true));
    socket.on('error', () => undefined);
    socket.write(bytes);
  });
}

export function openSocket(socketPath: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath, () => resolve(socket));
    socket.once('error', reject);
  });
}

/** Waits for a fact, with a deadline; the only kind of waiting that tests do. */
export async function until(fact: () => boolean, what: string, deadlineMs = 5_000): Promise<void> {
  const endsAt = performance.now() + deadlineMs;
  while (!fact()) {
    if (performance.now() > endsAt) throw new Error(`did not come true in ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
