import { PassThrough } from 'node:stream';
import type { Readable } from 'node:stream';
import type { Socket } from 'node:net';
import { fail } from '../core/errors.ts';
import type { Attachment, LogOptions, OutputChunk } from '../core/ports/engine.ts';
import type { EngineClient } from './client.ts';
import { callError } from './failure.ts';
import { readFrames, readRaw } from './stream.ts';

/** How much output waits in this process for a slow reader; after that the agent's writes wait. */
const OUTPUT_BYTES_WAITING_MAX = 256 * 1024;

/**
 * The agent's terminal or pipes over an upgraded connection. Both outputs have to be read: while one is full, the
 * other one waits too.
 */
export async function attachTo(
  client: EngineClient,
  options: { readonly path: string; readonly tty: boolean; readonly stdin: boolean },
): Promise<Attachment> {
  const closing = new AbortController();
  const connection = await client.open({
    method: 'POST',
    path: `${options.path}/attach`,
    query: { stream: '1', stdout: '1', stderr: '1', ...(options.stdin ? { stdin: '1' } : {}) },
    upgrade: true,
    signal: closing.signal,
  });
  if (connection.kind !== 'upgraded') {
    connection.response.destroy();
    throw fail('ENGINE_FAILED', { detail: 'the engine did not hand over the connection for the agent’s output' });
  }
  const { socket } = connection;
  // A broken connection shows as an error of the outputs; without a listener here it would end the process.
  socket.on('error', () => undefined);
  const stdout = outputStream();
  const stderr = outputStream();
  // Ends by itself with the socket, and reports every failure through the streams.
  void pump({ socket, tty: options.tty, stdout, stderr });
  return { stdin: options.stdin ? socket : null, stdout, stderr, close: () => socket.destroy() };
}

function outputStream(): PassThrough {
  const stream = new PassThrough({ highWaterMark: OUTPUT_BYTES_WAITING_MAX });
  stream.on('error', () => undefined);
  return stream;
}

async function pump(options: {
  readonly socket: Socket;
  readonly tty: boolean;
  readonly stdout: PassThrough;
  readonly stderr: PassThrough;
}): Promise<void> {
  const { socket, stdout, stderr } = options;
  try {
    // Reading must not destroy the socket at the end: what the caller still writes would fail loudly for nothing.
    const bytes = socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
    for await (const chunk of options.tty ? readRaw(bytes) : readFrames(bytes)) {
      const target = chunk.stream === 'stderr' ? stderr : stdout;
      if (!target.write(chunk.bytes)) await drained(target);
    }
    stdout.end();
    stderr.end();
  } catch (error) {
    const failure = callError(error, { call: 'attach', timeoutMs: 0 });
    stdout.destroy(failure);
    stderr.destroy(failure);
  } finally {
    socket.destroy();
  }
}

function drained(stream: PassThrough): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.once('drain', resolve);
  stream.once('close', resolve);
  return promise;
}

/** The engine's log of a container, from the beginning or the last lines, parsed by the same rules as attach. */
export async function* readLogs(
  client: EngineClient,
  options: LogOptions & { readonly path: string; readonly tty: boolean },
): AsyncIterable<OutputChunk> {
  let source: Readable | null = null;
  try {
    const connection = await client.open({
      method: 'GET',
      path: `${options.path}/logs`,
      query: {
        stdout: '1',
        stderr: '1',
        follow: options.follow ? '1' : '0',
        tail: options.tailLines === null ? 'all' : String(options.tailLines),
      },
      upgrade: false,
      headersMayWait: options.follow,
      signal: options.signal,
    });
    source = connection.kind === 'response' ? connection.response : connection.socket;
    yield* options.tty ? readRaw(source) : readFrames(source);
  } catch (error) {
    if (!options.signal.aborted) throw callError(error, { call: `GET ${options.path}/logs`, timeoutMs: 0 });
  } finally {
    source?.destroy();
  }
}
