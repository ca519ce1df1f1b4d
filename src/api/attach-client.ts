import type { Duplex } from 'node:stream';

import { fail } from '../core/errors.ts';
import type { Outcome } from '../core/outcome.ts';
import type { OutputChunk } from '../core/ports/engine.ts';
import {
  FRAME,
  FrameDecoder,
  STDIN_WINDOW_BYTES,
  encodeFrame,
  encodeJsonFrame,
  frameJson,
  frameTaken,
  splitPayload,
} from './frames.ts';
import { writeSlowly } from './stream.ts';
import { fromWireError } from './wire-error.ts';

/** The client's end of an attach. `output` must be read to its end: `outcome` settles there. */
export type AttachedRun = {
  readonly output: AsyncIterable<OutputChunk>;
  readonly outcome: Promise<Outcome>;
  /** Resolves when more may be written: the agent decides the pace. False when nobody takes it any more. */
  write(bytes: Uint8Array): Promise<boolean>;
  endInput(): void;
  resize(size: { readonly columns: number; readonly rows: number }): void;
  signal(name: string): void;
  /** Leaves; the run goes on. */
  close(): void;
};

export function attachOver(socket: Duplex): AttachedRun {
  const window = new StdinWindow();
  const outcome = Promise.withResolvers<Outcome>();
  // The reader of `output` gets the same failure; a caller who only reads must not see it as unhandled.
  outcome.promise.catch(() => undefined);
  socket.once('close', () => window.close());
  // Reported by the end of the output.
  socket.on('error', () => undefined);
  return {
    output: readOutput({ socket, window, outcome }),
    outcome: outcome.promise,
    async write(bytes) {
      for (const payload of splitPayload(bytes)) {
        if (!(await window.take(payload.length))) return false;
        if (!(await writeSlowly(socket, encodeFrame(FRAME.stdin, payload)))) return false;
      }
      return true;
    },
    endInput: () => send(socket, encodeFrame(FRAME.stdinEnd, new Uint8Array(0))),
    resize: (size) => send(socket, encodeJsonFrame(FRAME.resize, size)),
    signal: (name) => send(socket, encodeJsonFrame(FRAME.signal, { name })),
    close: () => {
      window.close();
      socket.destroy();
    },
  };
}

function send(socket: Duplex, bytes: Uint8Array): void {
  if (!socket.destroyed && !socket.writableEnded) socket.write(bytes);
}

async function* readOutput(options: {
  readonly socket: Duplex;
  readonly window: StdinWindow;
  readonly outcome: PromiseWithResolvers<Outcome>;
}): AsyncGenerator<OutputChunk> {
  const { socket, window, outcome } = options;
  const decoder = new FrameDecoder();
  try {
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      for (const frame of decoder.push(chunk)) {
        if (frame.type === FRAME.stdout) yield { stream: 'stdout', bytes: frame.payload };
        else if (frame.type === FRAME.stderr) yield { stream: 'stderr', bytes: frame.payload };
        else if (frame.type === FRAME.stdinTaken) window.taken(frameTaken(frame));
        else if (frame.type === FRAME.error) throw fromWireError(frameJson(frame));
        else if (frame.type === FRAME.outcome) {
          outcome.resolve(frameJson(frame) as Outcome);
          return;
        }
      }
    }
    throw fail('DAEMON_NOT_RUNNING', { detail: 'the daemon closed the connection; the run goes on under its limits' });
  } catch (error) {
    const shown = error instanceof Error && error.name === 'RingfenceError' ? error : lost(error);
    outcome.reject(shown);
    throw shown;
  } finally {
    window.close();
    socket.destroy();
  }
}

function lost(cause: unknown): Error {
  return fail(
    'DAEMON_NOT_RUNNING',
    { detail: 'the connection to the daemon broke; the run goes on under its limits' },
    { cause },
  );
}

/** How much may still be sent before the agent has taken some. One writer at a time. */
class StdinWindow {
  private free = STDIN_WINDOW_BYTES;
  private open = true;
  private wake: (() => void) | null = null;

  async take(bytes: number): Promise<boolean> {
    while (this.open && this.free < bytes) {
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
    if (!this.open) return false;
    this.free -= bytes;
    return true;
  }

  taken(bytes: number): void {
    this.free = Math.min(STDIN_WINDOW_BYTES, this.free + bytes);
    this.wake?.();
  }

  close(): void {
    this.open = false;
    this.wake?.();
  }
}
