import type { Duplex, Readable } from 'node:stream';

import { fail } from '../core/errors.ts';
import type { OutputChunk } from '../core/ports/engine.ts';
import { ATTACH_FRAMES } from './contract.ts';
import {
  FRAME,
  FrameDecoder,
  STDIN_WINDOW_BYTES,
  encodeFrame,
  encodeJsonFrame,
  encodeTaken,
  frameJson,
  splitPayload,
  type Frame,
} from './frames.ts';
import type { RunStreams } from './service.ts';
import { endConnection, writeSlowly } from './stream.ts';
import { toWireError } from './wire-error.ts';

const LAST_OUTPUT_MS = 1_000;

/**
 * One attached client, from the 101 to the outcome. Two loops run side by side: client → agent and agent → client. The
 * first to end ends both: the outcome was sent, the client left or broke the protocol, or the daemon stops. The run is
 * never ended from here: a client that leaves is not a reason in the contract.
 */
export async function serveAttach(options: {
  readonly socket: Duplex;
  readonly streams: RunStreams;
  /** Aborted when the daemon stops. */
  readonly signal: AbortSignal;
  readonly onError: (error: unknown) => void;
}): Promise<void> {
  const { socket, streams, signal, onError } = options;
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const stopped = Promise.withResolvers<never>();
  // A daemon that stops ends its runs first: their last output and outcome may still be on the way.
  const stop = () => {
    const late = setTimeout(
      () => stopped.reject(fail('DAEMON_NOT_RUNNING', { detail: 'the daemon is stopping' })),
      LAST_OUTPUT_MS,
    );
    void closed.then(() => clearTimeout(late));
  };
  if (signal.aborted) stop();
  signal.addEventListener('abort', stop, { once: true });
  const input = new StdinQueue({ streams, socket });
  try {
    await Promise.race([sendOutput(socket, streams), readClient({ socket, streams, input }), closed, stopped.promise]);
  } catch (error) {
    onError(error);
    await Promise.race([writeSlowly(socket, encodeJsonFrame(FRAME.error, { error: toWireError(error) })), closed]);
  } finally {
    signal.removeEventListener('abort', stop);
    input.close();
    streams.detach();
    endConnection(socket);
  }
}

async function sendOutput(socket: Duplex, streams: RunStreams): Promise<void> {
  // Read below; a rejection before that must not count as unhandled.
  streams.outcome.catch(() => undefined);
  for await (const chunk of streams.output) if (!(await sendChunk(socket, chunk))) return;
  await writeSlowly(socket, encodeJsonFrame(FRAME.outcome, await streams.outcome));
}

/** One chunk as frames, used by `logs` as well. False when the client is gone. */
export async function sendChunk(stream: Parameters<typeof writeSlowly>[0], chunk: OutputChunk): Promise<boolean> {
  const type = chunk.stream === 'stdout' ? FRAME.stdout : FRAME.stderr;
  for (const payload of splitPayload(chunk.bytes)) {
    if (!(await writeSlowly(stream, encodeFrame(type, payload)))) return false;
  }
  return true;
}

/** Resolves when the client has left; throws REQUEST_INVALID when it breaks the protocol. */
async function readClient(options: {
  readonly socket: Readable;
  readonly streams: RunStreams;
  readonly input: StdinQueue;
}): Promise<void> {
  const { socket, streams, input } = options;
  const decoder = new FrameDecoder();
  try {
    for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      for (const frame of decoder.push(chunk)) await takeFrame({ frame, streams, input });
    }
  } catch (error) {
    // A connection that breaks is a client that left.
    if (socket.destroyed) return;
    throw error;
  }
}

async function takeFrame(options: {
  readonly frame: Frame;
  readonly streams: RunStreams;
  readonly input: StdinQueue;
}): Promise<void> {
  const { frame, streams, input } = options;
  switch (frame.type) {
    case FRAME.stdin:
      input.push(frame.payload);
      return;
    case FRAME.stdinEnd:
      input.end();
      return;
    case FRAME.resize:
      await streams.resize(checkedFrame('resize', frame));
      return;
    case FRAME.signal:
      await streams.signal(checkedFrame('signal', frame).name);
      return;
    default:
      throw fail('REQUEST_INVALID', { detail: `a client may not send a frame of type ${frame.type}` });
  }
}

function checkedFrame<Name extends keyof typeof ATTACH_FRAMES>(
  name: Name,
  frame: Frame,
): ReturnType<(typeof ATTACH_FRAMES)[Name]['parse']> {
  const result = ATTACH_FRAMES[name].safeParse(frameJson(frame));
  if (result.success) return result.data as ReturnType<(typeof ATTACH_FRAMES)[Name]['parse']>;
  throw fail('REQUEST_INVALID', { detail: `frame ${name}: ${result.error.issues[0]?.message ?? 'invalid'}` });
}

/** Stdin on its way to the agent: bounded by the window, and apart from the signals that travel behind it. */
class StdinQueue {
  private readonly streams: RunStreams;
  private readonly socket: Duplex;
  private readonly payloads: Uint8Array[] = [];
  private bytes = 0;
  private state: 'open' | 'ending' | 'closed' = 'open';
  private pumping = false;

  constructor(options: { readonly streams: RunStreams; readonly socket: Duplex }) {
    this.streams = options.streams;
    this.socket = options.socket;
  }

  push(payload: Uint8Array): void {
    if (this.state !== 'open') throw fail('REQUEST_INVALID', { detail: 'stdin after its end' });
    if (this.bytes + payload.length > STDIN_WINDOW_BYTES) {
      throw fail('REQUEST_INVALID', { detail: `more than ${STDIN_WINDOW_BYTES} bytes of stdin that were not taken` });
    }
    this.bytes += payload.length;
    this.payloads.push(payload);
    // Failures are handled inside: the pump is the only one who writes.
    void this.pump();
  }

  end(): void {
    if (this.state !== 'open') return;
    this.state = 'ending';
    void this.pump();
  }

  close(): void {
    this.state = 'closed';
    this.payloads.length = 0;
  }

  private async pump(): Promise<void> {
    if (this.pumping) return;
    this.pumping = true;
    let agentReads = true;
    for (let payload = this.payloads.shift(); payload !== undefined; payload = this.payloads.shift()) {
      try {
        if (agentReads) await this.streams.write(payload);
      } catch {
        // The agent closed its stdin or is gone, which is its right: what still comes is taken and dropped.
        agentReads = false;
      }
      this.bytes -= payload.length;
      if (!(await writeSlowly(this.socket, encodeTaken(payload.length)))) break;
    }
    this.pumping = false;
    if (this.state === 'ending') {
      this.state = 'closed';
      this.streams.endInput();
    }
  }
}
